"""GPTQ: round one column after the other, and correct the columns that are not yet rounded for the error.

A weight w is stored as a *level*, a small integer: -8 to 7 with 4 bits. With the *scale* and the *zero* that it shares
with its neighbors, the level stands for the number

    w ≈ scale · (level - zero)

The *grid* is the set of these numbers for all levels: with scale 0.5 and zero 0 it is -4, -3.5, ..., 3.5. Rounding to
nearest takes the number of the grid that is closest to w. But what matters is the layer's output W x on real inputs x.
If the weights W (O, I) change by D, the output changes by D x, and the sum of its squares over all inputs is

    Σ_x |D x|² = tr(D H Dᵀ),        H = Σ_x x xᵀ  (I, I)

H is called the Hessian: 2 H is the matrix of second derivatives of this sum by the elements of one row of D. If two
inputs are usually equal and one of their weights is rounded up, the other one should be lowered. GPTQ does this: it
goes through the columns of W from left to right, rounds each to nearest, and changes all columns that are left so as to
correct the output for the error.

Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers".
"""

from __future__ import annotations

import numpy as np

from .array import WHOLE_ARRAY, WHOLE_ROW, QuantizedArray, as_matrix, number_of_groups
from .rounding import grid, to_levels


def round_columns(
    weight: np.ndarray, U: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """GPTQ with one grid per row: round a weight (O, I) column by column, and correct the columns that are left.

    U: `inverse_factor` of the Hessian. scales, zeros (O): of the grids; zeros is None if all are 0. Returns the levels,
    and the errors divided by the diagonal of U, (O, I) each.

    *The correction* [equation 2]. The rows of W do not depend on each other; let d be the change of one. Column q is
    rounded, so d_q = -e with e = weight - rounded. Earlier columns stay as they are. The later elements of d are free,
    and shall make d H dᵀ as small as possible, with only the rows and columns H[q:, q:] that are left. Then the
    derivative 2 d H is 0 at the free elements, so d H = λ (1, 0, ..., 0), and d = λ times the first row of the inverse
    of H[q:, q:]. The factor λ follows from d_q = -e:

        d = -e · (first row of H[q:, q:]⁻¹) / (its first element) = -e · U[q, q:] / U[q, q]

    *Example.* Two inputs are nearly equal. The first weight is rounded down to 0. Its error e = 0.4 raises the second
    one by 0.4 · 0.99 to 0.796, and that is rounded up to 1:

    >>> U = inverse_factor(np.array([[1.0, 0.99], [0.99, 1.0]]))
    >>> levels, errors = round_columns(np.array([[0.4, 0.4]]), U, np.array([1.0]), None, bits=4)
    >>> print(levels, (0.4 - errors[:, 0] * U[0, 1]).round(3))
    [[0. 1.]] [0.796]
    """
    left = weight.copy()  # the weights, with all corrections so far
    levels, errors = np.empty_like(left), np.empty_like(left)
    for q in range(left.shape[1]):
        levels[:, q] = to_levels(left[:, q], scales, zeros, bits)  # (O)
        rounded = scales * (levels[:, q] if zeros is None else levels[:, q] - zeros)
        errors[:, q] = (left[:, q] - rounded) / U[q, q]  # e / U[q, q] of each row
        left[:, q + 1 :] -= np.outer(errors[:, q], U[q, q + 1 :])  # d of each row
    return levels, errors


def inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """The upper triangular U with H⁻¹ = Uᵀ U. It replaces the inverse of H[q:, q:] for every q [section 3.3, step 3].

    Let R be upper triangular with H = R Rᵀ. The rows of R from q on have only zeros left of column q, so H[q:, q:] =
    R[q:, q:] R[q:, q:]ᵀ. With U = R⁻¹, which is upper triangular as well, H[q:, q:]⁻¹ = U[q:, q:]ᵀ U[q:, q:]. The first
    column of U[q:, q:] is U[q, q] and zeros, so the first row of the inverse is U[q, q] · U[q, q:]:

    >>> hessian = np.array([[4.0, 2.0, 1.0], [2.0, 3.0, 1.0], [1.0, 1.0, 2.0]])
    >>> U = inverse_factor(hessian)
    >>> print(np.linalg.inv(hessian[1:, 1:])[0], (U[1, 1] * U[1, 1:]).round(3))
    [ 0.4 -0.2] [ 0.4 -0.2]

    Raises LinAlgError unless H is positive definite.
    """
    # NumPy's Cholesky factor is lower triangular. That of H with its rows and columns reversed, reversed again, is R.
    R = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    return np.linalg.inv(R)


# --- groups, blocks, ordering and damping -----------------------------------------------------------------------------

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
    hessian = checked_hessian(hessian, weight.shape[1])
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(weight.shape[1])
    hessian = hessian[np.ix_(order, order)]  # rows and columns in the new order
    unused = np.diag(hessian) == 0  # these inputs are always 0, so their weights may be 0
    left = np.where(unused, 0, weight[:, order]).astype(hessian.dtype)  # (O, I): weights with all corrections so far
    U = _damped_factor(hessian, damping)
    one_grid = None  # for the whole row or array, the grid is known before the first column is rounded
    if group_size in (WHOLE_ROW, WHOLE_ARRAY):
        one_grid = grid(left.reshape(1, -1) if group_size == WHOLE_ARRAY else left, bits, symmetric)
    step = weight.shape[1] // groups if one_grid is None else COLUMNS
    levels, grids = np.empty_like(left), []  # grids: (scales, zeros) of each group
    for start in range(0, weight.shape[1], step):
        block = slice(start, min(start + step, weight.shape[1]))  # the columns of a group, or some of them
        scales, zeros = one_grid or grid(left[:, block], bits, symmetric)  # (O), or (1) for the whole array
        grids.append((scales, zeros))
        levels[:, block], errors = round_columns(left[:, block], U[block, block], scales, zeros, bits)
        left[:, block.stop :] -= errors @ U[block, block.stop :]  # d of all the block's columns together
    grids = grids[:groups]  # a single grid was appended once per block of columns
    scales = np.stack([scales for scales, _ in grids], axis=1)  # (O, G)
    zeros = np.stack([zeros for _, zeros in grids if zeros is not None], axis=1) if not symmetric else None
    return QuantizedArray(levels, scales, zeros, bits, order=order if act_order else None)


def _damped_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """`inverse_factor` of a Hessian with larger numbers on its diagonal, so that it can be inverted."""
    diagonal = np.diag(hessian)
    mean = diagonal.mean() or 1.0
    diagonal = np.where(diagonal == 0, mean, diagonal)  # inputs that are always 0 would make H singular
    while damping <= MOST_DAMPING:
        damped = hessian.copy()
        np.fill_diagonal(damped, diagonal + damping * mean)
        try:
            return inverse_factor(damped)
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-6)
    raise ValueError(
        "the Hessian is not positive definite, even with its diagonal doubled: it must be a sum of x xᵀ over inputs x"
    )


def checked_hessian(hessian: np.ndarray, columns: int) -> np.ndarray:
    """Return `hessian` if it can be a sum of x xᵀ for a weight with this number of columns; else raise ValueError."""
    hessian = np.asarray(hessian)
    if hessian.shape != (columns, columns) or hessian.dtype.kind != "f":
        shape = (columns, columns)
        raise ValueError(f"the Hessian must be floats of shape {shape}, got {hessian.dtype} {hessian.shape}")
    if not np.isfinite(hessian).all() or (np.diag(hessian) < 0).any():
        raise ValueError("the Hessian has numbers that are not finite, or are negative on its diagonal")
    return hessian


def output_error(weight: np.ndarray, approximation: np.ndarray, hessian: np.ndarray) -> float:
    """The relative error of a layer's outputs, Σ |x (W - A)ᵀ|² / Σ |x Wᵀ|² over all inputs x.

    hessian: Σ x xᵀ (I, I), which determines both sums without the inputs.

    >>> output_error(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]), np.eye(2))
    0.2
    """
    difference = weight - approximation
    error, size = ((matrix @ hessian * matrix).sum(dtype=np.float64) for matrix in (difference, weight))
    return float(error / size) if size > 0 else 0.0
