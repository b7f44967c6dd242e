"""From gradients to better parameters: SGD, Adam, AdamW, gradient clipping, and the warm-up + cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .backend import Array, module_of
from .tensor import Tensor


class Optimizer:
    """Parameters in groups, each group with its own settings ("lr", "weight_decay", ...), and a state per parameter.

    params: tensors, or dictionaries with "params" and settings that differ from the defaults.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        groups = list(params)
        if not groups:
            raise ValueError("the optimiser got no parameters")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[int, dict[str, Any]] = {}  # by the parameter's position over all groups
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """More parameters, with settings of their own. Raises ValueError for a setting that is unknown or a parameter given twice."""
        unknown = set(group) - set(self.defaults) - {"params"}
        if unknown:
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(sorted(unknown))}; it has {', '.join(self.defaults)}")
        group = {**self.defaults, **group, "params": list(group["params"])}
        _check_settings(group)
        known = {id(p) for p in self._parameters()}
        for p in group["params"]:
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise ValueError(f"an optimiser updates leaf tensors, not {type(p).__name__}")
            if id(p) in known:
                raise ValueError(f"a parameter of shape {p.shape} is given twice")
            known.add(id(p))
        self.param_groups.append(group)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        position = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state.setdefault(position, {}), group)
                    p.version += 1
                position += 1

    def update(self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change `p.data` in place."""
        raise TypeError(f"{type(self).__name__} must define update")

    def zero_grad(self) -> None:
        for p in self._parameters():
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """{"state": {position: {name: array or number}}, "param_groups": settings, with positions in place of parameters}."""
        groups, position = [], 0
        for group in self.param_groups:
            positions = list(range(position, position + len(group["params"])))
            groups.append({**group, "params": positions})
            position += len(positions)
        return {"state": {position: dict(state) for position, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over settings and state. Raises ValueError where groups or shapes differ, and then changes nothing."""
        groups = state_dict["param_groups"]
        ours, theirs = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in groups]
        if ours != theirs:
            raise ValueError(f"the optimiser has groups of {ours} parameters, its saved state of {theirs}")
        parameters = self._parameters()
        loaded: dict[int, dict[str, Any]] = {}
        for key, state in state_dict["state"].items():
            p = parameters[int(key)]
            loaded[int(key)] = {}
            for name, value in state.items():
                is_moment = getattr(value, "ndim", 0) > 0 or (hasattr(value, "shape") and p.ndim == 0)
                if is_moment and tuple(value.shape) != p.shape:
                    raise ValueError(f"saved {name} of parameter {key} has shape {tuple(value.shape)}, the parameter {p.shape}")
                loaded[int(key)][name] = module_of(p.data).array(value) if is_moment else value
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        self.state = loaded


def _check_settings(group: dict[str, Any]) -> None:
    for name in ("lr", "weight_decay", "eps", "momentum"):
        if name in group and not group[name] >= 0:
            raise ValueError(f"{name} must be >= 0, got {group[name]}")
    for beta in group.get("betas", ()):
        if not 0 <= beta < 1:
            raise ValueError(f"betas must be in [0, 1), got {group['betas']}")


