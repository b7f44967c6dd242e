"""The loop of reinforcement learning: roll out, update, and again. For the first time the training loop changes shape.

All other stages learn from given data. PPO and GRPO learn from the model's own replies, which have to be generated
again whenever the model has changed:

    roll out    the policy answers a batch of prompts, and each token gets an advantage    (ppo_loop.py, grpo_loop.py)
    update      a few optimizer steps on these replies, with the clipped loss              (gpt/training/trainer.py)

Simplified: dropout is off throughout, and all replies are drawn at temperature 1.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt.training.steps import Step
from gpt.training.trainer import Trainer, due
from minigrad import Tensor
from minigrad.backend import module_of, to_device

from ..objectives.logprobs import entropy


class RolloutTrainer(Trainer):
    """A trainer whose batches come from rollouts. Optimizer step, log and checkpoints are those of `Trainer`.

    Subclasses define `roll_out`, and set `steps_per_iteration`: the number of batches that it returns. evaluate():
    metrics on other prompts, at the start, every `eval_interval` iterations, and at the end.
    """

    steps_per_iteration: int

    def roll_out(self) -> tuple[list[Any], dict[str, float]]:
        """Let the policy answer the next prompts: the batches to learn from, and metrics of the replies."""
        raise TypeError(f"{type(self).__name__} must define roll_out()")

    def run(self) -> None:
        """Roll out and update until `max_iters` steps, with evaluations and checkpoints.

        Ctrl-C finishes the iteration, saves and sets `interrupted`. Raises what `Trainer.run` raises.
        """
        self.model.eval()
        total, per_iteration = self.config.max_iters, self.steps_per_iteration
        interval = self.config.eval_interval * per_iteration
        with self._running("reinforcing") as bar:
            while self.steps_done < total and not self.interrupted:
                self._iterate()
                bar.update(per_iteration)
                to_evaluate = self.steps_done == total or due(self.steps_done, interval)
                if to_evaluate:
                    self._evaluate()
                if (to_evaluate or self.interrupted) and self.skipped_in_a_row == 0:  # the last step was finite
                    self.save()

    def _iterate(self) -> None:
        """One iteration: roll out, then an optimizer step on each batch."""
        started = time.perf_counter()
        batches, metrics = self.roll_out()
        steps = []
        for batch in batches:
            steps.append(self.step([batch]))
            self._stop_if_hopeless()
        self.read()  # the numbers of all steps; only here a GPU is waited for
        self._stop_if_hopeless()
        seconds = time.perf_counter() - started
        self.seconds += seconds - sum(step.seconds for step in steps)  # generating takes time as well
        self.log.step(self.config.max_iters, _summary(steps, metrics, seconds))

    def _evaluate(self) -> None:
        if self.evaluate is not None:
            self.log.validation(self.steps_done, self.evaluate())


def update_metrics(
    logits: Tensor, logprobs: Tensor, old_logprobs: np.ndarray, advantages: np.ndarray, clip: float, clip_high: float
) -> dict[str, Any]:
    """How far the policy has moved from the one that drew the N tokens: sums of metrics, which are named as in TRL."""
    xp = module_of(logprobs.data)
    log_ratio = logprobs.data - to_device(old_logprobs, logprobs.device)
    ratio, advantage = xp.exp(log_ratio), to_device(advantages, logprobs.device)
    # where the clipped loss has no gradient; an advantage of 0 is never clipped
    clipped = xp.where(advantage > 0, ratio > 1 + clip_high, (advantage < 0) & (ratio < 1 - clip))
    return {
        "policy/approxkl_avg": 0.5 * (log_ratio * log_ratio).sum(),  # the estimate k2, see `estimated_kl`
        "policy/clipfrac_avg": clipped.sum(),
        "policy/entropy_avg": entropy(logits.detach()).data.sum(),
        "val/ratio": ratio.sum(),
    }


def _summary(steps: Sequence[Step], metrics: dict[str, float], seconds: float) -> Step:
    """One iteration as a line of the log: means over its steps, weighted by their numbers of tokens."""
    count = sum(step.count for step in steps)

    def mean(values: Sequence[float]) -> float:
        return sum(value * step.count for value, step in zip(values, steps)) / count

    means = {name: mean([step.metrics[name] for step in steps]) for name in steps[0].metrics}
    return dataclasses.replace(
        steps[-1],
        count=count,
        loss=mean([step.loss for step in steps]),
        metrics={**metrics, **means},
        grad_norm=mean([step.grad_norm for step in steps]),
        skipped=any(step.skipped for step in steps),
        seconds=seconds,
    )
