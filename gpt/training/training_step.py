"""The training step: forward, loss, backward, clip, step, schedule. Every run takes this step, whatever it learns.

Pretraining, classification, instruction tuning, reward modeling, DPO, PPO and GRPO differ in their batches and in their
loss function. training_loop.py has the loop around the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad
from minigrad import Tensor, nn, optim

from ..model.language_model import LanguageModel
from .data_parallel import ALONE, Team
from .sums import Sums, add_up, read_numbers
from .training_config import TrainingConfig

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
    # Backward, from the mean. (If nothing counts, the sum is 0; `training_step` refuses the step.)
    (loss / max(count, 1)).backward()
    return {"loss": loss.data, **metrics}, count


def training_step(
    model: nn.Module,
    batches: Sequence[Any],
    loss_fn: LossFunction,
    optimizer: optim.Optimizer,
    schedule: optim.WarmupCosine,
    max_norm: float = 0.0,
    gradients: Gradients = mean_gradients,
    team: Team = ALONE,
) -> Step:
    """Change the model's weights once, in a direction that should lower its loss on these batches.

    loss_fn(model, batch) -> (sum of losses, count, sums of other metrics): see `language_model_loss`. max_norm: a
    gradient with a larger norm is scaled down to it; 0: no clipping. gradients: how the gradients of the batches are
    computed (see `gradients_for`). team: the processes that take the step together, each with its share of the batches
    (data_parallel.py); by default, this one alone. Raises ValueError if nothing in the batches counts.
    """
    # team: alone, a process has nothing to add or wait for, and clip_grad_norm_ is that of minigrad/optim.py.
    lr = schedule.get_last_lr()[0]  # the rate of this step; "last" is PyTorch's name
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Forward, loss, backward: `mean_gradients`, above, unless another function is given. backward() adds to p.grad, so
    # clear what the last step left there.
    model.zero_grad()
    sums, count = gradients(model, batches, loss_fn)
    sums, count = team.add_gradients(parameters, sums, count)
    if count == 0:
        raise ValueError("this step has nothing to learn from: no target in its batches counts")
    # Clip: if the norm of all gradients together is larger than max_norm, scale them down to it.
    norm = team.clip_grad_norm_(parameters, max_norm or math.inf)
    # Skip the step if the loss or a gradient is not finite: one NaN would spread to all weights. (To read an array on a
    # GPU takes a wait, so all numbers are read together.)
    read = read_numbers({"norm": norm, **sums})
    is_finite = math.isfinite(read["loss"]) and math.isfinite(read["norm"])
    if is_finite:
        optimizer.step()
    team.wait()  # until all processes have updated the weights
    # Schedule: set the learning rate of the next step, even after a skipped one.
    schedule.step()
    means = {name: read[name] / count for name in sums}  # sums has the loss and the metrics
    return Step(count, lr, means.pop("loss"), means, read["norm"], skipped=not is_finite)


# --- gradients of several batches -------------------------------------------------------------------------------------


def accumulated_gradients(model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
    """Gradient accumulation: the same gradients as for one large batch that would not fit into memory.

    Batches may have different counts, so the mean of their means would be wrong. Instead, we sum the gradients of all
    losses and divide them by the count of all batches at the end.
    """
    sums: Sums = {}
    count = 0
    for batch in batches:
        loss, n, metrics = loss_fn(model, batch)
        loss.backward()  # adds to p.grad
        add_up(sums, {"loss": loss.data, **metrics})
        count += n
    for p in model.parameters():
        if p.grad is not None:
            p.grad *= 1 / max(count, 1)
    return sums, count


def gradients_for(config: TrainingConfig) -> Gradients:
    """The function that computes the gradients of a step: accumulated, if a step has several batches, and in the
    precision of the settings.
    """
    compute = accumulated_gradients if config.gradient_accumulation_steps > 1 else mean_gradients
    if config.precision == "float32":
        return compute

    def in_low_precision(model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
        with in_precision(config.precision):
            return compute(model, batches, loss_fn)

    return in_low_precision


def in_precision(precision: str) -> contextlib.AbstractContextManager[None]:
    """A block whose matrix products are computed in this precision (see minigrad/precision.py).

    A step computes its gradients inside such a block. A loss that compares log-probabilities (DPO's, with a reference
    model) computes both inside one: otherwise rounding would look like a difference between the models.
    """
    return contextlib.nullcontext() if precision == "float32" else minigrad.autocast(precision)
