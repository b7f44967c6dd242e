"""Broadcasting and its reverse, which every op with two operands shares; and the `dim` argument that reductions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..backend import Array

if TYPE_CHECKING:
    from ..tensor import Tensor

Operand: TypeAlias = "Tensor | Array | float"  # what an elementwise op accepts
Dims: TypeAlias = int | Sequence[int] | None  # one axis, several, or all of them


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array; () for a Python number."""
    return getattr(x, "shape", ())


def array_of(x: Any) -> Any:
    """The array of a Tensor; anything else as it is."""
    return x.data if hasattr(x, "requires_grad") else x


def unbroadcast(dout: Array, shape: tuple[int, ...]) -> Array:
    """Sum `dout` down to `shape`: where forward repeated a value, backward adds up what all its copies received.

    A (3,) bias added to a (2, 3) activation was used by both rows:

    >>> import numpy as np
    >>> unbroadcast(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (3,))
    array([11., 22., 33.])
    >>> unbroadcast(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (2, 1))
    array([[ 6.],
           [60.]])
    """
    if dout.shape == shape:
        return dout
    added = dout.ndim - len(shape)
    stretched = tuple(axis + added for axis, size in enumerate(shape) if size == 1 and dout.shape[axis + added] != 1)
    return dout.sum(axis=tuple(range(added)) + stretched, keepdims=True).reshape(shape)


def normalize_dims(op: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    """`dim` as a sorted tuple of axes >= 0; None and () mean all of them.

    Raises IndexError for an axis that does not exist, ValueError for one named twice.
    """
    if dim is None:
        return tuple(range(ndim))
    dims = (dim,) if not isinstance(dim, Sequence) else tuple(dim)
    if not dims:
        return tuple(range(ndim))
    axes = tuple(normalize_dim(op, d, ndim) for d in dims)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{op}: dim {dims} names an axis twice")
    return tuple(sorted(axis for axis in axes if axis < ndim))


def normalize_dim(op: str, dim: int, ndim: int) -> int:
    """`dim` counted from the front. A tensor of no dimensions accepts 0 and -1, as in PyTorch."""
    size = ndim or 1
    if not -size <= dim < size:
        raise IndexError(f"{op}: dim {dim} does not exist in a tensor of {ndim} dimensions; it must be {-size}..{size - 1}")
    return dim % size


def restore_dims(reduced: Array, dims: tuple[int, ...], ndim: int) -> Array:
    """Give a reduced array its reduced axes back, of length 1."""
    sizes = list(reduced.shape) if reduced.ndim else []
    if len(sizes) < ndim:
        for axis in dims:
            sizes.insert(axis, 1)
    return reduced.reshape(sizes)
