"""Round to nearest: a grid of equally spaced levels is laid over the numbers, and each goes to the closest.

*Absmax* stretches a grid symmetric around 0 to the largest magnitude; *zero-point* stretches it from the smallest to
the largest number, which is finer where they lie to one side. Either way one outlier makes the steps wide for all that
share its scale: hence scales per row, or per small group.

Dettmers et al. 2022, "LLM.int8()", section 2; Jacob et al. 2018, section 2.1.
"""

from __future__ import annotations

import numpy as np

from .array import WHOLE_ARRAY, WHOLE_ROW, QuantizedArray, as_matrix, number_of_groups


def absmax(values: np.ndarray, bits: int = 8, group_size: int = WHOLE_ROW) -> QuantizedArray:
    """scale = max |value| / (2^(bits-1) - 1),  level = round(value / scale); one scale per group along a row.

    group_size: numbers that share a scale; -1 a whole row, 0 the whole array. Raises ValueError for numbers that are
    not finite, other bits than 8 and 4, and a group size that does not divide the row.

    The largest magnitude becomes 127, and 2.4 / 127 is the step:

    >>> weights = np.array([[0.5, -1.3, 2.4, -0.1]])
    >>> q = absmax(weights)
    >>> print(q.codes, q.scales.round(4), q.dequantize().round(3))
    [[ 26 -69 127  -5]] [[0.0189]] [[ 0.491 -1.304  2.4   -0.094]]

    An outlier takes all levels for itself, and groups keep it to itself:

    >>> weights = np.array([[0.5, -1.3, 2.4, -0.1, 0.3, 240.0]])
    >>> print(absmax(weights).dequantize().round(2))
    [[  0.    -1.89   1.89   0.     0.   240.  ]]
    >>> print(absmax(weights, group_size=3).dequantize().round(2))
    [[  0.49  -1.3    2.4    0.     0.   240.  ]]
    """
    return round_to_nearest(values, bits, group_size, symmetric=True)


def zero_point(values: np.ndarray, bits: int = 8, group_size: int = WHOLE_ROW) -> QuantizedArray:
    """scale = (max - min) / (2^bits - 1),  zero = the level of 0,  level = round(value / scale) + zero.

    The range is widened to hold 0, so that 0 stays exactly 0. Arguments and errors as in `absmax`.

    >>> q = zero_point(np.array([[0.0, 1.0, 2.0, 5.1]]))
    >>> print(q.codes, q.zeros, q.dequantize().round(2))
    [[-128  -78  -28  127]] [[-128]] [[0.  1.  2.  5.1]]
    """
    return round_to_nearest(values, bits, group_size, symmetric=False)


def round_to_nearest(values: np.ndarray, bits: int, group_size: int, symmetric: bool) -> QuantizedArray:
    """`absmax` (symmetric) or `zero_point`."""
    values = as_matrix(values)
    groups = number_of_groups(values.shape, bits, group_size)
    parts = values.reshape(1, 1, -1) if group_size == WHOLE_ARRAY else values.reshape(len(values), groups, -1)
    scales, zeros = grid(parts, bits, symmetric)  # (R, G) each
    levels = to_levels(parts, scales[..., None], None if zeros is None else zeros[..., None], bits)
    return QuantizedArray(levels.reshape(values.shape), scales, zeros, bits)


def grid(values: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales and zeros (None if symmetric) for the numbers along the last axis: (..., K) -> (...) each, float32."""
    top, steps = 2 ** (bits - 1) - 1, 2**bits - 1
    smallest = np.finfo(np.float32).smallest_subnormal  # in place of 0, where all numbers are
    if symmetric:
        scales = np.abs(values).max(axis=-1) / np.float32(top)
        return np.maximum(scales, smallest).astype(np.float32), None
    low = np.minimum(values.min(axis=-1), 0).astype(np.float64)  # in float64, where max - min cannot overflow
    high = np.maximum(values.max(axis=-1), 0).astype(np.float64)
    scales = np.maximum((high - low) / steps, smallest).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales) - top - 1, -top - 1, top)
    return scales, zeros.astype(np.float32)


def to_levels(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int) -> np.ndarray:
    """round(value / scale) + zero, within what `bits` can hold; the arguments broadcast.

    >>> to_levels(np.array([0.24, 0.26, -9.0]), np.array(0.5), None, bits=4)
    array([ 0.,  1., -8.])
    """
    levels = np.rint(values / scales)
    if zeros is not None:
        levels += zeros
    return np.clip(levels, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, out=levels)
