"""Double quantization: the scales are quantized as well. Dettmers et al. 2023, "QLoRA", section 3.

In blocks of 64 numbers a float32 scale costs 32 / 64 = 0.5 bit for each. Most scales are alike, so their mean is taken
off and what remains is stored in 8 bits, in blocks of 256 with a scale of their own: 8 / 64 + 32 / (64 · 256) = 0.127
bit. The 8 bits are a small floating-point number, whose levels lie closer together near 0 (Dettmers 2016, "8-bit
approximations for parallelism in deep learning"); the table is the one of bitsandbytes.
"""

from __future__ import annotations

import numpy as np

from minigrad import nn
from minigrad.backend import Array, module_of

BLOCK = 256


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


def nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The position of the nearest of the sorted levels, for each value; in the middle between two, the lower one.

    >>> nearest(np.array([-3.0, 0.1, 0.5, 0.6]), np.array([-1.0, 0.0, 1.0])).tolist()
    [0, 1, 1, 2]
    """
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, values)


LEVELS = dynamic_levels()


class QuantizedScales(nn.Module):
    """Scales (R, G) in 8 bits each: offset + absmax of the block · level. See `quantize_scales`."""

    codes: Array  # (R, G) uint8
    absmax: Array  # (blocks), of BLOCK scales each, row after row
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
        levels = xp.asarray(LEVELS, dtype=self.dtype)
        return levels[self.codes[rows]] * self.absmax[position // BLOCK] + self.offset


def quantize_scales(scales: np.ndarray) -> QuantizedScales:
    """Scales (R, G) to 8 bits each, to within about 1 % of the largest difference from their mean."""
    offset = scales.mean(dtype=np.float32)
    flat = (scales - offset).reshape(-1)
    starts = np.arange(0, flat.size, BLOCK)
    absmax = np.maximum.reduceat(np.abs(flat), starts)
    scaled = flat * (1 / np.maximum(absmax, np.float32(1e-38)))[np.arange(flat.size) // BLOCK]
    codes = nearest(np.clip(scaled, -1, 1), LEVELS).astype(np.uint8)
    return QuantizedScales(codes.reshape(scales.shape), absmax, np.asarray(offset))
