"""Broadcasting: NumPy repeats an array that is too small for an operation; backward adds up the copies' gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, sum_over


def unbroadcast(dout: Array, shape: tuple[int, ...] | None) -> Any:
    """Sum `dout` down to `shape`: where forward repeated a value, backward adds up the gradients of its copies.

    Both rows used a (3,) bias that was added to a (2, 3) activation:

    >>> unbroadcast(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (3,))
    array([11., 22., 33.])
    >>> unbroadcast(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), (2, 1))
    array([[ 6.],
           [60.]])
    """
    if shape is None:  # the input was a Python number, which has no gradient
        return None
    if dout.shape == shape:
        return dout
    added = dout.ndim - len(shape)  # axes that NumPy put in front
    # axes of length 1 that became longer; `shape` has them at axis, dout at axis + added
    stretched = tuple(axis + added for axis, size in enumerate(shape) if size == 1 and dout.shape[axis + added] != 1)
    return sum_over(dout, tuple(range(added)) + stretched, keepdims=True).reshape(shape)


def shape_of(x: Any) -> tuple[int, ...] | None:
    """The shape of an array; None for a Python number."""
    return getattr(x, "shape", None)


def check_broadcastable(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that `shapes` broadcast to. Raises ValueError if there is none."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        names = " and ".join([str(shape) for shape in shapes])
        raise ValueError(f"{op}: shapes {names} cannot be broadcast together") from None
