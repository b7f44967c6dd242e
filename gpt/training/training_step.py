"""The training step: forward, loss, backward, clip, step, schedule.

Pretraining, classification, instruction tuning, reward modeling and DPO all use this step. They differ in their batches
and in their loss function. Evaluation, checkpoints and the log are in trainer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import Tensor, optim

from .steps import add_up, step_if_finite

# (model, batch) -> a sum of losses, how many losses, and sums of other metrics: numbers, or 0-d arrays on the device
LossFunction = Callable[[Any, Any], tuple[Tensor, int, dict[str, Any]]]


class TrainingStep:
    """A model, a loss, and an optimizer that lowers it; `learn_from(batches)` is one step.

    loss_fn(model, batch) -> (sum of losses, count, sums of other metrics): see `evaluation.language_model_loss`.
    schedule: sets the optimizer's learning rate for each step. max_norm: a longer gradient is clipped to this norm.
    accumulates: whether a step has several batches (see `accumulate`) or exactly one.
    """

    def __init__(
        self,
        model: Any,
        loss_fn: LossFunction,
        optimizer: optim.Optimizer,
        schedule: optim.WarmupCosine,
        max_norm: float = math.inf,
        accumulates: bool = False,
    ):
        self.model, self.loss_fn = model, loss_fn
        self.optimizer, self.schedule = optimizer, schedule
        self.max_norm, self.accumulates = max_norm, accumulates
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def learn_from(self, batches: Sequence[Any]) -> tuple[dict[str, Any], int, Any]:
        """Take one step. Returns the sums of "loss" and of the metrics, their count, and the gradient's norm."""
        self.model.zero_grad()  # because backward() adds to existing gradients
        if self.accumulates:
            sums, count = self.accumulate(batches)
        else:
            # Forward and loss: a sum over `count` tokens, or over other items that the loss function counts.
            loss, count, metrics = self.loss_fn(self.model, batches[0])
            self.check(count)
            # Backward, from the mean: each parameter p gets p.grad = d(loss / count) / dp.
            (loss / count).backward()
            sums = add_up({}, {"loss": loss.data, **metrics})

        # Clip: if the norm of all gradients together is larger than max_norm, scale them down to it.
        norm = optim.clip_grad_norm_(self.parameters, self.max_norm)
        # Step: optimizer.step(), unless the loss or a gradient is not finite. One NaN would spread to all weights.
        step_if_finite(self.optimizer, sums["loss"], norm)
        # Schedule: set the learning rate of the next step, even after a skipped one.
        self.schedule.step()
        return sums, count, norm

    def accumulate(self, batches: Sequence[Any]) -> tuple[dict[str, Any], int]:
        """Gradient accumulation: learn from several batches as from one large batch that would not fit into memory.

        Batches may have different counts, so the mean of their means would be wrong. Instead, we sum the gradients of
        all losses and divide them by the count of all batches at the end.
        """
        sums, count = self.sum_gradients(batches)
        self.check(count)
        for p in self.parameters:
            if p.grad is not None:
                p.grad *= 1 / count
        return sums, count

    def sum_gradients(self, batches: Sequence[Any]) -> tuple[dict[str, Any], int]:
        """Forward, loss and backward of each batch. The gradients accumulate in p.grad."""
        sums: dict[str, Any] = {}
        count = 0
        for batch in batches:
            loss, n, metrics = self.loss_fn(self.model, batch)
            loss.backward()
            add_up(sums, {"loss": loss.data, **metrics})
            count += n
        return sums, count

    def check(self, count: int) -> None:
        """Raise ValueError if nothing was counted, because then there is no mean."""
        if count == 0:
            step = self.schedule.steps_done + 1
            raise ValueError(f"step {step} has nothing to learn from: no target in its batches counts")
