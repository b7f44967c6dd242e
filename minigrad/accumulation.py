"""Where gradients meet, they add up: sums[edge] += gradient.

Gradients are added in place where possible, because a new array for each sum would slow a training step down. But we
never write into an array that somebody else holds. A backward may return `dout` itself (`x + y` returns it twice), a
view of it, or an array that it keeps; and a user may hold a `.grad`. Python counts the references to each array: if the
list here has the only one, we may write to the array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .backend import Array, module_of
from .dtypes import is_floating

if TYPE_CHECKING:  # for annotations only
    from .autograd import Context
    from .tensor import Tensor

Edge = tuple[Any, int]  # where an input came from: see Context


class GradientSums:
    """The gradients that have arrived: for each node, a list with one entry per output; for a leaf, its `.grad`."""

    def __init__(self) -> None:
        self.arrays: dict[Context, list[Any]] = {}

    def add(self, edges: Sequence[Edge | None], gradients: list[Any]) -> None:
        """Add each gradient to what has arrived at its edge, and remove it from the list."""
        for i, edge in enumerate(edges):
            if edge is not None and gradients[i] is not None:
                target, index = edge
                if target.is_leaf:  # the end of this path: the gradient goes into .grad
                    if target.requires_grad:  # it may have been frozen since
                        add_to_grad(target, gradients, i)
                else:  # a node further back: its gradient waits here until all of its users have been visited
                    add(self.arrays.setdefault(target, [None] * len(target.outputs)), index, gradients, i)
                gradients[i] = None  # drop this reference: the count then shows whether anybody else has the array

    def pop(self, node: Context) -> list[Any] | None:
        """One gradient per output of `node`: zeros where none arrived, or None for integers. None if none arrived."""
        sums = self.arrays.pop(node, None)
        if sums is None:
            return None
        arrived = next(array for array in sums if array is not None)  # it knows whether we work with NumPy or CuPy
        for index, (shape, dtype) in enumerate(node.outputs):
            if sums[index] is None and is_floating(dtype):
                sums[index] = module_of(arrived).zeros(shape, dtype)
        return sums


def add(sums: list[Any], index: int, gradients: list[Any], i: int) -> None:
    """sums[index] += gradients[i], in the memory of one of the two if nobody else holds it."""
    if isinstance(gradients[i], SparseGradient):
        if sums[index] is None:
            sums[index] = gradients[i].dense()
            return
        if not _only_here(sums, index):
            sums[index] = sums[index].copy()  # somebody else reads this array: we write into a copy
        gradients[i].add_to(sums[index])
        return
    if sums[index] is None:  # the first to arrive: no addition yet, and no copy
        sums[index] = gradients[i]
        return
    if not _only_here(sums, index):
        if _only_here(gradients, i):  # a + b = b + a: the other of the two takes the sum
            sums[index], gradients[i] = gradients[i], sums[index]
        else:  # both are in use elsewhere: the sum needs memory of its own
            sums[index] = sums[index].copy()
    sums[index] += gradients[i]


def add_to_grad(tensor: Tensor, gradients: list[Any], i: int) -> None:
    """tensor.grad += gradients[i]. Afterwards the tensor owns its gradient: nobody else reads it or writes to it."""
    sums = [tensor.grad]
    tensor.grad = None  # for now, so that only the list refers to the array
    if sums[0] is None and not isinstance(gradients[i], SparseGradient) and not _only_here(gradients, i):
        gradients[i] = gradients[i].copy()  # a view, or an array that a backward keeps
    add(sums, 0, gradients, i)
    tensor.grad = sums[0]


class SparseGradient:
    """A gradient that is zero nearly everywhere; a backward may return it instead of an array.

    An embedding of 50,000 rows gets gradients for the few hundred rows that occurred. If the weight has a gradient
    already, as in a model whose output layer shares its weight, these rows are added to it. A second array of 50,000
    rows is never made.

    values: the numbers that are not zero. add_to(array): adds them, in their places, to an array of `shape`.
    """

    def __init__(self, shape: tuple[int, ...], values: Array, add_to: Callable[[Array], None]):
        self.shape, self.dtype, self.values, self.add_to = shape, values.dtype, values, add_to

    def dense(self) -> Array:
        """As an array."""
        array = module_of(self.values).zeros(self.shape, self.dtype)
        self.add_to(array)
        return array


_probe = [object()]
_ONE_REFERENCE = sys.getrefcount(_probe[0])  # what Python counts if only a list holds the object


def _only_here(arrays: list[Any], index: int) -> bool:
    """Does only this list hold `arrays[index]`, and does the array own its memory?"""
    if sys.getrefcount(arrays[index]) != _ONE_REFERENCE:
        return False
    flags = arrays[index].flags
    return flags.owndata and getattr(flags, "writeable", True)  # CuPy has no read-only arrays
