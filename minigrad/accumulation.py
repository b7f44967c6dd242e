"""Where gradients meet: adding up without a copy too many, and without writing to an array that somebody else holds.

A backward may return its `dout` itself, a view of it, one array for two inputs (`x + y` does), or an array that it
keeps. Nothing is known about an array that arrives but how many references there are to it: Python counts them. Where
our list has the only one, the array may be written to; any other is copied first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .backend import Array, module_of
from .dtypes import is_floating

if TYPE_CHECKING:  # for annotations only
    from .autograd import Context
    from .tensor import Tensor

_probe = [object()]
_ONLY_THERE = sys.getrefcount(_probe[0])  # the place in the list, and the argument of the call


def nobody_else_holds(arrays: list[Any], index: int) -> bool:
    """Is `arrays[index]` known to this list only, and the owner of its memory?"""
    if sys.getrefcount(arrays[index]) != _ONLY_THERE:
        return False
    flags = arrays[index].flags
    return flags.owndata and getattr(flags, "writeable", True)  # CuPy has no read-only arrays


class GradientSums:
    """The gradients that have arrived in the graph and wait for the rest: a list per node, one entry per output.

    An edge is (Context, which of its outputs) or (leaf Tensor, its version). What arrives at a leaf goes into its
    `.grad`, which is the leaf's own.
    """

    def __init__(self) -> None:
        self.arrays: dict[Context, list[Any]] = {}
        self.lent: dict[int, Array] = {}  # by input: the sums that the backward now running has asked for

    def add(self, edge: tuple[Any, int], gradients: list[Any], i: int) -> None:
        """Add `gradients[i]` to what has arrived at `edge`."""
        if gradients[i] is None or gradients[i] is self.lent.get(i):  # none, or added already
            return
        target, index = edge
        if target.is_leaf:
            add_to_leaf(target, gradients, i)
            return
        sums = self.arrays.setdefault(target, [None] * len(target.outputs))
        if sums[index] is None:
            sums[index] = gradients[i]
            return
        if not nobody_else_holds(sums, index):
            if nobody_else_holds(gradients, i):
                sums[index], gradients[i] = gradients[i], sums[index]
            else:
                sums[index] = sums[index].copy()
        sums[index] += gradients[i]

    def lend(self, edge: tuple[Any, int] | None, i: int) -> Array | None:
        """What has arrived at `edge`, for a backward to add the gradient of its input i to; None if that cannot be."""
        if edge is None:
            return None
        target, index = edge
        if target.is_leaf:
            array = target.grad
        else:
            sums = self.arrays.get(target)
            array = sums[index] if sums and sums[index] is not None and nobody_else_holds(sums, index) else None
        if array is not None:
            self.lent[i] = array
        return array

    def pop(self, node: Context) -> list[Any] | None:
        """One gradient per output of `node`: zeros where none arrived (None for integers). None if none did."""
        sums = self.arrays.pop(node, None)
        if sums is None:
            return None
        arrived = next(array for array in sums if array is not None)
        for index, (shape, dtype) in enumerate(node.outputs):
            if sums[index] is None and is_floating(dtype):
                sums[index] = module_of(arrived).zeros(shape, dtype)
        return sums


def add_to_leaf(leaf: Tensor, gradients: list[Any], i: int) -> None:
    """Add `gradients[i]` to `leaf.grad`; the first one becomes it, without a copy where nobody else holds it."""
    if leaf.grad is not None:
        leaf.grad += gradients[i]
    else:
        leaf.grad = gradients[i] if nobody_else_holds(gradients, i) else gradients[i].copy()
