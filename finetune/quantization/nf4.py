"""NF4, the 4-bit number for normally distributed weights. Dettmers et al. 2023, "QLoRA", section 3 and appendix E.

Trained weights look like a bell curve, so equally spaced levels waste codes on its thin ends. NF4's 16 levels are
quantiles of the normal distribution instead: each is used about equally often, as each cuts off an equal share of the
bell's area. They are scaled to [-1, 1], and a block of 64 weights is scaled to fit by its largest magnitude.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from .array import QuantizedArray, as_matrix, number_of_groups
from .scales import nearest, quantize_scales

BLOCK = 64


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

    double_quant: store the scales in 8 bits, too (scales.py). Raises ValueError for numbers that are not finite and for
    a group size that does not divide the row.

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
