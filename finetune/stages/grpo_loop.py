"""The loop of GRPO: answer each question several times, check, compare, update, and again.

    roll out    the policy writes G answers to each question               (finetune/objectives/rollout.py)
    check       code says which of them are right: that is the reward
    compare     each answer with the others to its question                (finetune/objectives/grpo.py)
    update      a few optimizer steps on them, with the clipped loss       (rollout_loop.py)

PPO's value head and its reward model are gone; so is the reference model, unless `beta` asks for it. Shao et al. 2024,
algorithm 1. The names are those of TRL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt.model.language_model import LanguageModel
from gpt.training.trainer import TrainingConfig
from minigrad import Tensor, backend, no_grad
from minigrad.backend import to_numpy

from ..data.datasets import ShuffledBatches
from ..objectives.grpo import CLIP, answer_weights, check_method, group_advantages, grpo_loss
from ..objectives.logprobs import selected_logprobs
from ..objectives.rollout import Places, Replies, sample_replies
from .rollout_loop import RolloutTrainer, update_metrics

# (what was asked, tokens of the replies) -> the reward of each reply, (B), and metrics
Check = Callable[[Sequence[Any], list[list[int]]], tuple[np.ndarray, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """How to reinforce.

    total_iterations: the number of rollouts, each followed by an update in num_mini_batches steps. batch_size:
    questions per iteration, with num_generations answers each. response_length: the longest answer in tokens. method:
    one of `METHODS` in finetune/objectives/grpo.py. beta: strength of the KL penalty. Raises ValueError for values out
    of range.
    """

    total_iterations: int = 40
    batch_size: int = 32
    num_generations: int = 8
    num_mini_batches: int = 4
    response_length: int = 24
    method: str = "grpo"
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_method(self.method)
        for name in ("total_iterations", "batch_size", "num_generations", "num_mini_batches", "response_length"):
            smallest = 2 if name == "num_generations" else 1
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be >= {smallest}, got {getattr(self, name)}")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be a number >= 0, got {self.beta}")
        if (answers := self.batch_size * self.num_generations) < self.num_mini_batches:
            raise ValueError(f"{answers} answers cannot be dealt to {self.num_mini_batches} mini-batches")


@dataclasses.dataclass(frozen=True)
class GRPOBatch:
    """N tokens of some answers. tokens (B, T): prompts with their answers. places: of the N tokens in them.

    logprobs: of the tokens when they were drawn. reference: of the same tokens under the reference model, if there is
    one. advantages, weights: of their answers. All are (N).
    """

    tokens: np.ndarray
    places: Places
    logprobs: np.ndarray
    reference: np.ndarray | None
    advantages: np.ndarray
    weights: np.ndarray


def grpo_batches(
    policy: LanguageModel,
    reference: LanguageModel | None,
    replies: Replies,
    advantages: np.ndarray,
    config: GRPOConfig,
    rng: np.random.Generator,
) -> list[GRPOBatch]:
    """Deal the answers, with their advantages (B), to mini-batches.

    Without a KL penalty, answers with advantage 0 are left out of the batch and its mean, if enough others remain.
    """
    rows = np.flatnonzero(advantages) if reference is None else np.arange(len(advantages))
    if len(rows) < config.num_mini_batches:
        rows = np.arange(len(advantages))
    batches = []
    for part in np.array_split(rng.permutation(rows), config.num_mini_batches):
        tokens, mask = replies.tokens[part], replies.mask[part]
        lengths, places = mask.sum(axis=1), Places.of(replies.starts[part], mask)
        # The training loop divides by the number of tokens N, the formula by the number of answers.
        weights = answer_weights(lengths, config.method, config.response_length) * lengths.sum() / len(part)
        old = token_logprobs(policy, tokens, places)
        under_reference = None if reference is None else token_logprobs(reference, tokens, places)
        answer_of = places.here[0]  # (N): the answer that each token belongs to
        batches.append(GRPOBatch(tokens, places, old, under_reference, advantages[part][answer_of], weights[answer_of]))
    return batches


@no_grad()
def token_logprobs(model: LanguageModel, tokens: np.ndarray, places: Places) -> np.ndarray:
    """ln p of the N tokens at `places`, given the tokens before them -> (N)."""
    logits = model.lm_head(places.take(model.hidden_states(tokens)))
    return to_numpy(selected_logprobs(logits, tokens[places.here]).data)


def grpo_batch_loss(
    model: LanguageModel, batch: GRPOBatch, config: GRPOConfig
) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the weighted losses of a batch's N tokens, N, and sums of the metrics."""
    logits = model.lm_head(batch.places.take(model.hidden_states(batch.tokens)))  # (N, V)
    logprobs = selected_logprobs(logits, batch.tokens[batch.places.here])  # (N)
    known = (batch.advantages, batch.weights, config.method, batch.reference, config.beta)
    loss = grpo_loss(logprobs, batch.logprobs, *known)
    metrics = update_metrics(logits, logprobs, batch.logprobs, batch.advantages, *CLIP[config.method])
    return loss.sum(), len(logprobs), metrics


class GRPOTrainer(RolloutTrainer):
    """Trains a policy by GRPO, in the loop of `RolloutTrainer`.

    questions: a stream of batches of (token ids of a prompt, its subject). check(subjects, replies): the reward of each
    reply, and metrics. reference: the model at the start of training, if beta > 0. The other options are those of
    `Trainer`.
    """

    def __init__(
        self,
        model: LanguageModel,
        reference: LanguageModel | None,
        questions: ShuffledBatches[Any],
        check: Check,
        config: GRPOConfig,
        training: TrainingConfig,
        out_dir: str | Path,
        stop_tokens: Sequence[int],
        **options: Any,
    ):
        training = dataclasses.replace(training, max_iters=config.total_iterations * config.num_mini_batches)
        super().__init__(model, questions, training, out_dir, partial(grpo_batch_loss, config=config), **options)
        self.log.shown = ("reward", "exact", "format", "thought")  # on the screen; log.jsonl has all
        self.steps_per_iteration = config.num_mini_batches
        self.reference, self.check_answers, self.grpo = reference, check, config
        self.stop_tokens = list(stop_tokens)

    def roll_out(self) -> tuple[list[Any], dict[str, float]]:
        """Roll out, check, compare: the mini-batches, and metrics of the answers."""
        config = self.grpo
        # Roll out: G answers to each question, one after the other.
        asked = [question for question in next(self.batches) for _ in range(config.num_generations)]
        prompts, subjects = zip(*asked)
        replies = sample_replies(self.model, prompts, config.response_length, self.stop_tokens)
        # Check: the reward of each answer.
        rewards, metrics = self.check_answers(subjects, replies.replies())
        # Compare: each answer with the others of its group.
        advantages = group_advantages(rewards.reshape(-1, config.num_generations), config.method).reshape(-1)
        batches = grpo_batches(self.model, self.reference, replies, advantages, config, backend.generator())
        return batches, {"reward": float(rewards.mean()), "ended": float(replies.ended.mean()), **metrics}
