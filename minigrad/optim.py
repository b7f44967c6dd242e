"""From gradients to better parameters: SGD, Adam, AdamW, gradient clipping, and the warm-up + cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import in_place, switches
from .backend import Array, module_of, wider
from .functional.argument_checks import check_fraction
from .parameter_groups import ParameterGroups, with_fast_twin
from .tensor import Tensor


class Optimizer(ParameterGroups):
    """A rule that changes parameters by their gradients. Each subclass has its own rule, in `update`.

    `param_groups` is a list of {"params": [tensors], "lr": ..., other settings}; `state` holds what the rule remembers
    about each parameter. See ParameterGroups.
    """

    @with_fast_twin  # runs a kernel instead, if one is selected
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        # Each p with a gradient: its gradient, its state, its group's settings (parameter_groups.py).
        for p, grad, state, group in self.updates():
            self.update(p, grad, state, group)

    def update(self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change `p.data` in place, and do not change `grad`. `state` is empty in the first step."""
        raise TypeError(f"{type(self).__name__} must define update")


class SGD(Optimizer):
    """p <- p - lr * v,  v <- momentum * v + grad.

    With weight decay, grad + weight_decay * p takes the place of grad. With momentum, the step is a sum over past
    gradients in which older ones count less; this damps zigzags (Polyak 1964). nesterov: the step is
    grad + momentum * v instead of v, which approximates the gradient at the point that v leads to (Sutskever et al.
    2013).
    Raises ValueError for nesterov without momentum.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,  # in PyTorch, `dampening` comes next, which is not here
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def update(self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p.data  # the gradient of weight_decay/2 * |p|²; a new array
        if group["momentum"]:
            if not state:  # the first step: nothing has been summed yet
                state["velocity"] = module_of(p.data).zeros_like(p.data)
            velocity = state["velocity"]
            velocity *= group["momentum"]  # in place, as the state outlives the step
            velocity += grad  # v <- momentum * v + grad
            grad = grad + group["momentum"] * velocity if group.get("nesterov") else velocity
        p.data -= group["lr"] * grad


class Adam(Optimizer):
    """For each number a step of its own: lr times the mean of its gradients, over the root of their mean square.

        m <- β1 m + (1 - β1) grad              the mean, over about 1 / (1 - β1) steps
        v <- β2 v + (1 - β2) grad²             the mean square
        p <- p - lr * m̂ / (√v̂ + eps)           m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)

    m and v start at 0, so after t steps the weights of the gradients in them add up to only 1 - β^t; m̂ and v̂ correct
    for that. The size of a step is about lr, whatever the scale of the gradients. weight_decay * p is added to the
    gradient. Kingma & Ba 2015, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update(self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        xp = module_of(p.data)
        lr = group["lr"]
        beta1, beta2 = group["betas"]
        eps = group["eps"]
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p.data  # the decay is a part of the gradient
        if not state:  # the first step; the names are PyTorch's
            state.update(step=0, exp_avg=xp.zeros_like(p.data), exp_avg_sq=xp.zeros_like(p.data))
        state["step"] += 1
        m, v, t = state["exp_avg"], state["exp_avg_sq"], state["step"]

        # m <- β1 m + (1 - β1) grad,  v <- β2 v + (1 - β2) grad²; in place, as the state outlives the step
        m *= beta1
        m += (1 - beta1) * grad
        v *= beta2
        v += (1 - beta2) * grad * grad
        # In step 1, m is (1 - β1) grad, and m̂ is grad itself. As t grows, the divisors go to 1.
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        p.data -= lr * m_hat / (xp.sqrt(v_hat) + eps)  # eps: no division by 0 where all gradients were 0


class AdamW(Adam):
    """Adam with weight decay that shrinks the parameters directly: p <- p - lr * weight_decay * p, before Adam's step.

    In Adam, the decay is divided by √v̂ like the gradient, so weights with large gradients hardly decay.
    Loshchilov & Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)

    def update(self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        p.data *= 1 - group["lr"] * group["weight_decay"]
        super().update(p, grad, state, {**group, "weight_decay": 0})  # the rest is Adam without decay


def decay_groups(named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """The usual two groups: matrices and embeddings decay; biases and normalization weights, which are vectors, do not.

    Frozen parameters are in neither group.
    """
    trainable = [p for _, p in named_parameters if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0) -> Array:
    """Scale all gradients by one factor, so that their norm √(Σ g²) is at most `max_norm`. Returns the norm before.

    >>> p, q = Tensor([0.0], requires_grad=True), Tensor([0.0], requires_grad=True)
    >>> p.grad, q.grad, max_norm = np.array([3.0]), np.array([4.0]), 1.0
    >>> norm = np.sqrt(sum((x.grad**2).sum() for x in (p, q)))  # of all numbers together, as one long vector
    >>> if norm > max_norm:
    ...     clipped = [x.grad * (max_norm / norm) for x in (p, q)]
    >>> float(clip_grad_norm_([p, q], max_norm)), np.allclose([p.grad, q.grad], clipped)
    (5.0, True)

    One factor for all keeps the direction of the step and limits its length. If the norm is not finite, nothing is
    scaled, and the caller can skip the step. Raises ValueError for a max_norm below 0 and for another norm_type than 2.
    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    if norm_type != 2:
        raise ValueError(f"norm_type must be 2, for the norm √(Σ g²), got {norm_type}")
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be >= 0, got {max_norm}")
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    norm = get_total_norm([p.grad for p in tensors if p.grad is not None])
    clip_grads_with_norm_(tensors, max_norm, norm)
    return norm


def get_total_norm(arrays: list[Array]) -> Array:
    """√(Σ x²) over all arrays together, as if they were one long vector."""
    if not arrays:
        return np.asarray(0, np.float32)
    xp = module_of(arrays[0])
    add_squares = switches.kernel_for(sum_of_squares, arrays) or sum_of_squares
    return xp.asarray(xp.sqrt(add_squares(arrays)))


def clip_grads_with_norm_(parameters: Iterable[Tensor], max_norm: float, total_norm: Array) -> None:
    """Scale all gradients, whose norm is `total_norm`, by one factor, so that it is at most `max_norm`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    xp = module_of(total_norm)
    is_finite = xp.isfinite(total_norm)
    finite_norm = xp.where(is_finite, total_norm, 0)  # inf / inf would warn
    factor = xp.minimum(1.0, max_norm / (finite_norm + 1e-6))  # 1e-6: no division by 0, as in PyTorch
    factor = xp.where(is_finite, factor, 1.0)
    in_place.announce(gradients)  # a backward() that has saved one of them will raise
    scale_all = switches.kernel_for(scale, gradients) or scale  # the fast twin, if one is selected
    scale_all(gradients, factor)


def sum_of_squares(arrays: list[Array]) -> Any:
    """Σ x² over all arrays; of float16 in float32, as 65504 is its largest number."""
    rows = [array.reshape(-1).astype(_not_float16(array.dtype), copy=False) for array in arrays]
    return sum(row @ row for row in rows)


def scale(arrays: list[Array], factor: Array) -> None:
    """x *= factor, in place, for all arrays."""
    for array in arrays:
        array *= factor.astype(_not_float16(array.dtype), copy=False)  # float32 times float32 stays float32


def _not_float16(dtype: np.dtype) -> Any:
    """The dtype itself, but float32 in place of float16 and bfloat16."""
    return wider(dtype, 1)[0]


class WarmupCosine:
    """Learning rate: linear warm-up for `warmup_steps`, then half a cosine down to `min_ratio` of the peak.

    The peak is the optimizer's lr. Adam's first estimates of the gradients' scale are poor, so large first steps can do
    lasting harm: hence the warm-up. Large steps jump around a minimum; small last steps get closer to it. Loshchilov &
    Hutter 2017 (SGDR), equation 5; Goyal et al. 2017, section 2.2.

    Call `step()` after each `optimizer.step()`. Raises ValueError if the warm-up is longer than `total_steps`.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int, min_ratio: float = 0.1):
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into {total_steps} steps")
        check_fraction("min_ratio", min_ratio)
        self.optimizer, self.min_ratio = optimizer, min_ratio
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.peaks: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.steps_done = 0
        self._set()

    def ratio(self, step: int) -> float:
        """The learning rate of step `step` (the first is 0), as a fraction of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)  # the first step is not 0, and step `warmup_steps` is the peak
        if step >= self.total_steps:
            return self.min_ratio
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)  # 0 at the peak, 1 at the end
        # (1 + cos) / 2 falls from 1 to 0: slowly at first, fastest in the middle, slowly at the end
        return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    def _set(self) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.ratio(self.steps_done)

    def step(self) -> None:
        """Set the learning rate of the next step."""
        self.steps_done += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The current learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """{"steps_done", "peaks"}; warmup_steps, total_steps and min_ratio are not saved."""
        return {"steps_done": self.steps_done, "peaks": list(self.peaks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError if the optimizer has a different number of groups."""
        if len(state["peaks"]) != len(self.optimizer.param_groups):
            groups = len(self.optimizer.param_groups)
            raise ValueError(f"{len(state['peaks'])} saved learning rates for {groups} parameter groups")
        self.steps_done, self.peaks = int(state["steps_done"]), list(state["peaks"])
        self._set()
