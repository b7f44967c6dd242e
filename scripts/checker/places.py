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


def alike(*arrays: Any, **options: Any) -> bool:
    """Whether all are arrays of one shape, so that nothing is broadcast."""
    return all(isinstance(a, np.ndarray) for a in arrays) and len({a.shape for a in arrays}) == 1


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


def as_update(name: str, optimizer: str) -> Patch:
    """The learner's function `name` in the place of an optimizer's `update`."""

    def adapt(step: Callable[..., Any]) -> Any:
        def update_sgd(self: Any, p: Tensor, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
            velocity = state.get("velocity", np.zeros_like(p.data))
            new, state["velocity"] = step(p.data, grad, velocity, group["lr"], group["momentum"], group["weight_decay"])
            p.data[...] = new

        def update_adam(self: Any, p: Tensor, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
            state["step"] = state.get("step", 0) + 1
            m, v = (state.get(key, np.zeros_like(p.data)) for key in ("exp_avg", "exp_avg_sq"))
            numbers = {"lr": group["lr"], "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
            more = {"weight_decay": group["weight_decay"]} if name == "adamw" else {}
            new, state["exp_avg"], state["exp_avg_sq"] = step(p.data, grad, m, v, state["step"], **numbers, **more)
            p.data[...] = new

        return update_sgd if name == "sgd" else update_adam

    return Patch(name, f"minigrad.optim.{optimizer}.update", adapt=adapt)
