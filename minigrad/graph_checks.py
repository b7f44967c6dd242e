"""Mistakes in a graph, and in what a backward returns: found before they do harm, each named in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .accumulation import SparseGradient
from .backend import Array, is_array, module_of

if TYPE_CHECKING:  # for annotations only
    from .autograd import Context
    from .tensor import Tensor


def check_graph(nodes: Iterable[Context]) -> None:
    """Raise RuntimeError if backward cannot run: an earlier one has freed what a node saved, or it was overwritten.

    What writes to a leaf in place (an optimizer, `load_state_dict`) counts up its `version`. An edge has the version
    that the op has seen; where the two differ, an array that the op saved may hold other numbers now.
    """
    changed: list[Tensor] = []
    for ctx in nodes:
        if ctx.released:
            raise RuntimeError(
                f"backward() reached {ctx}, through which an earlier backward() has gone, so that what it had saved is "
                "freed. Compute the forward pass again, or keep the graph the first time: backward(retain_graph=True)"
            )
        for source, version in filter(None, ctx.edges):
            if source.is_leaf and source.version != version:
                changed.append(source)
    for ctx in nodes if changed else ():
        _check_not_overwritten(ctx, changed)


def _check_not_overwritten(ctx: Context, changed: list[Tensor]) -> None:
    for leaf in changed:
        if any(edge is not None and edge[0] is leaf and edge[1] == leaf.version for edge in ctx.edges):
            continue  # it ran after the change
        for name, array in _saved_arrays(ctx):
            if module_of(array) is module_of(leaf.data) and module_of(array).may_share_memory(array, leaf.data):
                raise RuntimeError(
                    f"{ctx} saved a tensor of shape {leaf.shape} as ctx.{name}, which was changed in place before "
                    "backward() (an optimiser step? weights loaded?). Run the forward pass again after the change"
                )


def _saved_arrays(ctx: Context) -> Iterator[tuple[str, Array]]:
    for name, value in ctx.saved().items():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if is_array(entry):
                yield name, entry


def checked_gradients(ctx: Context, returned: Any) -> list[Any]:
    """What `ctx`'s backward returned, as a list: one gradient per input, of the input's shape and dtype.

    Raises TypeError where it is not a tuple of that length, ValueError for a gradient of another shape.
    """
    name = ctx.function.__name__
    if not isinstance(returned, tuple) or len(returned) != len(ctx.edges):
        got = f"{len(returned)} entries" if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(
            f"{name}.backward must return a tuple, one entry per input ({len(ctx.edges)}); it returned {got}"
        )
    gradients: list[Any] = []
    for index, (edge, dinput) in enumerate(zip(ctx.edges, returned, strict=True)):
        if edge is None or dinput is None:
            gradients.append(None)
            continue
        target, output = edge
        shape, dtype = (target.shape, target.dtype) if target.is_leaf else target.outputs[output]
        if not is_array(dinput) and not isinstance(dinput, SparseGradient):
            dinput = np.asarray(dinput)  # a full reduction in NumPy returns a scalar
        if dinput.shape != shape:
            raise ValueError(
                f"{name}.backward returned a gradient of shape {dinput.shape} for input {index} of shape {shape}"
            )
        if dinput.dtype != dtype:
            dinput = (dinput.dense() if isinstance(dinput, SparseGradient) else dinput).astype(dtype)
        gradients.append(dinput)
    return gradients
