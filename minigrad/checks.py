"""What can be wrong with a graph, or with what a backward returns: found before it does harm, and said in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, is_array, module_of

if TYPE_CHECKING:  # for annotations only
    from .autograd import Context


def check_usable(ctx: Context) -> None:
    """Raise RuntimeError if an earlier backward freed this node, or what it saved has been overwritten since."""
    if ctx.released:
        raise RuntimeError(
            f"backward() reached {ctx}, through which an earlier backward() has gone, so that what it had saved is freed. "
            "Compute the forward pass again, or keep the graph the first time with backward(retain_graph=True)"
        )
    for edge in ctx.edges:
        if edge is not None and hasattr(edge[0], "version") and edge[0].version != edge[1]:
            _check_not_overwritten(ctx, edge[0].data)


def _check_not_overwritten(ctx: Context, data: Array) -> None:
    for name, value in ctx.saved().items():
        if is_array(value) and module_of(value).may_share_memory(value, data):
            raise RuntimeError(
                f"{ctx} saved a tensor of shape {data.shape} as ctx.{name}, which was changed in place before backward() "
                "(an optimiser step? weights loaded?). Run the forward pass again after the change"
            )


def checked_gradients(ctx: Context, returned: Any) -> list[Array | None]:
    """The tuple that `ctx`'s backward returned, with each gradient in the shape and dtype of its input.

    Raises TypeError or ValueError where it is no tuple, or has the wrong length or a wrong shape.
    """
    name = ctx.function.__name__
    if not isinstance(returned, tuple) or len(returned) != len(ctx.edges):
        got = f"{len(returned)} entries" if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(f"{name}.backward must return a tuple, one entry per input ({len(ctx.edges)}); it returned {got}")
    gradients: list[Array | None] = []
    for index, (edge, dinput) in enumerate(zip(ctx.edges, returned, strict=True)):
        if edge is None or dinput is None:
            gradients.append(None)
            continue
        target, output = edge
        is_leaf = hasattr(target, "version")
        shape, dtype = (target.data.shape, target.data.dtype) if is_leaf else target.outputs[output]
        dinput = dinput if is_array(dinput) else np.asarray(dinput)  # a full reduction in NumPy returns a scalar
        if dinput.shape != shape:
            raise ValueError(f"{name}.backward returned a gradient of shape {dinput.shape} for input {index} of shape {shape}")
        gradients.append(dinput if dinput.dtype == dtype else dinput.astype(dtype))
    return gradients
