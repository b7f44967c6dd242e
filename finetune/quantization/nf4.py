"""NF4, the 4-bit number for normally distributed weights. Dettmers et al. 2023, "QLoRA", section 3 and appendix E.

Trained weights are distributed like a bell curve, so equally spaced levels waste codes on its thin ends. NF4's 16
levels are quantiles of the normal distribution instead. Each level stands for an equal share of the area under the
bell, so all levels are used about equally often. The levels are scaled to [-1, 1], and each block of 64 weights is
divided by its largest magnitude.

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

from .array import QuantizedArray, as_matrix, number_of_groups

BLOCK = 64
SCALES_PER_BLOCK = 256


def nf4_levels() -> np.ndarray:
    """The 16 levels, sorted, float32: 8 above 0, 7 below, and 0 itself, which makes 0 exact.

    Let Q be the inverse of the normal distribution function, and let p run in equal steps from 1/2 to `outermost`, in 8
    steps for the positive half and 7 for the negative. The levels are ±Q(p) / Q(outermost). Because Q(1) is infinite,
    `outermost` is half a step below 1: the mean of 1 - 1/30 and 1 - 1/32.

    >>> print(nf4_levels().round(3))
    [-1.    -0.696 -0.525 -0.395 -0.284 -0.185 -0.091  0.     0.08   0.161
      0.246  0.338  0.441  0.563  0.723  1.   ]
    """
    quantile = NormalDist().inv_cdf
    outermost = ((1 - 1 / 30) + (1 - 1 / 32)) / 2  # 0.9677083
    positive = [quantile(p) for p in np.linspace(0.5, outermost, 9)[1:]]
    negative = [-quantile(p) for p in np.linspace(0.5, outermost, 8)[1:]]
    return (np.array(negative[::-1] + [0.0] + positive) / quantile(outermost)).astype(np.float32)


def nf4(values: np.ndarray, group_size: int = BLOCK, double_quant: bool = True) -> QuantizedArray:
    """Divide each number by the largest magnitude of its group, and round it to the nearest of the 16 levels.

    double_quant: also store the scales in 8 bits (`quantize_scales`). Raises ValueError for numbers that are not finite
    and for a group size that does not divide the row.

    >>> q = nf4(np.array([[2.0, -1.0, 0.1, 0.0]]), group_size=4, double_quant=False)
    >>> print(q.codes, q.dequantize().round(3))  # codes 15 and 2, 8 and 7, two in a byte
    [[242 135]] [[ 2.    -1.05   0.159  0.   ]]
    """
    values = as_matrix(values)
    groups = number_of_groups(values.shape, 4, group_size)
    parts = values.reshape(1, 1, -1) if group_size == 0 else values.reshape(len(values), groups, -1)  # (R, G, K/G)
    scales = np.abs(parts).max(axis=-1)  # (R, G): then every number of a group is in [-1, 1]
    inverse = 1 / np.maximum(scales, np.float32(1e-38))  # a group of zeros stays a group of zeros
    codebook = nf4_levels()
    codes = nearest(parts * inverse[..., None], codebook).astype(np.uint8).reshape(values.shape)
    return QuantizedArray(codes, quantize_scales(scales) if double_quant else scales, None, 4, codebook)


def nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The index of the nearest of the sorted levels for each value. Halfway between two levels, the lower one.

    >>> nearest(np.array([-3.0, 0.1, 0.5, 0.6]), np.array([-1.0, 0.0, 1.0])).tolist()
    [0, 1, 1, 2]
    """
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, values)  # how many of the borders lie below the value


# --- double quantization ----------------------------------------------------------------------------------------------


def dynamic_levels() -> np.ndarray:
    """The 256 levels of the 8-bit "dynamic" number, sorted, float32.

    The number of leading zero bits is a decimal exponent, and the bits after the first 1 are a fraction. For e = 0 .. 6
    this gives 2^e equal steps of [0.1, 1] times 10^(e - 6), with either sign. The last two levels are 0 and 1.

    >>> levels = dynamic_levels()
    >>> print(len(levels), levels[-3:].round(4), (levels[127:130] * 1e6).round(2))
    256 [0.9789 0.993  1.    ] [0.   0.55 3.25]
    """
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2**exponent + 1, dtype=np.float32)
        middles = np.float32(10.0 ** (exponent - 6)) * (edges[:-1] + edges[1:]) / 2
        levels += [*middles.tolist(), *(-middles).tolist()]
    return np.array(sorted(levels), np.float32)


DYNAMIC_LEVELS = dynamic_levels()


class QuantizedScales(nn.Module):
    """Scales (R, G) in 8 bits: scale = offset + absmax of the block · level. See `quantize_scales`."""

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
        xp = module_of(self.codes)
        R, G = self.codes.shape
        rows = rows if R > 1 else slice(None)  # one scale for the whole array
        position = xp.arange(R)[rows, None] * G + xp.arange(G)  # of each scale, counted along the rows
        levels = xp.asarray(DYNAMIC_LEVELS, dtype=self.dtype)
        return levels[self.codes[rows]] * self.absmax[position // SCALES_PER_BLOCK] + self.offset


def quantize_scales(scales: np.ndarray) -> QuantizedScales:
    """Quantize scales (R, G) to 8 bits. The error is about 1 % of the largest difference from their mean."""
    offset = scales.mean(dtype=np.float32)  # scales are all positive: without their mean, both signs are used
    flat = (scales - offset).reshape(-1)
    starts = np.arange(0, flat.size, SCALES_PER_BLOCK)
    absmax = np.maximum.reduceat(np.abs(flat), starts)  # the largest of each block; the last may be shorter
    scaled = flat * (1 / np.maximum(absmax, np.float32(1e-38)))[np.arange(flat.size) // SCALES_PER_BLOCK]
    codes = nearest(np.clip(scaled, -1, 1), DYNAMIC_LEVELS).astype(np.uint8)
    return QuantizedScales(codes.reshape(scales.shape), absmax, np.asarray(offset))
