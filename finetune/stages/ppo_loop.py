"""PPO's loop: generate, score, update; again. Here the training loop changes its shape for the first time.

Every other stage learns from data that somebody has written. This one learns from what the model itself writes, which
has to be generated anew whenever the model has changed:

    roll out    the policy answers a batch of prompts                          (finetune/objectives/rollout.py)
    score       the reward model scores each reply, and the reference model gives the log-probability of each token
    advantage   which tokens turned out better than expected                   (finetune/objectives/ppo.py)
    update      a few optimizer steps on these replies, with the clipped loss  (gpt/training/trainer.py)

Ziegler et al. 2019; Stiennon et al. 2020; Ouyang et al. 2022, section 3.5. The names are those of TRL.

Simplified: dropout is off throughout, and all replies are drawn at temperature 1.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt.console import progress_bar
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import Checkpoint, CheckpointError, ModelKind, kind_of
from gpt.training.log import read_log
from gpt.training.steps import Step
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import Tensor, backend
from minigrad.backend import module_of, to_device, to_numpy

from ..data.datasets import ShuffledBatches
from ..objectives.logprobs import entropy, selected_logprobs
from ..objectives.ppo import gae, ppo_loss, token_rewards, whiten
from ..objectives.rollout import Places, PolicyWithValue, Rollout, roll_out

SHOWN = ("objective/scores", "objective/kl", "right", "courteous")  # on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """How to reinforce.

    total_iterations: of roll out and update. batch_size: prompts per iteration. num_ppo_epochs: how often each reply is
    learned from, in num_mini_batches steps each time. kl_coef: what a nat of distance from the reference costs, in
    scores. missing_eos_penalty: what a reply that does not end within response_length tokens loses. The others are
    those of the formulas in `ppo`. Raises ValueError for a number out of range.
    """

    total_iterations: int = 16
    batch_size: int = 64
    num_ppo_epochs: int = 2
    num_mini_batches: int = 2
    response_length: int = 24
    kl_coef: float = 0.5
    missing_eos_penalty: float = 1.0
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1

    def __post_init__(self) -> None:
        for name in ("total_iterations", "batch_size", "num_ppo_epochs", "num_mini_batches", "response_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("kl_coef", "missing_eos_penalty", "vf_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("cliprange", "cliprange_value"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number > 0, got {getattr(self, name)}")
        if self.batch_size < self.num_mini_batches:
            raise ValueError(f"{self.batch_size} replies cannot be dealt to {self.num_mini_batches} mini-batches")

    @property
    def steps_per_iteration(self) -> int:
        """Optimiser steps on the replies of one roll-out."""
        return self.num_ppo_epochs * self.num_mini_batches


@dataclasses.dataclass(frozen=True)
class PPOBatch:
    """N tokens of some replies, with what was known when they were drawn: all but tokens (B, T) and places are (N)."""

    tokens: np.ndarray
    places: Places
    drawn: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    values: np.ndarray
    returns: np.ndarray


def ppo_batches(rollout: Rollout, config: PPOConfig, rng: np.random.Generator) -> list[PPOBatch]:
    """What to learn from a roll-out: the advantages of its tokens, dealt to the mini-batches of all epochs."""
    scores = rollout.scores - config.missing_eos_penalty * ~rollout.ended
    kl = rollout.logprobs - rollout.reference_logprobs  # the estimate k1, per token
    rewards = token_rewards(scores, kl, rollout.mask, config.kl_coef)
    advantages, returns = gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)
    advantages = whiten(advantages, rollout.mask)
    batches = []
    for _ in range(config.num_ppo_epochs):
        for rows in np.array_split(rng.permutation(len(scores)), config.num_mini_batches):
            mask, tokens = rollout.mask[rows], rollout.tokens[rows]
            places = Places.of(rollout.starts[rows], mask)
            known = (x[rows][mask] for x in (rollout.logprobs, advantages, rollout.values, returns))  # (N,) each
            batches.append(PPOBatch(tokens, places, tokens[places.here], *known))
    return batches


def ppo_batch_loss(model: PolicyWithValue, batch: PPOBatch, config: PPOConfig) -> tuple[Tensor, int, dict[str, Any]]:
    """The loss function for the training loop: the sum over a batch's N tokens, N, and sums of the metrics."""
    logits, values = model(batch.tokens, batch.places)  # (N, V), (N)
    logprobs = selected_logprobs(logits, batch.drawn)  # (N)
    loss, policy, value = ppo_loss(
        logprobs,
        values,
        batch.logprobs,
        batch.values,
        batch.advantages,
        batch.returns,
        config.cliprange,
        config.cliprange_value,
        config.vf_coef,
    )

    log_ratio = logprobs.data - to_device(batch.logprobs, logprobs.device)
    ratio = module_of(log_ratio).exp(log_ratio)
    unclipped = -ratio * to_device(batch.advantages, logprobs.device)
    metrics = {
        "policy/approxkl_avg": 0.5 * (log_ratio * log_ratio).sum(),  # the estimate k2, see `estimated_kl`
        "policy/clipfrac_avg": (policy.data > unclipped + 1e-6).sum(),
        "policy/entropy_avg": entropy(logits.detach()).data.sum(),
        "loss/policy_avg": policy.data.sum(),
        "loss/value_avg": value.data.sum(),
        "val/ratio": ratio.sum(),
    }
    return loss.sum(), len(batch.drawn), metrics


