"""Where gradients meet: adding them up without a copy too many, and without writing to an array that somebody else holds.

A backward may return its `dout` itself, a view of it, or one array for two inputs (`x + y` does). The walk therefore adds in place only to
arrays that it owns: those that it made by adding, or that the backward made and nobody else has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, module_of
from .dtypes import is_floating

if TYPE_CHECKING:  # for annotations only
    from .autograd import Context
    from .tensor import Tensor


class GradientSums:
    """The gradients that have arrived at each node of the graph, and which of these arrays are the walk's own."""

    def __init__(self) -> None:
        self.arrays: dict[Context, list[Any]] = {}
        self.ours: set[tuple[Context, int]] = set()

    def add(self, node: Context, index: int, gradient: Array, fresh: bool) -> None:
        """Add to the gradient of output `index` of `node`."""
        arrays = self.arrays.setdefault(node, [None] * len(node.outputs))
        if arrays[index] is None:
            arrays[index] = gradient
        elif (node, index) not in self.ours:
            arrays[index] = arrays[index] + gradient
            fresh = True
        elif arrays[index] is not gradient:  # else backward has added to it already
            arrays[index] += gradient
        if fresh:
            self.ours.add((node, index))

    def owned(self, edge: tuple[Any, int] | None) -> Array | None:
        """The gradient at the end of `edge` so far, if a backward may add to it in place."""
        if edge is None:
            return None
        target, index = edge
        if hasattr(target, "grad"):  # a leaf, which owns its gradient
            return target.grad
        return self.arrays[target][index] if edge in self.ours else None

    def pop(self, node: Context) -> list[Any]:
        """One gradient per output of `node`, zeros where none arrived."""
        arrays = self.arrays.pop(node, [None] * len(node.outputs))
        arrived = next((array for array in arrays if array is not None), np.zeros(0))
        for index, (shape, dtype) in enumerate(node.outputs):
            self.ours.discard((node, index))
            if arrays[index] is None and is_floating(dtype):
                arrays[index] = module_of(arrived).zeros(shape, dtype)
        return arrays


def is_fresh(dinput: Array, elsewhere: Iterable[Any], dinputs: Sequence[Any]) -> bool:
    """Did the backward that returned `dinput` make it, so that nobody else holds it?"""
    if dinput.base is not None or not dinput.flags.owndata:
        return False
    return not any(dinput is array for array in elsewhere) and sum(dinput is array for array in dinputs) == 1


def add_to_leaf(leaf: Tensor, gradient: Array, fresh: bool) -> None:
    if leaf.grad is None:
        leaf.grad = gradient if fresh else gradient.copy()
    elif leaf.grad is not gradient:  # else backward has added to it already
        leaf.grad += gradient
