"""NF4, the 4-bit number for normally distributed weights. Dettmers et al. 2023, "QLoRA", section 3 and appendix E.

    weight ≈ scale · level              level: one of 16 numbers in [-1, 1]; scale: the largest magnitude of 64 weights

Trained weights are distributed like a bell curve, so equally spaced levels waste codes on its thin ends. NF4's 16
levels are quantiles of the normal distribution instead: they are placed so that each one stands for about the same
share of the area under the bell, 6 to 7 %. They are crowded around 0 and far apart at the ends. The 4 bits of a weight
are the number of its level, 0 to 15.

*In four lines*, for a group of four weights:

    >>> weights, levels = np.array([2.0, -1.0, 0.1, 0.0]), nf4_levels()
    >>> scale = np.abs(weights).max()
    >>> codes = np.abs(weights[:, None] / scale - levels).argmin(axis=1)  # the nearest of the 16 levels
    >>> print(codes, (scale * levels[codes]).round(3))
    [15  2  8  7] [ 2.    -1.05   0.159  0.   ]

*Double quantization* also quantizes the scales. With blocks of 64 numbers, a float32 scale costs 32 / 64 = 0.5 bit per
number. Most scales are close to each other, so their mean is subtracted and the rest is stored in 8 bits, in blocks of
256 that have a scale of their own: 8 / 64 + 32 / (64 · 256) = 0.127 bit. The 8 bits are a small floating-point number
whose levels are closer together near 0 (Dettmers 2016, "8-bit approximations for parallelism in deep learning"). The
table is that of bitsandbytes.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from minigrad import nn
from minigrad.backend import Array, module_of

from .array import QuantizedArray, in_groups

BLOCK = 64  # weights that share a scale
SCALES_PER_BLOCK = 256  # scales that share a scale, in double quantization
TINY = np.float32(1e-38)  # takes the place of a scale of 0, by which one cannot divide
# The share of all numbers that are smaller than the largest level. It cannot be 1, whose quantile is infinite. The
# authors' code cuts the area under the bell into 15 and into 16 equal shares: the last share's middle is 1 - 1/30 or
# 1 - 1/32. It takes the average of both.
OUTERMOST = ((1 - 1 / 30) + (1 - 1 / 32)) / 2  # 0.9677083


def nf4_levels() -> np.ndarray:
    """The 16 levels, sorted, float32: 8 above 0, 7 below, and 0 itself, which makes 0 exact.

    Let Q be the quantile function of the normal distribution: a share p of all numbers is smaller than Q(p). The levels
    above 0 are Q(p), with p in 8 equal steps from 1/2, where Q is 0, to OUTERMOST. Those below 0 are -Q(p), with p in
    7 equal steps over the same range. All are divided by Q(OUTERMOST), so the ends are -1 and 1.

    >>> levels = nf4_levels()
    >>> print(levels.round(3))
    [-1.    -0.696 -0.525 -0.395 -0.284 -0.185 -0.091  0.     0.08   0.161
      0.246  0.338  0.441  0.563  0.723  1.   ]

    Each level stands for the numbers that are nearest to it. For the 14 levels between the ends, their share of the
    bell is about a step of p: (OUTERMOST - 1/2) / 7 = 0.067 below 0 and (OUTERMOST - 1/2) / 8 = 0.058 above.

    >>> bell = NormalDist()
    >>> borders = (levels[:-1] + levels[1:]) / 2       # halfway from level to level
    >>> borders = borders * bell.inv_cdf(OUTERMOST)    # undoes the division
    >>> print(np.diff([bell.cdf(x) for x in borders]).round(3))
    [0.071 0.068 0.067 0.067 0.067 0.067 0.063 0.059 0.059 0.059 0.059 0.059
     0.06  0.062]
    """
    quantile = NormalDist().inv_cdf
    positive = [quantile(p) for p in np.linspace(0.5, OUTERMOST, 9)[1:]]
    negative = [-quantile(p) for p in np.linspace(0.5, OUTERMOST, 8)[1:]]
    return (np.array(negative[::-1] + [0.0] + positive) / quantile(OUTERMOST)).astype(np.float32)


def nf4(values: np.ndarray, group_size: int = BLOCK, double_quant: bool = True) -> QuantizedArray:
    """Divide each number by the largest magnitude of its group, and round it to the nearest of the 16 levels.

    values: a matrix (R, K). group_size: numbers in a row that share a scale; WHOLE_ROW (-1) for a whole row,
    WHOLE_ARRAY (0) for the whole matrix. double_quant: also store the scales in 8 bits (`quantize_scales`). Raises
    ValueError for numbers that are not finite and for a group size that does not divide the row.

    >>> q = nf4(np.array([[2.0, -1.0, 0.1, 0.0]]), group_size=4, double_quant=False)
    >>> print(q.codes)  # the codes 15, 2, 8, 7, two in a byte: 15 · 16 + 2 = 242, 8 · 16 + 7 = 135
    [[242 135]]
    >>> print(q.dequantize().round(3))
    [[ 2.    -1.05   0.159  0.   ]]
    """
    groups = in_groups(values, bits=4, group_size=group_size)  # (R, G, K/G): each row cut into G groups
    scales = np.abs(groups).max(axis=-1)  # (R, G): then every number of a group is in [-1, 1]
    # One division per group, and then products, as in bitsandbytes: dividing each number could be rounded differently.
    inverse = 1 / np.maximum(scales, TINY)  # a group of zeros stays a group of zeros
    codebook = nf4_levels()
    codes = nearest(groups * inverse[..., None], codebook).astype(np.uint8).reshape(values.shape)
    return QuantizedArray(codes, quantize_scales(scales) if double_quant else scales, bits=4, codebook=codebook)


def nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The index of the nearest of the sorted levels for each value. Halfway between two levels, the lower one.

    >>> nearest(np.array([-3.0, 0.1, 0.5, 0.6]), np.array([-1.0, 0.0, 1.0])).tolist()
    [0, 1, 1, 2]
    """
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, values)  # how many of the borders lie below the value


