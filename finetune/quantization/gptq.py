"""GPTQ: round one column after the other, and correct the columns that are not yet rounded for the error.

A weight w is stored as a *level*, a small integer: -8 to 7 with 4 bits. With the *scale* and the *zero* that it shares
with its neighbors, the level stands for the number

    w ≈ scale · (level - zero)

The *grid* is the set of these numbers for all levels: with scale 0.5 and zero 0 it is -4, -3.5, ..., 3.5. A grid is
given by its scale and its zero; the function `grid` (rounding.py) computes them from the weights. Rounding to nearest
takes the number of the grid that is closest to w.

*The aim.* What matters is not each weight, but the layer's output W x on real inputs x. The rows of W (O, I) do not
depend on each other, so take one of them. If it changes by d (1, I), its output changes by the number d x, whose square
is (d x)(d x)ᵀ = d x xᵀ dᵀ. The sum over all inputs should be as small as possible:

    Σ_x (d x)² = d H dᵀ,        H = Σ_x x xᵀ  (I, I)

H is called the Hessian: 2 H is the matrix of second derivatives of this sum by the elements of d.

*The method.* Go through the columns of W from left to right. Round the weight of column q to nearest, with the error
e = weight - rounded. Then change the weights after it so as to correct the output for the error: if two inputs are
usually equal and one of their weights is rounded down, the other one should be raised.

*The correction* (equation 2 of the paper). The weights before q are rounded already and stay as they are. Let d now be
the change of the weights from q on: its first element is -e, the others are free. Let H_q = H[q:, q:] be the rows and
columns of H that belong to them. d H_q dᵀ is smallest where its derivative by each free element is 0. The derivatives
are the elements of 2 d H_q. All but the first, which belongs to -e, are 0. Call the first one 2 λ:

    d H_q = (λ, 0, ..., 0)
    d     = (λ, 0, ..., 0) H_q⁻¹ = λ · (first row of H_q⁻¹)

λ is what makes the first element -e:

    d = -e · (first row of H_q⁻¹) / (first element of H_q⁻¹)

Earlier columns have changed the output as well. But the earlier corrections left the derivative 0 at every weight from
q on, as all of these were free. So the cross term of d with the earlier change is 0, and only d's own part counts.

*In five lines*, for one row w, and with all integers as the grid. The two inputs are nearly equal. The first weight is
rounded down, e = 0.4, so the second one is raised by 0.396, and rounded up:

    >>> w, H = np.array([0.4, 0.4]), np.array([[1.0, 0.99], [0.99, 1.0]])
    >>> for q in range(len(w)):
    ...     first_row = np.linalg.inv(H[q:, q:])[0]
    ...     e = w[q] - np.round(w[q])
    ...     w[q:] -= e * first_row / first_row[0]  # add d: w[q] itself becomes np.round(w[q])
    ...     print(w.round(3))
    [0.    0.796]
    [0. 1.]

An inverse for every q would be expensive. `inverse_factor` computes one matrix U that contains the first rows of all of
them, and `round_columns` is the method itself. Below them is what a whole weight needs: groups of columns with their
own grids, blocks for speed, and a Hessian that can be inverted.

Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers".
"""

from __future__ import annotations

import numpy as np

from .array import WHOLE_ARRAY, WHOLE_ROW, QuantizedArray, as_matrix, number_of_groups
from .rounding import grid, to_levels


def inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """The upper triangular U with H⁻¹ = Uᵀ U, from which all corrections follow (section 3.3 of the paper, step 3).

    For every q,

        first row of H[q:, q:]⁻¹ = U[q, q] · U[q, q:]        so the correction is d = -e · U[q, q:] / U[q, q]

    This is why:

    1. Let H = R Rᵀ with an upper triangular R. In columns before q, the rows of R from q on are 0. These columns add
       nothing to the product of these rows, so H[q:, q:] = R[q:, q:] R[q:, q:]ᵀ.
    2. Let U = R⁻¹. It is upper triangular as well, and U[q:, q:] is the inverse of R[q:, q:]. Inverting both sides of
       step 1 gives H[q:, q:]⁻¹ = U[q:, q:]ᵀ U[q:, q:].
    3. The first row of U[q:, q:]ᵀ is U[q, q] and zeros. So the first row of the product is U[q, q] times the first row
       of U[q:, q:], which is U[q, q:].

    >>> hessian = np.array([[4.0, 2.0, 1.0], [2.0, 3.0, 1.0], [1.0, 1.0, 2.0]])
    >>> U = inverse_factor(hessian)
    >>> print(np.linalg.inv(hessian[1:, 1:])[0], (U[1, 1] * U[1, 1:]).round(3))  # q = 1
    [ 0.4 -0.2] [ 0.4 -0.2]

    Raises LinAlgError unless H is positive definite.
    """
    # NumPy's Cholesky factor L is lower triangular. Reversing its rows and its columns makes it upper triangular:
    # [[a, 0], [b, c]] becomes [[c, b], [0, a]]. With L Lᵀ = the reversed H, reversing both sides gives R Rᵀ = H.
    R = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    return np.linalg.inv(R)


