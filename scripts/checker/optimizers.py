"""The library's optimizers with the arguments of the exercises, and the learner's in the library's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import Tensor, optim

from .checks import Patch


def as_update(name: str, optimizer: str) -> Patch:
    """What the learner wrote as the function `name`, in the place of an optimizer's `update`."""

    def adapt(definitions: dict[str, Any]) -> Any:
        step = definitions[name]

        def update_sgd(self: Any, p: Tensor, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
            velocity = state.get("velocity", np.zeros_like(p.data))
            new, state["velocity"] = step(p.data, grad, velocity, group["lr"], group["momentum"], group["weight_decay"])
            p.data[...] = new

        def update_adam(self: Any, p: Tensor, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
            state["step"] = state.get("step", 0) + 1
            m, v = (state.get(key, np.zeros_like(p.data)) for key in ("exp_avg", "exp_avg_sq"))
            numbers = {"lr": group["lr"], "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
            if name == "adamw":
                numbers["weight_decay"] = group["weight_decay"]
            new, state["exp_avg"], state["exp_avg_sq"] = step(p.data, grad, m, v, state["step"], **numbers)
            p.data[...] = new

        return update_sgd if name == "sgd" else update_adam

    return Patch((f"minigrad.optim.{optimizer}.update",), adapt)


def adam_with_library(update: Callable[..., None], decoupled: bool) -> Callable[..., Any]:
    """One step of the library's Adam or AdamW as a function of arrays."""

    def step(p: Any, grad: Any, m: Any, v: Any, t: int, beta1: float, beta2: float, **numbers: float) -> Any:
        tensor = Tensor(p.copy())
        state = {"step": t - 1, "exp_avg": m.copy(), "exp_avg_sq": v.copy()}
        optimizer = (optim.AdamW if decoupled else optim.Adam)([Tensor(p.copy())])
        group = {"weight_decay": 0, **numbers, "betas": (beta1, beta2)}
        update(optimizer, tensor, grad, state, group)
        return tensor.data, state["exp_avg"], state["exp_avg_sq"]

    return step
