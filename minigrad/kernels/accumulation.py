"""The fast twin of `autograd.add_up`: accumulate gradients in place, without needless copies.

A new array for each sum would slow a training step down. But we never write into an array that somebody else holds. A
backward may return `dout` itself (`x + y` returns it twice), a view of it, or an array that it keeps; and a user may
hold a `.grad`. Python counts the references to each array: if the dictionary or list here has the only one, we may
write to the array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..autograd import Edge
from ..backend import Array, module_of


def add_in_place(sums: dict[Edge, Any], edges: Sequence[Edge | None], gradients: list[Any]) -> None:
    """Add each gradient to what has arrived at its edge, and remove it from the list."""
    for i, edge in enumerate(edges):
        if edge is not None and gradients[i] is not None:
            source = edge[0]
            if source.is_leaf:
                if source.requires_grad:  # it may have been frozen since
                    _add_to_grad(source, gradients, i)
            elif edge in sums:
                _add(sums, edge, gradients, i)
            else:  # the first to arrive: no addition yet, and no copy
                sums[edge] = gradients[i].dense() if isinstance(gradients[i], SparseGradient) else gradients[i]
            gradients[i] = None  # drop this reference: the count then shows whether anybody else has the array


def _add_to_grad(leaf: Any, gradients: list[Any], i: int) -> None:
    """leaf.grad += gradients[i]. Afterwards the leaf owns its gradient: nobody else reads it or writes to it."""
    if leaf.grad is not None:
        owned = [leaf.grad]
        leaf.grad = None  # for now, so that only the list refers to the array
        _add(owned, 0, gradients, i)
        leaf.grad = owned[0]
    elif isinstance(gradients[i], SparseGradient):
        leaf.grad = gradients[i].dense()
    else:  # copied if it is a view, or an array that a backward keeps
        leaf.grad = gradients[i] if _only_here(gradients, i) else gradients[i].copy()


def _add(sums: Any, key: Any, gradients: list[Any], i: int) -> None:
    """sums[key] += gradients[i], in the memory of one of the two if nobody else holds it."""
    is_sparse = isinstance(gradients[i], SparseGradient)
    if not _only_here(sums, key):
        if not is_sparse and _only_here(gradients, i):  # a + b = b + a: the other of the two takes the sum
            sums[key], gradients[i] = gradients[i], sums[key]
        else:  # somebody else reads this array: the sum needs memory of its own
            sums[key] = sums[key].copy()
    if is_sparse:
        gradients[i].add_to(sums[key])
    else:
        sums[key] += gradients[i]


_probe = [object()]
_ONE_REFERENCE = sys.getrefcount(_probe[0])  # what Python counts if only a list or a dictionary holds the object


def _only_here(arrays: Any, key: Any) -> bool:
    """Does only this dictionary or list hold `arrays[key]`, and does the array own its memory?"""
    if sys.getrefcount(arrays[key]) != _ONE_REFERENCE:
        return False
    flags = arrays[key].flags
    return flags.owndata and getattr(flags, "writeable", True)  # CuPy has no read-only arrays


class SparseGradient:
    """A gradient that is zero nearly everywhere; a fast kernel's backward may return it instead of an array.

    An embedding of 50,000 rows gets gradients for the few hundred rows that occurred. If the weight has a gradient
    already, as in a model whose output layer shares its weight, these rows are added to it. A second array of 50,000
    rows is never made. `add_up` itself gets it as an array: see graph_checks.

    values: the numbers that are not zero. add_to(array): adds them, in their places, to an array of `shape`.
    """

    def __init__(self, shape: tuple[int, ...], values: Array, add_to: Callable[[Array], None]):
        self.shape = shape
        self.dtype = values.dtype
        self.values = values
        self.add_to = add_to

    def dense(self) -> Array:
        """As an array."""
        array = module_of(self.values).empty(self.shape, self.dtype)
        self.write_to(array)
        return array

    def write_to(self, array: Array) -> None:
        """array[...] = self"""
        array.fill(0)
        self.add_to(array)

    def astype(self, dtype: Any) -> Array:
        return self.dense().astype(dtype)
