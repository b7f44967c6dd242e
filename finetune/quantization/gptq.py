"""GPTQ: round one column after the other, and correct the columns that are not yet rounded for the error.

Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers".

Rounding to nearest minimizes the error of each weight. What matters is the error of the layer's output on real inputs
x. For a rounding error D of the weights (O, I) it is

    Σ_x |D x|² = tr(D H Dᵀ),    H = Σ x xᵀ  (I, I), the Hessian (up to a factor 2) of each row's error

If two inputs are usually equal and one weight is rounded up, the other weight should be lowered. Let F be the columns
that are not yet rounded, and e = weight - rounded (per row) for column q. The best correction of F is -e times row q
of H_F⁻¹, divided by its diagonal element [equation 2]. There is no need to invert H_F for every column: with the upper
triangular matrix U for which H⁻¹ = Uᵀ U [section 3.3, step 3], row q of H_F⁻¹ is U[q, q] · U[q, q:].
"""

from __future__ import annotations

import numpy as np

from .array import WHOLE_ARRAY, WHOLE_ROW, QuantizedArray, as_matrix, number_of_groups
from .rounding import grid, to_levels

COLUMNS = 128  # columns of a block: inside it each column is corrected at once, the columns after it once per block
MOST_DAMPING = 1.0


def gptq(
    weight: np.ndarray,
    hessian: np.ndarray,
    bits: int = 4,
    group_size: int = 64,
    symmetric: bool = True,
    act_order: bool = False,
    damping: float = 0.01,
) -> QuantizedArray:
    """Round a weight (O, I) so that its outputs change little on inputs with this `hessian` Σ x xᵀ (I, I).

    group_size: as in `absmax`. The scale of a group is computed when its first column is reached, from weights that
    have been corrected by then. act_order: round the columns with the largest inputs first, when most columns are left
    to correct for them. damping: this share of the diagonal's mean is added to the diagonal, and ten times as much each
    time the matrix is singular. Raises ValueError for numbers that are not finite, sizes that do not fit, and a matrix
    that no damping makes positive definite, because it is not a sum of x xᵀ.

    The two middle inputs are nearly equal. One weight is rounded down to 0, so the other is rounded up to 1:

    >>> weight, hessian = np.array([[7.0, 0.4, 0.4, 0.0]]), np.diag([1.0, 1.0, 1.0, 1.0])
    >>> hessian[1, 2] = hessian[2, 1] = 0.99
    >>> print(gptq(weight, hessian, group_size=4).dequantize())
    [[7. 0. 1. 0.]]
    """
    weight = as_matrix(weight, "the weight")
    groups = number_of_groups(weight.shape, bits, group_size)
    hessian = checked_gram(hessian, weight.shape[1])
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(weight.shape[1])
    hessian = hessian[np.ix_(order, order)]  # rows and columns in the new order
    unused = np.diag(hessian) == 0  # these inputs are always 0, so their weights may be 0
    left = np.where(unused, 0, weight[:, order]).astype(hessian.dtype)  # (O, I): weights with all corrections so far
    factor = _inverse_factor(hessian, damping)  # U
    one_grid = None  # for the whole row or array, the grid is known before the first column is rounded
    if group_size in (WHOLE_ROW, WHOLE_ARRAY):
        one_grid = grid(left.reshape(1, -1) if group_size == WHOLE_ARRAY else left, bits, symmetric)
    step = weight.shape[1] // groups if one_grid is None else COLUMNS
    levels, grids = np.empty_like(left), []  # grids: (scales, zeros) of each group
    for start in range(0, weight.shape[1], step):
        columns = slice(start, min(start + step, weight.shape[1]))
        scales, zeros = one_grid or grid(left[:, columns], bits, symmetric)  # (O), or (1) for the whole array
        grids.append((scales, zeros))
        levels[:, columns], errors = _round_columns(left[:, columns], factor[columns, columns], scales, zeros, bits)
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]  # correct all later columns at once
    grids = grids[:groups]  # a single grid was appended once per block of columns
    scales = np.stack([scales for scales, _ in grids], axis=1)  # (O, G)
    zeros = np.stack([zeros for _, zeros in grids if zeros is not None], axis=1) if not symmetric else None
    return QuantizedArray(levels, scales, zeros, bits, order=order if act_order else None)


def _round_columns(
    block: np.ndarray, factor: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Round the columns of a block from left to right and correct the columns after each one. Changes `block`.

    Returns the levels, and the errors divided by the diagonal of U, (O, columns) each.
    """
    levels, errors = np.empty_like(block), np.empty_like(block)
    for q in range(block.shape[1]):
        levels[:, q] = to_levels(block[:, q], scales, zeros, bits)
        rounded = scales * (levels[:, q] if zeros is None else levels[:, q] - zeros)
        # equation 2: e · U[q, q] U[q, q:] / U[q, q]², of which one U[q, q] cancels
        errors[:, q] = (block[:, q] - rounded) / factor[q, q]
        block[:, q + 1 :] -= np.outer(errors[:, q], factor[q, q + 1 :])  # the columns of this block that are left
    return levels, errors


def _inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """The upper triangular U with H⁻¹ = Uᵀ U, for the damped H.

    Reverse the rows and columns of H, take the Cholesky factor, and reverse it again: this gives an upper triangular R
    with H = R Rᵀ. So H⁻¹ = R⁻ᵀ R⁻¹, and U = R⁻¹.
    """
    diagonal = np.diag(hessian)
    mean = diagonal.mean() or 1.0
    diagonal = np.where(diagonal == 0, mean, diagonal)  # inputs that are always 0 would make H singular
    while damping <= MOST_DAMPING:
        damped = hessian.copy()
        np.fill_diagonal(damped, diagonal + damping * mean)
        try:
            reversed_factor = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-6)
            continue
        return np.linalg.inv(reversed_factor[::-1, ::-1])
    raise ValueError(
        "the Hessian is not positive definite, even with its diagonal doubled: it must be a sum of x xᵀ over inputs x"
    )


def checked_gram(gram: np.ndarray, columns: int) -> np.ndarray:
    """`gram`, if it can be a sum of x xᵀ for a weight with this number of columns; raises ValueError otherwise."""
    gram = np.asarray(gram)
    if gram.shape != (columns, columns) or gram.dtype.kind != "f":
        raise ValueError(f"the Hessian must be floats of shape {(columns, columns)}, got {gram.dtype} {gram.shape}")
    if not np.isfinite(gram).all() or (np.diag(gram) < 0).any():
        raise ValueError("the Hessian has numbers that are not finite, or are negative on its diagonal")
    return gram


def output_error(weight: np.ndarray, approximation: np.ndarray, gram: np.ndarray) -> float:
    """The relative error of a layer's outputs, Σ |x (W - A)ᵀ|² / Σ |x Wᵀ|² over all inputs x.

    gram: Σ x xᵀ (I, I), which determines both sums without the inputs.

    >>> output_error(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]), np.eye(2))
    0.2
    """
    difference = weight - approximation
    error, size = ((matrix @ gram * matrix).sum(dtype=np.float64) for matrix in (difference, weight))
    return float(error / size) if size > 0 else 0.0
