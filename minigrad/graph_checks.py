"""Checks of a graph before backward runs, and of what each backward returns. Each mistake gets an error of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from . import in_place, switches
from .backend import is_array, module_of, named_arrays
from .dtypes import check_differentiable


def check_graph(nodes: Collection[Any]) -> None:
    """Raise RuntimeError if what a node saved was freed by an earlier backward, or overwritten, or for complex numbers.

    `nodes` are the Contexts. Only those that ran before the last change in place (in_place.py) are searched for
    overwritten arrays: in a training loop there are none.
    """
    for ctx in nodes:
        for _, dtype in ctx.outputs:
            if dtype.kind == "c":
                check_differentiable(dtype)
        if ctx.released:
            raise RuntimeError(
                f"backward() reached {ctx}, but an earlier backward() has freed what it saved. Run the forward pass "
                "again, or keep the graph the first time with backward(retain_graph=True)"
            )
    older = [ctx for ctx in nodes if ctx.changes < in_place.changes]
    if older:
        _check_not_overwritten(older)


def _check_not_overwritten(nodes: list[Any]) -> None:
    changed = in_place.changed_since(min(ctx.changes for ctx in nodes))
    for ctx in nodes:
        for name, saved in named_arrays(ctx.saved().items()):
            xp = module_of(saved)
            for number, array in changed:
                if number > ctx.changes and module_of(array) is xp and xp.may_share_memory(saved, array):
                    raise RuntimeError(
                        f"{ctx} saved a tensor of shape {array.shape} as ctx.{name}, and it was changed in place "
                        "before backward(), perhaps by an optimizer or by loading weights. Run the forward pass again"
                    )


def check_returned(ctx: Any, returned: Any) -> list[Any]:
    """Check what the backward of `ctx` returned, and return it as a list: a gradient per input, in the input's dtype.

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
        shape, dtype = shape_and_dtype(edge)
        is_sparse = not is_array(dinput) and hasattr(dinput, "dense")  # the SparseGradient of a fast kernel
        if not is_array(dinput) and not is_sparse:
            dinput = np.asarray(dinput)  # a list, or the scalar that a full reduction in NumPy returns
        if dinput.shape != shape:
            raise ValueError(
                f"{name}.backward returned a gradient of shape {dinput.shape} for input {index} of shape {shape}"
            )
        if dinput.dtype != dtype:
            check_differentiable(dtype)  # x.requires_grad = True is not checked
            dinput = dinput.astype(dtype)
        elif is_sparse and switches.accumulate is None:  # only the fast twin of `add_up` can add it up as it is
            dinput = dinput.dense()
        gradients.append(dinput)
    return gradients


def shape_and_dtype(edge: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Of the tensor at the other end of an edge, and so of its gradient."""
    source, index = edge
    return (source.shape, source.dtype) if source.is_leaf else source.outputs[index]
