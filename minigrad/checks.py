"""What can be wrong with a graph, or with what a backward returns: found before it does harm, said in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, is_array, module_of

if TYPE_CHECKING:  # for annotations only
    from .autograd import Context
    from .tensor import Tensor


def check_not_released(ctx: Context) -> None:
    """Raise RuntimeError if an earlier backward has freed what this node had saved."""
    if ctx.released:
        raise RuntimeError(
            f"backward() reached {ctx}, through which an earlier backward() has gone, so that what it had saved is "
            "freed. Compute the forward pass again, or keep the graph the first time: backward(retain_graph=True)"
        )


def check_not_overwritten(nodes: Iterable[Context], changed: list[Tensor]) -> None:
    """Raise RuntimeError if a node has saved (a view of) the data of a leaf that was changed in place since."""
    for ctx in nodes:
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


def checked_gradients(ctx: Context, returned: Any) -> list[Array | None]:
    """The tuple that `ctx`'s backward returned, with each gradient in the shape and dtype of its input.

    Raises TypeError or ValueError where it is no tuple, or has the wrong length or a wrong shape.
    """
    name = ctx.function.__name__
    if not isinstance(returned, tuple) or len(returned) != len(ctx.edges):
        got = f"{len(returned)} entries" if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(
            f"{name}.backward must return a tuple, one entry per input ({len(ctx.edges)}); it returned {got}"
        )
    gradients: list[Array | None] = []
    for index, (edge, dinput) in enumerate(zip(ctx.edges, returned, strict=True)):
        if edge is None or dinput is None:
            gradients.append(None)
            continue
        target, output = edge
        shape, dtype = (target.shape, target.dtype) if target.is_leaf else target.outputs[output]
        dinput = dinput if is_array(dinput) else np.asarray(dinput)  # a full reduction in NumPy returns a scalar
        if dinput.shape != shape:
            raise ValueError(
                f"{name}.backward returned a gradient of shape {dinput.shape} for input {index} of shape {shape}"
            )
        gradients.append(dinput if dinput.dtype == dtype else dinput.astype(dtype))
    return gradients
