"""Adapters that put a learner's ops and functions to work in places of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import Tensor

from .checks import Patch


def used_where(fits: Callable[..., bool], written: Any, library: Any) -> Any:
    """An op: the learner's where `fits(*arrays, **options)`; elsewhere, for example for broadcasting, the library's."""

    class Chosen(library):
        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            ctx.chosen = written if fits(*arrays, **options) else library
            return ctx.chosen.forward(ctx, *arrays, **options)

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            return ctx.chosen.backward(ctx, *douts)

    return Chosen


def with_arguments(op: Any, arrange: Callable[..., tuple[Any, ...]], gradients: Callable[[Any], Any] = tuple) -> Any:
    """`op`, called with other arguments: `arrange` turns them into those that `op.forward` takes.

    gradients: turns what `op.backward` returns into one gradient for each of the other arguments.
    """

    class Arranged(op):
        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            return op.forward(ctx, *arrange(*arrays, **options))

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            return gradients(op.backward(ctx, *douts))

    return Arranged


def as_update(name: str, optimizer: str, kept: tuple[str, ...], numbers: Callable[..., tuple[Any, ...]]) -> Patch:
    """The learner's function `name` in the place of an optimizer's `update`.

    kept: what the optimizer calls the arrays that the function gets after p and grad, and returns after the new p.
    numbers(t, group): what comes after the arrays, at step t.
    """

    def adapt(step: Callable[..., Any]) -> Any:
        def update(self: Any, p: Tensor, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
            state["step"] = state.get("step", 0) + 1
            arrays = [state.get(key, np.zeros_like(p.data)) for key in kept]
            p.data[...], *arrays = step(p.data, grad, *arrays, *numbers(state["step"], group))
            state.update(zip(kept, arrays))

        return update

    return Patch(name, f"minigrad.optim.{optimizer}.update", adapt=adapt)
