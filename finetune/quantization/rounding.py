"""Round to nearest: lay a grid of equally spaced levels over the numbers, and round each number to the closest level.

*Absmax* uses a grid that is symmetric around 0 and reaches the largest magnitude. *Zero-point* uses a grid from the
smallest to the largest number, which has finer steps if most numbers have the same sign. In both, one outlier makes the
steps wide for all numbers that share its scale; therefore each row, or each small group, has a scale of its own. If the
inputs of a layer are rounded too, groups do not help, and columns with outliers stay in floating point
(`int8_product`).

Dettmers et al. 2022, "LLM.int8(): 8-bit matrix multiplication for transformers at scale", sections 2 and 3; Jacob et
al. 2018, section 2.1.
"""

from __future__ import annotations

import numpy as np

from .array import WHOLE_ROW, QuantizedArray, as_matrix, in_groups


def absmax(values: np.ndarray, bits: int = 8, group_size: int = WHOLE_ROW) -> QuantizedArray:
    """scale = max |value| / (2^(bits-1) - 1),  level = round(value / scale), with one scale per group in a row.

    group_size: numbers in a row that share a scale; WHOLE_ROW (-1) for a whole row, WHOLE_ARRAY (0) for the whole
    array. Raises ValueError for numbers that are not finite, bits other than 8 and 4, and a group size that does not
    divide the row.

    The largest magnitude becomes 127, so the step is 2.4 / 127:

    >>> weights = np.array([[0.5, -1.3, 2.4, -0.1]])
    >>> q = absmax(weights)
    >>> print(q.codes, q.scales.round(4), q.dequantize().round(3))
    [[ 26 -69 127  -5]] [[0.0189]] [[ 0.491 -1.304  2.4   -0.094]]

    An outlier leaves almost no levels for the other numbers. With groups, only its own group suffers:

    >>> weights = np.array([[0.5, -1.3, 2.4, -0.1, 0.3, 240.0]])
    >>> print(absmax(weights).dequantize().round(2))
    [[  0.    -1.89   1.89   0.     0.   240.  ]]
    >>> print(absmax(weights, group_size=3).dequantize().round(2))
    [[  0.49  -1.3    2.4    0.     0.   240.  ]]
    """
    return round_to_nearest(values, bits, group_size, symmetric=True)


def zero_point(values: np.ndarray, bits: int = 8, group_size: int = WHOLE_ROW) -> QuantizedArray:
    """scale = (max - min) / (2^bits - 1),  zero = the level of 0,  level = round(value / scale) + zero.

    The range is widened to include 0, so 0 stays exactly 0. Arguments and errors are those of `absmax`.

    >>> q = zero_point(np.array([[0.0, 1.0, 2.0, 5.1]]))
    >>> print(q.codes, q.zeros, q.dequantize().round(2))
    [[-128  -78  -28  127]] [[-128]] [[0.  1.  2.  5.1]]
    """
    return round_to_nearest(values, bits, group_size, symmetric=False)


def round_to_nearest(values: np.ndarray, bits: int, group_size: int, symmetric: bool) -> QuantizedArray:
    """Quantize to the nearest level, with the grid of `absmax` (symmetric) or of `zero_point`."""
    groups = in_groups(values, bits, group_size)  # (R, G, K/G), one scale for each group
    scales, zeros = grid(groups, bits, symmetric)  # (R, G) each
    levels = to_levels(groups, scales[..., None], None if zeros is None else zeros[..., None], bits)
    return QuantizedArray(levels.reshape(values.shape), scales, zeros, bits)


