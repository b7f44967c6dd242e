"""The loop of PPO: generate, score, update, and again.

    roll out    the policy answers a batch of prompts                          (finetune/objectives/rollout.py)
    score       the reward model scores each reply, and the reference model gives the log-probability of each token
    advantage   which tokens turned out better than expected                   (finetune/objectives/ppo.py)
    update      a few optimizer steps on these replies, with the clipped loss  (rollout_loop.py)

Ziegler et al. 2019; Stiennon et al. 2020; Ouyang et al. 2022, section 3.5. The names are those of TRL.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import Checkpoint, CheckpointError, ModelKind, check_like, kind_of
from gpt.training.trainer import TrainingConfig
from minigrad import Tensor, backend
from minigrad.backend import to_numpy

from ..data.datasets import ShuffledBatches
from ..objectives.logprobs import selected_logprobs
from ..objectives.ppo import gae, ppo_loss, token_rewards, whiten
from ..objectives.rollout import Places, PolicyWithValue, Rollout, roll_out, rollout_metrics
from .rollout_loop import RolloutTrainer, update_metrics


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """How to reinforce.

    total_iterations: the number of rollouts, each followed by an update. batch_size: prompts per iteration.
    num_ppo_epochs: how often each reply is used, in num_mini_batches steps each time. kl_coef: strength of the penalty
    for moving away from the reference model. missing_eos_penalty: subtracted from the score of a reply that does not
    end within response_length tokens. The other settings belong to the formulas in finetune/objectives/ppo.py. Raises
    ValueError for values out of range.
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
        """The number of optimizer steps on the replies of one rollout."""
        return self.num_ppo_epochs * self.num_mini_batches


@dataclasses.dataclass(frozen=True)
class PPOBatch:
    """N tokens of some replies, and what was known when they were sampled.

    tokens (B, T): prompts with their replies. places: the places of the N tokens in them. All other arrays are (N).
    """

    tokens: np.ndarray
    places: Places
    drawn: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    values: np.ndarray
    returns: np.ndarray


def ppo_batches(rollout: Rollout, config: PPOConfig, rng: np.random.Generator) -> list[PPOBatch]:
    """Compute the advantages of a rollout's tokens, and divide its tokens into the mini-batches of all epochs."""
    scores = rollout.scores - config.missing_eos_penalty * ~rollout.ended  # (B)
    kl = rollout.logprobs - rollout.reference_logprobs  # (B, R): the estimate k1 for each token
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
    """For the training loop: the sum of the losses of a batch's N tokens, N, and sums of the metrics."""
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

    clip = config.cliprange
    metrics = {
        **update_metrics(logits, logprobs, batch.logprobs, batch.advantages, clip, clip),
        "loss/policy_avg": policy.data.sum(),
        "loss/value_avg": value.data.sum(),
    }
    return loss.sum(), len(batch.drawn), metrics


class PPOTrainer(RolloutTrainer):
    """Trains a policy by PPO, in the loop of `RolloutTrainer`.

    model: the policy, which is trained. reference: the model at the start of training. reward_model(tokens, lengths) ->
    scores (B, 1). prompts: a stream of batches of (token ids of a prompt, its subject). judge(subjects, replies): more
    metrics of a rollout, such as the share of replies that are really right. The other options are those of `Trainer`.
    """

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
        super().__init__(model, prompts, training, out_dir, loss_fn, kind=policy_kind(model), **options)
        self.log.shown = ("objective/scores", "objective/kl", "right", "courteous")  # on the screen; log.jsonl has all
        self.reference, self.reward_model, self.ppo = reference.eval(), reward_model.eval(), config
        self.steps_per_iteration = config.steps_per_iteration
        self.stop_tokens, self.judge = list(stop_tokens), judge

    def roll_out(self) -> tuple[list[Any], dict[str, float]]:
        """Roll out, score, advantage: the mini-batches of all epochs, and metrics of the rollout."""
        # Roll out: the policy answers the next prompts. Score: the reward model and the reference evaluate the replies.
        prompts, about = zip(*next(self.batches))
        rollout = roll_out(
            self.model, self.reference, self.reward_model, prompts, self.ppo.response_length, self.stop_tokens
        )
        metrics = rollout_metrics(rollout)
        if self.judge is not None:
            metrics |= self.judge(list(about), rollout.replies())
        # Advantage: which tokens turned out better than expected? Each batch holds the tokens of some replies.
        return ppo_batches(rollout, self.ppo, backend.generator()), metrics

    # --- saving and resuming: the policy is saved as a model that everything else can load, the value head with the
    # run's state

    def save(self) -> None:
        """Write a checkpoint into the run's folder."""
        head = self.model.value_head.state_dict()
        self.extra_state["value_head"] = {name: to_numpy(array).tolist() for name, array in head.items()}
        super().save()

    def resume(self, checkpoint: Checkpoint) -> str | None:
        """Continue from a checkpoint whose policy the model already has; see `Trainer.resume`."""
        try:
            head = checkpoint.state["extra"]["value_head"]
            dtype = self.model.value_head.weight.dtype
            arrays = {name: np.array(rows, dtype) for name, rows in head.items()}
            check_like(arrays, self.model.value_head.state_dict(), "the value head")
            self.model.value_head.load_state_dict(arrays)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint in {self.out_dir} is not of a PPO run: {error}") from None
        return super().resume(checkpoint)


def policy_kind(model: PolicyWithValue) -> ModelKind:
    """A checkpoint of a policy with a value head holds the policy alone."""
    kind = kind_of(model.policy)
    return ModelKind(
        kind.name,
        lambda model: kind.config(model.policy),
        kind.build,
        lambda model: kind.tensors(model.policy),
    )
