"""Where gradients meet: adding up without a copy too many, and without writing to an array that somebody else holds.

A backward may return its `dout` itself, a view of it, one array for two inputs (`x + y` does), or an array that it
keeps; and a user may hold a `.grad`. So nothing is known about an array but how many references to it there are, which
Python counts. Where our list has the only one, the array may be written to; any other is left as it is.
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
    """Is `arrays[index]` known to this list only, and the owner of its memory? (For None: no.)"""
    if sys.getrefcount(arrays[index]) != _ONLY_THERE:
        return False
    flags = arrays[index].flags
    return flags.owndata and getattr(flags, "writeable", True)  # CuPy has no read-only arrays


def add_up(sums: list[Any], index: int, gradients: list[Any], i: int) -> None:
    """`sums[index]` + `gradients[i]` into `sums[index]`, in the memory of one of the two where it is ours."""
    if not nobody_else_holds(sums, index):
        if nobody_else_holds(gradients, i):
            sums[index], gradients[i] = gradients[i], sums[index]
        else:
            sums[index] = sums[index].copy()
    sums[index] += gradients[i]


def add_to_leaf(leaf: Tensor, gradients: list[Any], i: int) -> None:
    """Add `gradients[i]` to `leaf.grad`; the first one becomes it, or a copy where somebody else holds it."""
    if leaf.grad is None:
        leaf.grad = gradients[i] if nobody_else_holds(gradients, i) else gradients[i].copy()
        return
    held = _taken(leaf)
    add_up(held, 0, gradients, i)
    leaf.grad = held[0]


def _taken(leaf: Tensor) -> list[Any]:
    held = [leaf.grad]
    leaf.grad = None
    return held


class GradientSums:
    """The gradients that have arrived in the graph and wait for the rest: a list per node, one entry per output.

    An edge is (Context, which of its outputs) or (leaf Tensor, its version); a leaf keeps its sum in `.grad`.
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
        else:
            add_up(sums, index, gradients, i)

    def lend(self, edge: tuple[Any, int] | None, i: int) -> Array | None:
        """What has arrived at `edge`, for a backward to add the gradient of its input i to; None if that cannot be."""
        if edge is None or i in self.lent:
            return self.lent.get(i)
        target, index = edge
        if target.is_leaf:
            sums, index = _taken(target), 0
            ours = nobody_else_holds(sums, index)
            target.grad = sums[index]
        else:
            sums = self.arrays.get(target, [])
            ours = bool(sums) and nobody_else_holds(sums, index)
        if ours:
            self.lent[i] = sums[index]
        return self.lent.get(i)

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
