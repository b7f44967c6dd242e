"""GPTQ: round one column after the other, and let the columns still to come make up for the error.

Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers".

Rounding to nearest minimises the error of each weight; what counts is the error of the layer's output, over inputs x
as they really come. With the rounding error D of the weights (O, I) that is

    Σ_x |D x|² = tr(D H Dᵀ),    H = Σ x xᵀ  (I, I), the Hessian (up to a factor 2) of each row's error

If two inputs usually agree, then what one weight is rounded up, the other should be lowered. The best correction of
the columns F not yet rounded, after column q got the error e (per row), is e times the row q of H_F⁻¹ over its
diagonal element [equation 2]. All those inverses, of one column fewer each time, are the rows of one upper triangular
matrix U with H⁻¹ = Uᵀ U [section 3.3, step 3]: row q of H_F⁻¹ is U[q, q] · U[q, q:].
"""

from __future__ import annotations

import numpy as np

from .array import WHOLE_ARRAY, WHOLE_ROW, QuantizedArray, as_matrix, number_of_groups
from .rounding import grid, to_levels

COLUMNS = 128  # corrected one by one; those after them, once per so many
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

    group_size: as in `absmax`; a group's scale is set when its first column is reached, from weights that are corrected
    by then. act_order: start with the columns whose inputs are largest, which then are rounded with most columns left
    to make up for them. damping: this share of the mean of the diagonal is added to it, and ten times as much each
    time the matrix turns out to be singular. Raises ValueError for what is not finite, sizes that do not fit, and a
    matrix that no damping makes positive definite (it is no sum of x xᵀ then).

    Of two equal inputs, one weight rounded up is made up for by the other:

    >>> weight, hessian = np.array([[7.0, 0.4, 0.4, 0.0]]), np.diag([1.0, 1.0, 1.0, 1.0])
    >>> hessian[1, 2] = hessian[2, 1] = 0.99
    >>> print(gptq(weight, hessian, group_size=4).dequantize())
    [[7. 0. 1. 0.]]
    """
    weight = as_matrix(weight, "the weight")
    groups = number_of_groups(weight.shape, bits, group_size)
    hessian = checked_gram(hessian, weight.shape[1])
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(weight.shape[1])
    hessian = hessian[np.ix_(order, order)]
    unused = np.diag(hessian) == 0  # inputs that are always 0: whatever their weights are, 0 is as good
    left = np.where(unused, 0, weight[:, order]).astype(hessian.dtype)  # (O, I), corrected as we go
    factor = _inverse_factor(hessian, damping)  # U
    one_grid = None
    if group_size in (WHOLE_ROW, WHOLE_ARRAY):
        one_grid = grid(left.reshape(1, -1) if group_size == WHOLE_ARRAY else left, bits, symmetric)
    step = weight.shape[1] // groups if one_grid is None else COLUMNS
    levels, grids = np.empty_like(left), []  # grids: (scales, zeros) of each group
    for start in range(0, weight.shape[1], step):
        columns = slice(start, min(start + step, weight.shape[1]))
        scales, zeros = one_grid or grid(left[:, columns], bits, symmetric)  # (O), or (1) for the whole array
        grids.append((scales, zeros))
        levels[:, columns], errors = _round_columns(left[:, columns], factor[columns, columns], scales, zeros, bits)
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
    grids = grids[:groups]  # one grid for all columns was used, and noted, several times
    scales = np.stack([scales for scales, _ in grids], axis=1)  # (O, G)
    zeros = np.stack([zeros for _, zeros in grids if zeros is not None], axis=1) if not symmetric else None
    return QuantizedArray(levels, scales, zeros, bits, order=order if act_order else None)


def _round_columns(
    block: np.ndarray, factor: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Round a block's columns from left to right, each error passed on to those after it; `block` is written to.

    Returns levels and errors over the diagonal of U, (O, columns) each.
    """
    levels, errors = np.empty_like(block), np.empty_like(block)
    for q in range(block.shape[1]):
        levels[:, q] = to_levels(block[:, q], scales, zeros, bits)
        rounded = scales * (levels[:, q] if zeros is None else levels[:, q] - zeros)
        errors[:, q] = (block[:, q] - rounded) / factor[q, q]
        block[:, q + 1 :] -= np.outer(errors[:, q], factor[q, q + 1 :])
    return levels, errors


def _inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """U, upper triangular, with H⁻¹ = Uᵀ U, of the damped H.

    Cholesky's factor of H with rows and columns reversed, reversed again, is an upper triangular R with H = R Rᵀ. So
    H⁻¹ = R⁻ᵀ R⁻¹, and U = R⁻¹.
    """
    diagonal = np.diag(hessian)
    mean = diagonal.mean() or 1.0
    diagonal = np.where(diagonal == 0, mean, diagonal)
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
    """The sum of x xᵀ over inputs x, if it can be one for a weight with so many columns; or ValueError."""
    gram = np.asarray(gram)
    if gram.shape != (columns, columns) or gram.dtype.kind != "f":
        raise ValueError(f"the Hessian must be floats of shape {(columns, columns)}, got {gram.dtype} {gram.shape}")
    if not np.isfinite(gram).all() or (np.diag(gram) < 0).any():
        raise ValueError("the Hessian has numbers that are not finite, or are negative on its diagonal")
    return gram


def output_error(weight: np.ndarray, approximation: np.ndarray, gram: np.ndarray) -> float:
    """How far a layer's outputs are off, over how large they are: Σ |x (W - A)ᵀ|² / Σ |x Wᵀ|² over all inputs x.

    gram: Σ x xᵀ (I, I), from which both sums follow without the inputs.

    >>> output_error(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]), np.eye(2))
    0.2
    """
    difference = weight - approximation
    error, size = ((matrix @ gram * matrix).sum(dtype=np.float64) for matrix in (difference, weight))
    return float(error / size) if size > 0 else 0.0
