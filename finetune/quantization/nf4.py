"""NF4, the 4-bit number for normally distributed weights. Dettmers et al. 2023, "QLoRA", section 3 and appendix E.

Trained weights look like a bell curve, so equally spaced levels waste codes on its thin ends. NF4's 16 levels are
quantiles of the normal distribution instead: each is used about equally often, as each cuts off an equal share of the
bell's area. They are scaled to [-1, 1], and a block of 64 weights is scaled to fit by its largest magnitude.

*Double quantization*: the scales are quantized as well. In blocks of 64 numbers a float32 scale costs 32 / 64 = 0.5 bit
per number. Most scales are close to each other, so their mean is subtracted and the rest is stored in 8 bits, in blocks
of 256 with a scale of their own: 8 / 64 + 32 / (64 · 256) = 0.127 bit. The 8 bits are a small floating-point number,
whose levels lie closer together near 0 (Dettmers 2016, "8-bit approximations for parallelism in deep learning"); the
table is the one of bitsandbytes.
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
    """The 16 levels, sorted, float32: 8 above 0, 7 below, and 0 itself, so that 0 is exact.

    With Q the inverse of the normal distribution function and p running in equal steps from 1/2 to `outermost` (in 8
    steps for the positive half, 7 for the negative), levels are Q(p) / Q(outermost), with the sign of the half. At
    p = 1 Q is infinite; `outermost` is the mean of 1 - 1/30 and 1 - 1/32, half a step before that in each half.

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
    """The nearest of the 16 levels, for each number divided by the largest magnitude of its group.

    double_quant: store the scales in 8 bits as well (`quantize_scales`). Raises ValueError for numbers that are not
    finite and for a group size that does not divide the row.

    >>> q = nf4(np.array([[2.0, -1.0, 0.1, 0.0]]), group_size=4, double_quant=False)
    >>> print(q.codes, q.dequantize().round(3))  # codes 15 and 2, 8 and 7, two in a byte
    [[242 135]] [[ 2.    -1.05   0.159  0.   ]]
    """
    values = as_matrix(values)
    groups = number_of_groups(values.shape, 4, group_size)
    parts = values.reshape(1, 1, -1) if group_size == 0 else values.reshape(len(values), groups, -1)  # (R, G, K/G)
    scales = np.abs(parts).max(axis=-1)
    inverse = 1 / np.maximum(scales, np.float32(1e-38))
    codebook = nf4_levels()
    codes = nearest(parts * inverse[..., None], codebook).astype(np.uint8).reshape(values.shape)
    return QuantizedArray(codes, quantize_scales(scales) if double_quant else scales, None, 4, codebook)


def nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The position of the nearest of the sorted levels, for each value; in the middle between two, the lower one.

    >>> nearest(np.array([-3.0, 0.1, 0.5, 0.6]), np.array([-1.0, 0.0, 1.0])).tolist()
    [0, 1, 1, 2]
    """
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, values)


# --- double quantization ----------------------------------------------------------------------------------------------


def dynamic_levels() -> np.ndarray:
    """The 256 levels of the 8-bit "dynamic" number, sorted, float32.

    Leading zero bits are a decimal exponent, the bits after the first 1 a fraction: 2^e equal steps of [0.1, 1] at
    the scale 10^(e - 6), for e = 0 .. 6, with either sign; and 0 and 1.

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
    """Scales (R, G) in 8 bits each: offset + absmax of the block · level. See `quantize_scales`."""

    codes: Array  # (R, G) uint8
    absmax: Array  # (blocks), of SCALES_PER_BLOCK scales each, row after row
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
        position = xp.arange(R)[rows, None] * G + xp.arange(G)  # where each stands, counted along the rows
        levels = xp.asarray(DYNAMIC_LEVELS, dtype=self.dtype)
        return levels[self.codes[rows]] * self.absmax[position // SCALES_PER_BLOCK] + self.offset


def quantize_scales(scales: np.ndarray) -> QuantizedScales:
    """Quantize scales (R, G) to 8 bits each, to within about 1 % of the largest difference from their mean."""
    offset = scales.mean(dtype=np.float32)
    flat = (scales - offset).reshape(-1)
    starts = np.arange(0, flat.size, SCALES_PER_BLOCK)
    absmax = np.maximum.reduceat(np.abs(flat), starts)
    scaled = flat * (1 / np.maximum(absmax, np.float32(1e-38)))[np.arange(flat.size) // SCALES_PER_BLOCK]
    codes = nearest(np.clip(scaled, -1, 1), DYNAMIC_LEVELS).astype(np.uint8)
    return QuantizedScales(codes.reshape(scales.shape), absmax, np.asarray(offset))
