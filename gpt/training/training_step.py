"""The training step: forward, loss, backward, clip, step, schedule. Every run takes this step, whatever it learns.

Pretraining, classification, instruction tuning, reward modeling, DPO, PPO and GRPO differ in their batches and in their
loss function. training_loop.py has the loop around the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import minigrad
from minigrad import Tensor, backend, nn, optim

from ..model.language_model import LanguageModel
from .training_config import TrainingConfig

Sums = dict[str, Any]  # name -> a number, or a 0-d array, which on a GPU has not been read yet
# loss_fn(model, batch) -> (sum of the losses, number of losses, sums of other metrics)
LossFunction = Callable[[Any, Any], tuple[Tensor, int, Sums]]
# gradients(model, batches, loss_fn) -> (sums of "loss" and of the metrics, number of losses); it fills p.grad
Gradients = Callable[[nn.Module, Sequence[Any], LossFunction], tuple[Sums, int]]


@dataclasses.dataclass(frozen=True)
class Step:
    """The result of one step.

    count: number of items that the loss and the metrics are averaged over, which are tokens for a language model. lr:
    the learning rate. grad_norm: before clipping. skipped: the loss or the gradient was not finite, so the weights did
    not change.
    """

    count: int
    lr: float
    loss: float
    metrics: dict[str, float]
    grad_norm: float
    skipped: bool


def language_model_loss(
    model: LanguageModel, batch: tuple[np.ndarray, np.ndarray], ignore_index: int = -100
) -> tuple[Tensor, int, Sums]:
    """The next-token cross-entropy of a batch (ids, targets), summed; the number of targets that count; no metrics.

    All loss functions for `evaluate` and the training loop have this form: a sum of losses, the number to divide it by,
    and sums of other metrics, to be divided by the same number.
    """
    ids, targets = batch
    return model.loss(ids, targets, ignore_index, reduction="sum"), int((targets != ignore_index).sum()), {}


def mean_gradients(model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
    """Forward, loss and backward of a step that has one batch: p.grad = d(mean loss) / dp for each parameter p."""
    (batch,) = batches  # a list, because a step may accumulate several; here it has one
    # Forward and loss: a sum over `count` tokens, or over other items that the loss function counts.
    loss, count, metrics = loss_fn(model, batch)
    check_count(count)
    # Backward, from the mean.
    (loss / count).backward()
    return {"loss": loss.data, **metrics}, count


def training_step(
    model: nn.Module,
    batches: Sequence[Any],
    loss_fn: LossFunction,
    optimizer: optim.Optimizer,
    schedule: optim.WarmupCosine,
    max_norm: float = 0.0,
    gradients: Gradients = mean_gradients,
) -> Step:
    """Change the model's weights once, in a direction that should lower its loss on these batches.

    loss_fn(model, batch) -> (sum of losses, count, sums of other metrics): see `language_model_loss`. max_norm: a
    gradient with a larger norm is scaled down to it; 0: no clipping. gradients: how the gradients of the batches are
    computed (see `gradients_for`). Raises ValueError if nothing in the batches counts.
    """
    lr = schedule.get_last_lr()[0]  # the rate of this step; "last" is PyTorch's name
    # Forward, loss, backward: `mean_gradients`, above, unless another function is given. backward() adds to p.grad, so
    # clear what the last step left there.
    model.zero_grad()
    sums, count = gradients(model, batches, loss_fn)
    # Clip: if the norm of all gradients together is larger than max_norm, scale them down to it.
    norm = optim.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_norm or math.inf)
    # Skip the step if the loss or a gradient is not finite: one NaN would spread to all weights.
    read = read_numbers({"norm": norm, **sums})
    is_finite = math.isfinite(read["loss"]) and math.isfinite(read["norm"])
    if is_finite:
        optimizer.step()
    # Schedule: set the learning rate of the next step, even after a skipped one.
    schedule.step()
    means = {name: read[name] / count for name in sums}
    return Step(count, lr, means.pop("loss"), means, read["norm"], skipped=not is_finite)


# --- gradients of several batches -------------------------------------------------------------------------------------


def accumulated_gradients(model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
    """Gradient accumulation: the same gradients as for one large batch that would not fit into memory.

    Batches may have different counts, so the mean of their means would be wrong. Instead, we sum the gradients of all
    losses and divide them by the count of all batches at the end.
    """
    sums, count = sum_gradients(model, batches, loss_fn)
    divide_gradients(model, count)
    return sums, count


def sum_gradients(model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
    """Forward, loss and backward of each batch. The gradients add up in p.grad."""
    sums: Sums = {}
    count = 0
    for batch in batches:
        loss, n, metrics = loss_fn(model, batch)
        loss.backward()
        add_up(sums, {"loss": loss.data, **metrics})
        count += n
    return sums, count


def divide_gradients(model: nn.Module, count: int) -> None:
    """p.grad /= count for each parameter: from the gradient of a sum to the gradient of the mean."""
    check_count(count)
    for p in model.parameters():
        if p.grad is not None:
            p.grad *= 1 / count


def check_count(count: int) -> None:
    """Raise ValueError if nothing was counted, because then there is no mean."""
    if count == 0:
        raise ValueError("this step has nothing to learn from: no target in its batches counts")


def gradients_for(config: TrainingConfig, gradients: Gradients | None = None) -> Gradients:
    """The function that computes the gradients of a step: accumulated, if a step has several batches, and in the
    precision of the settings. gradients: another function, such as that of several processes (see data_parallel.py).
    """
    if gradients is None:
        gradients = accumulated_gradients if config.gradient_accumulation_steps > 1 else mean_gradients
    if config.precision == "float32":
        return gradients
    compute = gradients

    def in_low_precision(model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
        with in_precision(config.precision):
            return compute(model, batches, loss_fn)

    return in_low_precision


def in_precision(precision: str) -> contextlib.AbstractContextManager[None]:
    """A block whose matrix products are computed in this precision (see minigrad/precision.py).

    A step computes its gradients in such a block. The log-probabilities that it compares with its own, of a reference
    model or of the policy before the step, belong in one too: otherwise rounding looks like a change of the policy.
    """
    return contextlib.nullcontext() if precision == "float32" else minigrad.autocast(precision)


# --- the numbers of a step --------------------------------------------------------------------------------------------


def add_up(sums: Sums, more: Mapping[str, Any]) -> Sums:
    """Add `more` to `sums` in float64. Arrays on a GPU stay there. Returns `sums`.

    >>> add_up({"loss": 1.0}, {"loss": np.float32(2), "right": 3})
    {'loss': 3.0, 'right': 3.0}
    """
    for name, value in more.items():
        on_gpu = backend.is_array(value) and backend.device_of(value) != "cpu"
        sums[name] = sums.get(name, 0.0) + (value.astype(np.float64) if on_gpu else float(value))
    return sums


def read_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """0-d arrays as Python numbers. This is where a step waits for a GPU, once: all numbers are copied together.

    >>> read_numbers({"loss": np.array(2.5, np.float32), "right": 3})
    {'loss': 2.5, 'right': 3.0}
    """
    if not values:  # of a process of a team that had no batch to evaluate
        return {}
    array = next((value for value in values.values() if backend.is_array(value)), np.zeros(()))
    xp = backend.module_of(array)
    numbers = xp.stack([xp.asarray(value, dtype=np.float64) for value in values.values()])
    return dict(zip(values, backend.to_numpy(numbers).tolist(), strict=True))