class PPOTrainer(Trainer):
    """Reinforces a policy: optimiser step, log and checkpoints are those of the one training loop, the loop is its own.

    model: the policy, which is trained. reference: where it started. reward_model(tokens, lengths) -> scores (B, 1).
    prompts: a stream of batches of (prompt's token ids, what it is about). judge(what they are about, replies): more
    metrics of a roll-out, such as how many replies are really right. evaluate(): metrics on other prompts, at the
    start, every `eval_interval` iterations, and at the end. Other options as for `Trainer`.
    """

    batches: _MiniBatches

    def __init__(
        self,
        model: PolicyWithValue,
        reference: LanguageModel,
        reward_model: Any,
        prompts: ShuffledBatches[Any],
        config: PPOConfig,
        training: TrainingConfig,
        out_dir: str | Path,
        stop_tokens: Sequence[int],
        judge: Callable[[list[Any], list[list[int]]], dict[str, float]] | None = None,
        **options: Any,
    ):
        training = dataclasses.replace(training, max_iters=config.total_iterations * config.steps_per_iteration)
        loss_fn = partial(ppo_batch_loss, config=config)
        super().__init__(model, _MiniBatches(prompts), training, out_dir, loss_fn, kind=policy_kind(model), **options)
        self.log.shown = SHOWN
        self.reference, self.reward_model, self.ppo = reference.eval(), reward_model.eval(), config
        self.stop_tokens, self.judge = list(stop_tokens), judge

    def run(self) -> None:
        """Roll out and update until `total_iterations`, evaluating and saving on the way.

        Ctrl-C finishes the iteration, saves and sets `interrupted`. Raises what `Trainer.run` raises.
        """
        self.interrupted = False
        self.model.eval()
        total, per_iteration = self.config.max_iters, self.ppo.steps_per_iteration
        with self._ctrl_c_finishes_the_step(), progress_bar(total, "reinforcing", "step") as bar:
            if self.steps_done == 0:
                self.log.rewind(-1)
                self._evaluate()
                self.save()
            bar.update(self.steps_done)
            while self.steps_done < total and not self.interrupted:
                self._iterate()
                bar.update(per_iteration)
                interval = self.config.eval_interval * per_iteration
                evaluating = self.steps_done == total or (interval > 0 and self.steps_done % interval == 0)
                if evaluating:
                    self._evaluate()
                if self.skipped_in_a_row == 0 and (evaluating or self.interrupted):
                    self.save()
        self.interrupted = self.interrupted and self.steps_done < total

    def _iterate(self) -> None:
        """Generate, score, update."""
        started = time.perf_counter()
        drawn = next(self.batches.prompts)
        prompts, about = [ids for ids, _ in drawn], [subject for _, subject in drawn]
        rollout = roll_out(
            self.model, self.reference, self.reward_model, prompts, self.ppo.response_length, self.stop_tokens
        )
        self.batches.waiting = ppo_batches(rollout, self.ppo, backend.generator())
        steps = []
        while self.batches.waiting:
            steps.append(self.step())
            self._stop_if_hopeless()
        self.read()
        self._stop_if_hopeless()
        metrics = rollout_metrics(rollout)
        if self.judge is not None:
            metrics |= self.judge(about, rollout.replies())
        seconds = time.perf_counter() - started
        self.seconds += seconds - sum(step.seconds for step in steps)  # generating takes time, too
        self.log.step(self.config.max_iters, _summary(steps, metrics, seconds))

    def _evaluate(self) -> None:
        if self.evaluate is not None:
            self.log.validation(self.steps_done, self.evaluate())

    # --- saving and going on: the policy as a model that everything else can load; the value head, a row of numbers,
    # with the run's state

    def save(self) -> None:
        """Write a checkpoint of this moment into the run's folder."""
        head = self.model.value_head.state_dict()
        self.extra_state["value_head"] = {name: to_numpy(array).tolist() for name, array in head.items()}
        super().save()

    def resume(self, checkpoint: Checkpoint) -> str | None:
        """Go on from a checkpoint whose policy the model has already; see `Trainer.resume`."""
        try:
            head = checkpoint.state["extra"]["value_head"]
            dtype = self.model.value_head.weight.dtype
            self.model.value_head.load_state_dict({name: np.array(rows, dtype) for name, rows in head.items()})
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint in {self.out_dir} is not of a PPO run: {error}") from None
        return super().resume(checkpoint)


