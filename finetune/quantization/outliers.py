"""LLM.int8(): products of 8-bit inputs and weights, and the few columns that must not be rounded.

Dettmers et al. 2022, "LLM.int8(): 8-bit matrix multiplication for transformers at scale", sections 2 and 3.

If inputs are rounded as well, the product is one of integers, which special hardware does faster. But large language
models have a few features (columns of the input) that are 20 times as large as the others in nearly every token. One
such number in a token sets the step for the whole token, and everything else in it is rounded to almost nothing. They
are less than one column in a hundred, so they are multiplied in floating point, and the rest in 8 bits.

Simplified: NumPy has no fast integer product. Integers below 2²⁴ are exact in float32, so small ones are multiplied as
float32, and the results are those of integers, without their speed.
"""

from __future__ import annotations

import numpy as np

from .array import as_matrix
from .rounding import absmax

THRESHOLD = 6.0  # the paper's


def outlier_columns(x: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """The columns of x (N, I) in which some number is at least `threshold` in magnitude.

    >>> outlier_columns(np.array([[0.5, -8.0, 1.0], [0.2, -7.0, 5.9]]))
    array([1])
    """
    return np.flatnonzero((np.abs(x) >= threshold).any(axis=0))


def int8_product(x: np.ndarray, weight: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """x (N, I) @ weightᵀ (I, O) in 8 bits: a scale per row of x (token) and per row of the weight (output).

        out = x[:, outliers] @ weight[:, outliers]ᵀ + scale_x · scale_w · (levels of the rest's product)

    threshold: from where on a column is an outlier; np.inf rounds all columns, which is the naive method. Raises
    ValueError for numbers that are not finite.

    The outlier -60 would leave the other numbers of its token 1 / 127 of it as a step:

    >>> x, weight = np.array([[0.5, -60.0, 0.2]]), np.array([[1.0, 0.1, 1.0]])
    >>> exact = x @ weight.T
    >>> naive, split = int8_product(x, weight, threshold=np.inf), int8_product(x, weight)
    >>> print(exact, naive.round(2), split.round(2))
    [[-5.3]] [[-5.67]] [[-5.3]]
    """
    x, weight = as_matrix(x, "x"), as_matrix(weight, "the weight")
    outliers = outlier_columns(x, threshold)
    out = x[:, outliers] @ weight[:, outliers].T
    if len(outliers) < x.shape[1]:
        x8, weight8 = (absmax(np.delete(matrix, outliers, axis=1)) for matrix in (x, weight))
        integers = x8.levels() @ weight8.levels().T  # at most 127² I in magnitude: exact up to I = 1040
        out += integers * (x8.scale_rows() * weight8.scale_rows().T)
    return out


def relative_error(approximation: np.ndarray, exact: np.ndarray) -> float:
    """|approximation - exact| / |exact|, both as vectors."""
    return float(np.linalg.norm(approximation - exact) / np.linalg.norm(exact))
