"""The training loop: draw a batch, learn from it, repeat. Every run of every stage goes through it.

`train_textbook` is the whole idea, without a folder, a log or checkpoints. A small GPT learns to count to three:

>>> import itertools
>>> import numpy as np
>>> from gpt import GPT, GPTConfig
>>> from gpt.training.training_step import language_model_loss
>>> from minigrad import optim
>>> ids = np.arange(9)[None] % 3  # 0 1 2 0 1 2 0 1 2
>>> model = GPT(GPTConfig(vocab_size=3, block_size=8, n_layer=1, n_head=1, n_embd=8))
>>> optimizer = optim.AdamW(model.parameters(), lr=0.03)
>>> schedule = optim.WarmupCosine(optimizer, warmup_steps=10, total_steps=60)
>>> batches = itertools.repeat((ids[:, :-1], ids[:, 1:]))  # what is read, and what follows
>>> losses = train_textbook(model, batches, language_model_loss, optimizer, schedule, steps=60)
>>> losses[0] > 1, losses[-1] < 0.1
(True, True)

`train` is the same loop for a run (run.py), which is validated on the way, saved, stopped and resumed. One *iteration*
of it is a training step or, in PPO and GRPO, everything from a rollout to the last step on its replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minigrad import nn, optim

from .run import Run, Stream
from .training_step import LossFunction, Step


def train_textbook(
    model: nn.Module,
    batches: Iterator[Any],
    loss_fn: LossFunction,
    optimizer: optim.Optimizer,
    schedule: optim.WarmupCosine,
    steps: int,
    max_norm: float = 1.0,
) -> list[float]:
    """Take `steps` training steps, and return the loss of each.

    loss_fn(model, batch) -> (sum of the losses, how many there are, sums of metrics): see `language_model_loss`.
    max_norm: a gradient with a larger norm is scaled down to it; 0: no clipping.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = []
    model.train()
    for _ in range(steps):
        total, count, _ = loss_fn(model, next(batches))  # forward
        loss = total / count  # the mean
        model.zero_grad()
        loss.backward()  # p.grad = d loss / dp for each parameter p
        if max_norm:
            optim.clip_grad_norm_(parameters, max_norm)
        optimizer.step()  # changes the parameters
        schedule.step()  # sets the learning rate of the next step
        losses.append(loss.item())
    model.eval()
    return losses


# --- the loop of a run ------------------------------------------------------------------------------------------------

# iteration(batches) -> the training steps that it took, and metrics of the whole iteration. The batches are a list: of
# one, or of several whose gradients add up in one step (gradient accumulation).
Iteration = Callable[[list[Any]], tuple[list[Step], dict[str, float]]]


def one_step(run: Run, loss_fn: LossFunction) -> Iteration:
    """The iteration of all stages but PPO and GRPO: one training step (training_step.py)."""

    def iteration(batches: list[Any]) -> tuple[list[Step], dict[str, float]]:
        return [run.step(batches, loss_fn)], {}

    return iteration


def train(
    run: Run,
    stream: Stream,
    iteration: Iteration,
    validate: Callable[[], dict[str, float]],
    sample: Callable[[], None] | None = None,
) -> None:
    """Do the iterations of a run that are left. Ctrl-C ends it early.

    iteration: what is done with the batches that were drawn; `one_step` for most stages. validate: measures the model
    on held-out data, before the first iteration, then at intervals, and after the last one. sample: shows what the
    model writes. Call `run.prepare` first.
    """
    with run.at_work(stream):
        while run.goes_on():
            if run.is_time_to_validate:  # the first time at step 0
                run.record_validation(validate())  # in all processes, if several train together
                run.save()  # a checkpoint
            elif run.is_time_to_save:  # ten minutes after the last checkpoint; `goes_on` has looked at the clock
                run.save()
            taken, metrics = iteration(run.draw())  # from batches of the stream to training steps
            run.record(taken, metrics)  # counts the steps, and logs them when a line is due
            if sample is not None and run.is_time_to_sample:
                run.team.once(sample)  # in one process
        if run.is_time_to_validate:  # after the last iteration, unless Ctrl-C ended the loop
            run.record_validation(validate())
        run.save()