def policy_kind(model: PolicyWithValue) -> ModelKind:
    """A checkpoint of a policy with its value head is one of the policy."""
    kind = kind_of(model.policy)
    return ModelKind(
        kind.name,
        lambda model: kind.config(model.policy),
        kind.build,
        lambda model: kind.tensors(model.policy),
    )


class _MiniBatches:
    """What the training loop draws its batches from: those of the latest roll-out. The data are the prompts."""

    def __init__(self, prompts: ShuffledBatches[Any]):
        self.prompts = prompts
        self.waiting: list[PPOBatch] = []

    def __next__(self) -> PPOBatch:
        return self.waiting.pop(0)

    def state_dict(self) -> dict[str, Any]:
        return self.prompts.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prompts.load_state_dict(state)


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """What is reported of a roll-out, per reply: its score, its KL divergence from the reference model (in nats, the
    estimate k1 of finetune/objectives/logprobs.py, which may be negative), its surprise (an estimate of the policy's
    entropy); and how many ended.
    """
    kl = (rollout.logprobs - rollout.reference_logprobs).sum(axis=1)
    return {
        "objective/scores": float(rollout.scores.mean()),
        "objective/kl": float(kl.mean()),
        "objective/entropy": float(-rollout.logprobs.sum(axis=1).mean()),
        "objective/ended": float(rollout.ended.mean()),
    }


def _summary(steps: Sequence[Step], metrics: dict[str, float], seconds: float) -> Step:
    """An iteration as one line of the log: means over its steps, each weighted by its tokens."""
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


# --- the picture -----------------------------------------------------------------------------------------------------

PANELS = {
    "objective/scores": "learned reward\n(reward model's score)",
    "courteous": "true quality\n(share right and courteous)",
    "objective/kl": "KL from the reference\n(nats per reply)",
}
STYLES = [("-", "black"), ("--", "0.45"), (":", "black"), ("-.", "0.45")]


def plot_reinforcement(runs: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str]) -> Path | None:
    """Draw the roll-outs of one or more runs, {label: folder}, below each other; None without matplotlib.

    Where the reward model's score rises and the true quality falls, the policy has found out what the reward model
    overlooks: reward hacking, or Goodhart's law. Gao et al. 2023, "Scaling laws for reward model overoptimization",
    figure 1.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    logs = {label: read_log(Path(folder) / "log.jsonl") for label, folder in runs.items()}
    drawn = {key: name for key, name in PANELS.items() if any(key in row for rows in logs.values() for row in rows)}
    figure = Figure(figsize=(8, 1 + 2.4 * len(drawn)), layout="constrained")
    panels = figure.subplots(max(len(drawn), 1), sharex=True, squeeze=False)[:, 0]
    for axes, (key, name) in zip(panels, drawn.items()):
        for (label, rows), (line, color) in zip(logs.items(), STYLES):
            points = [(row["step"], row[key]) for row in rows if "loss" in row and row.get(key) is not None]
            axes.plot(*zip(*points), linestyle=line, color=color, label=label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    panels[0].set_title("Reinforcement from a reward model", loc="left")
    panels[-1].set_xlabel("step of the optimiser")
    if any(runs):
        panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    return Path(path)