class SGD(Optimizer):
    """p <- p - lr * v,  v <- momentum * v + grad, with grad + weight_decay * p for grad.

    With momentum the step is an average over past gradients, which damps zigzags. Polyak 1964.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def update(self, p, grad, state, group):
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p.data
        if group["momentum"]:
            state["velocity"] = grad = grad + group["momentum"] * state["velocity"] if "velocity" in state else grad.copy()
        p.data -= group["lr"] * grad


class Adam(Optimizer):
    """Each parameter's own step size: the mean of its gradients over the root of their mean square.

        m <- β1 m + (1 - β1) grad              the mean, over about 1 / (1 - β1) steps
        v <- β2 v + (1 - β2) grad²             the mean square
        p <- p - lr * m̂ / (√v̂ + eps)           m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)

    m and v start at 0, so that after t steps their weights add up to only 1 - β^t: m̂ and v̂ correct for that. The step is about lr
    whatever the scale of the gradients. Kingma & Ba 2015, algorithm 1. weight_decay is added to the gradient (L2).
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update(self, p, grad, state, group):
        xp = module_of(p.data)
        beta1, beta2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        if not state:
            state.update(step=0, exp_avg=xp.zeros_like(p.data), exp_avg_sq=xp.zeros_like(p.data))
        state["step"] += 1
        if decay and self.decoupled:
            p.data *= 1 - lr * decay
        elif decay:
            grad = grad + decay * p.data

        m, v = state["exp_avg"], state["exp_avg_sq"]
        m *= beta1
        m += (1 - beta1) * grad
        v *= beta2
        v += (1 - beta2) * grad * grad
        m_hat = m / (1 - beta1 ** state["step"])
        v_hat = v / (1 - beta2 ** state["step"])
        p.data -= lr * m_hat / (xp.sqrt(v_hat) + group["eps"])


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters directly: p <- p - lr * weight_decay * p, beside the step.

    In Adam the decay would be divided by √v̂ like the gradient, so that weights with large gradients would hardly decay.
    Loshchilov & Hutter 2019, algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)


def decay_groups(named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """The usual two groups: matrices and embeddings decay; biases and normalization scales, which are vectors, do not.

    Frozen parameters are in neither.
    """
    trainable = [p for _, p in named_parameters if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Array:
    """Scale all gradients by one factor, so that their global norm sqrt(Σ g²) is at most `max_norm`; returns the norm before.

    One factor for all keeps the direction of the step and bounds its length. Nothing is scaled if the norm is not finite.
    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = [p.grad for p in tensors if p.grad is not None]
    if not gradients:
        return np.zeros((), np.float32)
    xp = module_of(gradients[0])
    total = xp.sqrt(sum(_sum_of_squares(g) for g in gradients))
    scale = xp.where(xp.isfinite(total), xp.minimum(1.0, max_norm / (total + 1e-6)), 1.0)
    for gradient in gradients:
        gradient *= scale.astype(gradient.dtype)
    return xp.asarray(total)


def _sum_of_squares(array: Array) -> Array:
    flat = array.reshape(-1)
    return flat @ flat


class WarmupCosine:
    """Learning rate: up in a line for `warmup_steps`, then down along half a cosine to `min_ratio` of the peak at `total_steps`.

    A fresh Adam has poor estimates of the gradients' scale, so that large first steps can do lasting harm: hence the warm-up. Small
    last steps settle what large ones keep shaking. Loshchilov & Hutter 2017 (SGDR), equation 5; Goyal et al. 2017, section 2.2.

    Call `step()` after each `optimizer.step()`. Raises ValueError where the warm-up is longer than the whole.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int, min_ratio: float = 0.1):
        if not 0 <= warmup_steps <= total_steps or not 0 <= min_ratio <= 1:
            raise ValueError(
                f"warm-up of {warmup_steps} in {total_steps} steps to a ratio of {min_ratio}: needs 0 <= warm-up <= total, 0 <= ratio <= 1"
            )
        self.optimizer, self.warmup_steps, self.total_steps, self.min_ratio = optimizer, warmup_steps, total_steps, min_ratio
        self.peaks: Sequence[float] = [group["lr"] for group in optimizer.param_groups]
        self.steps_done = 0
        self._set()

    def ratio(self, step: int) -> float:
        """The learning rate of step `step` (the first is 0), as a fraction of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if step >= self.total_steps:
            return self.min_ratio
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    def _set(self) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.ratio(self.steps_done)

    def step(self) -> None:
        self.steps_done += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"steps_done": self.steps_done, "peaks": list(self.peaks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_done, self.peaks = state["steps_done"], state["peaks"]
        self._set()