def grid(values: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The scale and the zero of a grid for the numbers along the last axis: (..., K) -> (...) and (...), float32.

    symmetric: the grid of `absmax`, where all zeros are 0 and None is returned for them; else that of `zero_point`.
    """
    top = 2 ** (bits - 1) - 1  # the highest level: 127 in 8 bits, where the levels are -128 .. 127
    steps = 2**bits - 1  # from the lowest level to the highest: 255
    smallest = np.finfo(np.float32).smallest_subnormal  # the scale of a group of zeros: one cannot divide by 0
    if symmetric:
        scales = np.abs(values).max(axis=-1) / np.float32(top)
        return np.maximum(scales, smallest).astype(np.float32), None
    low = np.minimum(values.min(axis=-1), 0).astype(np.float64)  # in float64, where max - min cannot overflow
    high = np.maximum(values.max(axis=-1), 0).astype(np.float64)
    scales = np.maximum((high - low) / steps, smallest).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales) - top - 1, -top - 1, top)  # `low` itself gets the lowest level, -top - 1
    return scales, zeros.astype(np.float32)


def to_levels(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int) -> np.ndarray:
    """round(value / scale) + zero, clipped to the range of `bits`. The arguments broadcast.

    >>> to_levels(np.array([0.24, 0.26, -9.0]), np.array(0.5), None, bits=4)
    array([ 0.,  1., -8.])
    """
    levels = np.rint(values / scales)
    if zeros is not None:
        levels += zeros
    return np.clip(levels, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, out=levels)


# --- LLM.int8(): inputs in 8 bits as well -----------------------------------------------------------------------------
# If the inputs are rounded too, the product is one of integers, which special hardware computes faster. But large
# language models have a few features (columns of the input) that are 20 times as large as the others in nearly every
# token. Such a number determines the step of its whole token, and all other numbers are rounded to almost nothing.
# Fewer than one column in a hundred is like that. These are multiplied in floating point, the rest in 8 bits.
#
# Simplified: NumPy has no fast integer product. Integers below 2²⁴ are exact in float32, so we multiply them as
# float32: the result is the same, without the speed.

THRESHOLD = 6.0  # the paper's


def outlier_columns(x: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """The columns of x (N, I) that have a number with a magnitude of at least `threshold`.

    >>> outlier_columns(np.array([[0.5, -8.0, 1.0], [0.2, -7.0, 5.9]]))
    array([1])
    """
    return np.flatnonzero((np.abs(x) >= threshold).any(axis=0))


def int8_product(x: np.ndarray, weight: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """x (N, I) @ weightᵀ (I, O) in 8 bits, with one scale per row of x (token) and per row of the weight (output).

        out = x[:, outliers] @ weight[:, outliers]ᵀ + scale_x · scale_w · (levels of the rest's product)

    threshold: a column with a magnitude of at least this is an outlier. np.inf rounds all columns, which is the naive
    method. Raises ValueError for numbers that are not finite.

    Without the split, the outlier -60 makes the step of its token 60 / 127, too coarse for the other numbers:

    >>> x, weight = np.array([[0.5, -60.0, 0.2]]), np.array([[1.0, 0.1, 1.0]])
    >>> exact = x @ weight.T
    >>> naive, split = int8_product(x, weight, threshold=np.inf), int8_product(x, weight)
    >>> print(exact, naive.round(2), split.round(2))
    [[-5.3]] [[-5.67]] [[-5.3]]
    """
    x, weight = as_matrix(x, "x"), as_matrix(weight, "the weight")
    outliers = outlier_columns(x, threshold)
    out = x[:, outliers] @ weight[:, outliers].T  # (N, O), in floating point
    if len(outliers) < x.shape[1]:
        x8, weight8 = (absmax(np.delete(matrix, outliers, axis=1)) for matrix in (x, weight))
        integers = x8.levels() @ weight8.levels().T  # at most 127² I in magnitude: exact up to I = 1040
        out += integers * (x8.scale_rows() * weight8.scale_rows().T)  # (N, 1) * (1, O): a scale for each product
    return out


def relative_error(approximation: np.ndarray, exact: np.ndarray) -> float:
    """|approximation - exact| / |exact|, both as vectors."""
    return float(np.linalg.norm(approximation - exact) / np.linalg.norm(exact))
