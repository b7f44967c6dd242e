"""The arguments of ops: which axes `dim` names, and errors that say what is wrong with an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..backend import Array
from ..dtypes import is_floating

if TYPE_CHECKING:
    from ..tensor import Tensor

Operand: TypeAlias = "Tensor | Array | float"  # what an elementwise op accepts
Indices: TypeAlias = "Tensor | Array"  # of integers: ids, classes, places
Size: TypeAlias = int | Sequence[int]  # reshape(2, 3) or reshape((2, 3))
Dims: TypeAlias = int | Sequence[int] | None  # one axis, several, or all of them


def check_tensor(op: str, *operands: Any) -> None:
    """Raise TypeError for what is neither a Tensor nor an array, such as a list."""
    for x in operands:
        if not hasattr(x, "ndim"):
            raise TypeError(f"{op}: expected a tensor, got {type(x).__name__}; make one with minigrad.tensor(...)")


def check_floating(op: str, x: Any) -> None:
    """Raise TypeError for integers and booleans."""
    check_tensor(op, x)
    if not is_floating(x.dtype):
        raise TypeError(f"{op}: needs floating point, got {x.dtype}; convert with .to(np.float32)")


def check_boolean(op: str, mask: Any) -> None:
    """Raise TypeError unless the mask is a tensor or an array of booleans."""
    dtype = getattr(mask, "dtype", None)
    if dtype is None or dtype.kind != "b":
        found = type(mask).__name__ if dtype is None else dtype
        raise TypeError(f"{op}: the mask must be boolean, got {found}; compare, as in x > 0, to make one")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError for a number outside 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in 0..1, got {value}")


def normalize_dims(op: str, dim: Dims, x: Any) -> tuple[int, ...]:
    """The axes of x that `dim` names, as a sorted tuple of numbers >= 0; None and () mean all of them.

    Raises IndexError for an axis that does not exist, ValueError for one named twice, TypeError for a dim that is not
    an integer, and for an x that is not a tensor.

    >>> x = np.zeros((2, 3, 4))
    >>> normalize_dims("sum", -1, x), normalize_dims("sum", (2, 0), x), normalize_dims("sum", None, x)
    ((2,), (0, 2), (0, 1, 2))
    """
    check_tensor(op, x)
    if dim is None:
        return tuple(range(x.ndim))
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    axes = sorted([normalize_dim(op, d, x) for d in dims])
    if len(set(axes)) < len(axes):
        raise ValueError(f"{op}: dim {dim} names an axis twice")
    return tuple(axes) if axes and x.ndim else tuple(range(x.ndim))


def normalize_dim(op: str, dim: Any, x: Any, new_axes: int = 0) -> int:
    """The axis of x that `dim` names, counted from the front; errors as above.

    A tensor of no dimensions accepts 0 and -1, as in PyTorch. new_axes: how many axes the result has more than x.
    """
    check_tensor(op, x)
    ndim = x.ndim + new_axes
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
        raise TypeError(f"{op}: dim must be an integer, got {type(dim).__name__} {dim!r}")
    size = ndim or 1
    if not -size <= dim < size:
        allowed = f"it must be {-size}..{size - 1}"
        raise IndexError(f"{op}: dim {dim} does not exist in a tensor of {ndim} dimensions; {allowed}")
    return int(dim) % size