def round_columns(
    weight: np.ndarray, U: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """GPTQ with one grid per row: round a weight matrix (O, I) column by column, and correct the columns left.

    U: `inverse_factor` of the Hessian. scales, zeros (O): the scale and the zero of each row's grid; zeros is None if
    all are 0. Returns the levels (O, I), and e / U[q, q] for each weight (O, I), where e is its error and q its column.

    The example from the top of this page. The second weight is 0.796 when its turn comes:

    >>> U = inverse_factor(np.array([[1.0, 0.99], [0.99, 1.0]]))
    >>> levels, scaled_errors = round_columns(np.array([[0.4, 0.4]]), U, np.array([1.0]), None, bits=4)
    >>> print(levels, (0.4 - scaled_errors[:, 0] * U[0, 1]).round(3))
    [[0. 1.]] [0.796]
    """
    left = weight.copy()  # the weights, with all corrections so far
    levels, scaled_errors = np.empty_like(left), np.empty_like(left)
    for q in range(left.shape[1]):
        levels[:, q] = to_levels(left[:, q], scales, zeros, bits)  # (O)
        rounded = scales * (levels[:, q] if zeros is None else levels[:, q] - zeros)
        scaled_errors[:, q] = (left[:, q] - rounded) / U[q, q]  # e / U[q, q] of each row
        # add d = -e · U[q, q:] / U[q, q], for each row
        left[:, q + 1 :] -= np.outer(scaled_errors[:, q], U[q, q + 1 :])
    return levels, scaled_errors


# --- groups, blocks, ordering and damping -----------------------------------------------------------------------------

# Columns are rounded in blocks. Those after a block are corrected once, when the block is complete: one product of
# matrices is faster than 128 outer products, and gives the same result. 128 is the paper's (section 3.3).
COLUMNS_PER_BLOCK = 128
MOST_DAMPING = 1.0  # adds the mean of the Hessian's diagonal to the diagonal, which doubles the mean


def gptq(
    weight: np.ndarray,
    hessian: np.ndarray,
    bits: int = 4,
    group_size: int = 64,
    symmetric: bool = True,
    act_order: bool = False,
    damping: float = 0.01,
) -> QuantizedArray:
    """Round a weight matrix (O, I) so that its outputs change little on inputs with this `hessian` Σ x xᵀ (I, I).

    group_size: numbers in a row that share a grid; WHOLE_ROW (-1) or WHOLE_ARRAY (0) for one grid per row, or for all.
        The grid of a group is computed when its first column is reached, from weights that are corrected by then.
    symmetric: whether all zeros are 0, as in `absmax`; otherwise they are chosen as in `zero_point`.
    act_order: round the columns with the largest inputs first, when most columns are left to correct for them.
    damping: this share of the mean of H's diagonal is added to the diagonal; ten times as much each time the matrix is
        singular.

    Raises ValueError for weights that are not finite, sizes that do not fit, and a matrix that no damping makes
    positive definite, because it is not a sum of x xᵀ.

    The weight 7 makes the scale 1. The two middle inputs are nearly equal. One weight is rounded down to 0, so the
    other is rounded up to 1:

    >>> weight, hessian = np.array([[7.0, 0.4, 0.4, 0.0]]), np.diag([1.0, 1.0, 1.0, 1.0])
    >>> hessian[1, 2] = hessian[2, 1] = 0.99
    >>> print(gptq(weight, hessian, group_size=4).dequantize())
    [[7. 0. 1. 0.]]
    """
    weight = as_matrix(weight, "the weight")
    number_of_groups(weight.shape, bits, group_size)  # raises an error if the sizes do not fit
    columns = weight.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(columns)
    hessian = hessian[np.ix_(order, order)]  # rows and columns in the new order
    unused = np.diag(hessian) == 0  # these inputs are always 0
    # An input that is always 0 allows a weight of 0; `_damped_factor` puts a number in its place on the diagonal.
    left = np.where(unused, 0, weight[:, order]).astype(hessian.dtype)  # (O, I): weights with all corrections so far
    U = _damped_factor(hessian, damping)
    levels = np.empty_like(left)
    grids = []  # the scales and zeros of each grid, (O) or (1)

    # With groups, a block is a group, and gets its grid in its turn. Otherwise there is one grid, known from the start.
    has_groups = group_size not in (WHOLE_ROW, WHOLE_ARRAY)
    columns_per_block = group_size if has_groups else COLUMNS_PER_BLOCK
    if not has_groups:
        grids.append(grid(left.reshape(1, -1) if group_size == WHOLE_ARRAY else left, bits, symmetric))
    for start in range(0, columns, columns_per_block):
        block = slice(start, start + columns_per_block)  # the last one may be shorter
        after = slice(block.stop, columns)
        if has_groups:
            grids.append(grid(left[:, block], bits, symmetric))
        # row q of U is needed only up to the block's end; the rest follows
        levels[:, block], scaled_errors = round_columns(left[:, block], U[block, block], *grids[-1], bits)
        left[:, after] -= scaled_errors @ U[block, after]  # the corrections for all columns of the block
    scales = np.stack([scales for scales, _ in grids], axis=1)  # (O, G)
    zeros = np.stack([zeros for _, zeros in grids if zeros is not None], axis=1) if not symmetric else None
    return QuantizedArray(levels, scales, zeros, bits, order=order if act_order else None)


def _damped_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """The `inverse_factor` of a Hessian whose diagonal has been increased, which makes it possible to invert it."""
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
    raise ValueError("the Hessian is not positive definite, even with its diagonal doubled: it must be a sum of x xᵀ")


def output_error(weight: np.ndarray, approximation: np.ndarray, hessian: np.ndarray) -> float:
    """The relative error of a layer's outputs, Σ |x (W - A)ᵀ|² / Σ |x Wᵀ|² over all inputs x.

    hessian: Σ x xᵀ (I, I), which determines both sums without the inputs.

    >>> output_error(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]), np.eye(2))
    0.2
    """
    d = weight - approximation
    error = (d @ hessian * d).sum(dtype=np.float64)  # d H dᵀ of each row, added up
    size = (weight @ hessian * weight).sum(dtype=np.float64)
    return float(error / size) if size > 0 else 0.0