# --- double quantization ----------------------------------------------------------------------------------------------


def dynamic_levels() -> np.ndarray:
    """The 256 levels of the 8-bit "dynamic" number, sorted, float32.

    It is a floating-point number with as many bits for the fraction as the exponent leaves over. Read 8 bits as a sign,
    then z zeros, then a 1, then the 6 - z bits that are left, which are an integer f:

        number = ± 10^-z · m        m: the middle of step f, if [0.1, 1] is cut into 2^(6 - z) equal steps

    In 0 001 0110, the sign is +, z = 2 and f = 6. Of 16 steps, step 6 (counted from 0) has its middle at
    0.1 + 0.9 · 6.5 / 16 = 0.4656, so the number is 0.004656. z = 0 to 6 gives 2 · (64 + 32 + ... + 1) = 254 numbers;
    0 and 1 are added. What is stored for a number is its place in the sorted list.

    >>> levels = dynamic_levels()
    >>> print(len(levels), levels[-3:].round(4), (levels[127:130] * 1e6).round(2))
    256 [0.9789 0.993  1.    ] [0.   0.55 3.25]
    >>> print(levels[nearest(np.array([0.0046]), levels)].round(6))
    [0.004656]
    """
    levels = [0.0, 1.0]
    for fraction_bits in range(7):  # 6 - z
        edges = np.linspace(0.1, 1, 2**fraction_bits + 1, dtype=np.float32)
        middles = np.float32(10.0 ** (fraction_bits - 6)) * (edges[:-1] + edges[1:]) / 2
        levels += [*middles.tolist(), *(-middles).tolist()]
    return np.array(sorted(levels), np.float32)


DYNAMIC_LEVELS = dynamic_levels()


class QuantizedScales(nn.Module):
    """Scales (R, G) in 8 bits: scale = offset + (absmax of the block) · level. See `quantize_scales`."""

    codes: Array  # (R, G) uint8
    absmax: Array  # (blocks): each of SCALES_PER_BLOCK scales, row after row
    offset: Array  # ()

    def __init__(self, codes: np.ndarray, absmax: np.ndarray, offset: np.ndarray):
        self.register_buffer("codes", codes)
        self.register_buffer("absmax", absmax)
        self.register_buffer("offset", offset)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> np.dtype:
        return self.absmax.dtype

    def rows(self, rows: slice | Array = slice(None)) -> Array:
        """The scales of some rows as floats (R, G)."""
        rows = rows if len(self.codes) > 1 else slice(None)  # one row of scales serves all rows
        # Repeated, each scale has the absmax of its block: (R, G).
        absmax = self.absmax.repeat(SCALES_PER_BLOCK)[: self.codes.size].reshape(self.codes.shape)
        levels = module_of(self.codes).asarray(DYNAMIC_LEVELS, dtype=self.dtype)
        return levels.take(self.codes[rows]) * absmax[rows] + self.offset


def quantize_scales(scales: np.ndarray) -> QuantizedScales:
    """Quantize scales (R, G) to 8 bits. The error is about 1 % of the largest difference from their mean."""
    offset = scales.mean(dtype=np.float32)  # all positive: after subtracting the mean, both signs are used
    flat = (scales - offset).reshape(-1)
    starts = np.arange(0, flat.size, SCALES_PER_BLOCK)
    absmax = np.maximum.reduceat(np.abs(flat), starts)  # the largest of each block; the last may be shorter
    scaled = flat * (1 / np.maximum(absmax, TINY))[np.arange(flat.size) // SCALES_PER_BLOCK]
    codes = nearest(np.clip(scaled, -1, 1), DYNAMIC_LEVELS).astype(np.uint8)
    return QuantizedScales(codes.reshape(scales.shape), absmax, np.asarray(offset))
