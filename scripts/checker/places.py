"""Adapters that put a learner's ops and functions to work in places of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import Tensor

from .checks import Kernel, Patch


def in_place_of(library: Any, written: Any, place: Kernel) -> Any:
    """An op: the learner's where it fits; elsewhere, for example for broadcasting, the library's."""

    class Chosen(library):
        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            ctx.chosen = written if place.fits(*arrays, **options) else library
            if ctx.chosen is written and place.arrange is not None:
                return written.forward(ctx, *place.arrange(*arrays, **options))
            return ctx.chosen.forward(ctx, *arrays, **options)

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            return tuple(ctx.chosen.backward(ctx, *douts))[: len(ctx.needs_grad)]

    return Chosen


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
