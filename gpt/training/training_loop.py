"""The training loop: draw a batch, learn from it, again. Every run of every stage goes through it.

`train_textbook` is the whole idea: no folder, no log, no checkpoint. A small GPT learns to count to three with it:

>>> import itertools
>>> import numpy as np
>>> from gpt import GPT, GPTConfig
>>> ids = np.arange(9)[None] % 3  # 0 1 2 0 1 2 0 1 2
>>> model = GPT(GPTConfig(vocab_size=3, block_size=8, n_layer=1, n_head=1, n_embd=8))
>>> optimizer = optim.AdamW(model.parameters(), lr=0.03)
>>> schedule = optim.WarmupCosine(optimizer, warmup_steps=10, total_steps=60)
>>> batches = itertools.repeat((ids[:, :-1], ids[:, 1:]))  # what is read, and what follows
>>> losses = list(train_textbook(model, batches, language_model_loss, optimizer, schedule, steps=60))
>>> losses[0] > 1, losses[-1] < 0.1
(True, True)

`train` is the same loop for a run, which is looked at on its way, saved, stopped and resumed (run.py). An *iteration*
of it is one training step, or, in PPO and GRPO, everything from a rollout to the last step on its replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from minigrad import nn, optim

from .run import Run, Stream
from .training_step import LossFunction, Step, language_model_loss

__all__ = ["Update", "language_model_loss", "one_step", "train", "train_textbook"]


def train_textbook(
    model: nn.Module,
    batches: Iterator[Any],
    loss_fn: LossFunction,
    optimizer: optim.Optimizer,
    schedule: optim.WarmupCosine,
    steps: int,
    max_norm: float = math.inf,
) -> Iterator[float]:
    """Take so many training steps, and yield the loss of each.

    loss_fn(model, batch): the sum of the losses, their number, and metrics, as `language_model_loss` returns them.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    for _ in range(steps):
        total, count, _ = loss_fn(model, next(batches))  # forward
        loss = total / count
        model.zero_grad()
        loss.backward()  # p.grad = d loss / dp for each parameter p
        optim.clip_grad_norm_(parameters, max_norm)
        optimizer.step()  # changes the parameters
        schedule.step()  # sets the learning rate of the next step
        yield loss.item()
    model.eval()


# --- the loop of a run ------------------------------------------------------------------------------------------------

# update(batches) -> the steps that it took, and metrics of the whole iteration
Update = Callable[[list[Any]], tuple[list[Step], dict[str, float]]]


def train(
    run: Run,
    batches: Stream,
    update: Update,
    validate: Callable[[], dict[str, float]],
    sample: Callable[[], None] | None = None,
) -> None:
    """Go through the iterations of a run, or, if it is resumed, through those that are left, until Ctrl-C.

    update: what an iteration does with its batches, `one_step` for most stages. validate: measures the model on
    held-out data, before the first iteration, then at intervals, and after the last one. sample: shows what the model
    writes. The run has been prepared (`run.prepare`).
    """
    with run.at_work(batches):
        while run.goes_on():
            if run.is_time_to_validate:
                run.record_validation(validate())
                run.save()  # a checkpoint
            if run.is_time_to_save:  # ten minutes after the last one
                run.save()
            steps, metrics = update(run.draw())
            run.record(steps, metrics)  # counts the steps, and logs them when a line is due
            if sample is not None and run.is_time_to_sample:
                run.team.once(sample)
        if run.is_time_to_validate:  # after the last iteration, unless Ctrl-C ended the loop
            run.record_validation(validate())
        run.save()


def one_step(run: Run, loss_fn: LossFunction) -> Update:
    """The update of all stages but PPO and GRPO: one training step on the batches of an iteration."""

    def update(batches: list[Any]) -> tuple[list[Step], dict[str, float]]:
        return [run.step(batches, loss_fn)], {}

    return update
