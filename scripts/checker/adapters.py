"""Thin adapters between what the library has and what an exercise asks for, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import Tensor, switches
from minigrad.autograd import Function


def as_function(fn: Callable[..., Any], name: str, differentiate: tuple[int, ...] | None = None) -> type[Function]:
    """A Function out of library code that works on Tensors: its backward is the engine's.

    differentiate: which inputs get a gradient; by default all floating-point arrays.
    """

    class Wrapped(Function):
        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            ctx.leaves = [_leaf(a, differentiate is None or i in differentiate) for i, a in enumerate(arrays)]
            kept = switches.recording.get()
            switches.recording.set((True,))
            try:
                ctx.out = fn(*ctx.leaves, **options)
            finally:
                switches.recording.set(kept)
            return ctx.out.data

        @staticmethod
        def backward(ctx: Any, dout: Any) -> Any:
            for leaf in ctx.leaves:
                if isinstance(leaf, Tensor):
                    leaf.grad = None
            ctx.out.backward(dout, retain_graph=True)
            return tuple(leaf.grad if isinstance(leaf, Tensor) else None for leaf in ctx.leaves)

    Wrapped.__name__ = name
    return Wrapped


def _leaf(value: Any, wanted: bool) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and wanted:
        return Tensor(value, requires_grad=True)
    return value


def when(fits: Callable[..., bool], written: Any, library: Any) -> type[Function]:
    """What was written where `fits(*arrays, **options)`, and the library's elsewhere, such as for broadcasting."""

    class Chosen(Function):
        dtype_rule = library.dtype_rule

        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            ctx.chosen = written if fits(*arrays, **options) else library
            return ctx.chosen.forward(ctx, *arrays, **options)

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            return ctx.chosen.backward(ctx, *douts)

    return Chosen


def alike(*arrays: Any, **options: Any) -> bool:
    """Whether all are arrays of one shape, so that nothing is broadcast."""
    return all(isinstance(a, np.ndarray) for a in arrays) and len({a.shape for a in arrays}) == 1


def with_arguments(op: Any, arrange: Callable[..., tuple[Any, ...]], gradients: Callable[[Any], Any] = tuple) -> Any:
    """`op`, to be called with other arguments: `arrange` makes of them those that `op.forward` takes.

    gradients: makes of what `op.backward` returns one gradient for each of the other arguments.
    """

    class Arranged(op):
        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            return op.forward(ctx, *arrange(*arrays, **options))

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            return gradients(op.backward(ctx, *douts))

    Arranged.__name__ = op.__name__
    return Arranged
