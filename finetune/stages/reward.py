"""A run of reward modeling: from a model that answers to a model that scores answers, and how often it is right.

This is the smallest stage, an example of what a stage has to define (see stage.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.training.checkpoint import CheckpointError, ModelKind, check_like, load_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.trainer import Trainer
from minigrad import no_grad
from minigrad.backend import to_numpy

from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of, read_preferences
from ..data.pairs import Pair, encode_pairs, load_pairs, pair_batch
from ..data.tasks import TASKS
from ..evaluation.answering import shorten
from ..objectives.gpt_with_head import HEAD_KIND, GPTWithHead
from ..objectives.reward import chance_of, reward_batch_loss
from .stage import Data, RunConfig, Stage

LABELS = ["reward"]  # a head with a single score
CHANCE = 0.01  # a reward model is better than a coin if a coin would do as well in fewer cases than this
SHOWN = 6


@dataclasses.dataclass(frozen=True)
class RewardConfig(RunConfig):
    """The settings of a reward modeling run. data: "tasks", or a file for `read_preferences`, whose last tenth is held
    out.
    """

    out_dir: str = "runs/reward"


class RewardModelling(Stage):
    """Train a reward model on pairs of replies, starting from a language model that has the chat tokens."""

    name = "reward"
    config_class = RewardConfig
    columns = """\
      loss  how surprised the model is by which reply was preferred: ln 2 = 0.69 for a coin
  accuracy  how often it scores the preferred reply higher
    margin  by how much, on average
   pairs/s  comparisons learned from per second"""
    title = "Learning what is preferred"
    shares = ("accuracy",)
    unit = "pairs"
    read = staticmethod(read_preferences)
    config: RewardConfig

    def prepare(self) -> Data:
        gpt, self.tokenizer = load_model(self.config.init_from)
        train, test = load_pairs(self.config.data, self.config.seed)
        self.model = GPTWithHead.from_gpt(gpt, LABELS)
        size = f"{self.model.num_parameters():,} parameters"
        show(f"starting from the weights in {self.config.init_from}, with a new head: {size}")
        return {"train": train, "test": test}

    def encode(self, data: Data) -> None:
        template, block_size = ChatTemplate(self.tokenizer), self.model.config.block_size
        self.train, self.shortened = encode_pairs(data["train"], template, block_size)
        self.tests, _ = encode_pairs(data["test"], template, block_size)
        self.batches = ShuffledBatches(self.train, self.config.batch_size, pair_batch, self.config.seed)

    def introduce(self) -> None:
        show(f"data: {len(self.train):,} pairs of replies to learn from, {len(self.tests):,} to test on")
        if self.shortened:
            how = "oldest turns left out, or the replies' ends cut"
            show(f"{self.shortened:,} pairs were too long for the model: {how}")

    def measure(self) -> dict[str, Any]:
        return {"scores": _scores(self.model, self.tests[:SHOWN])}

    def check_measured(self, found: Mapping[str, Any]) -> None:
        check_like(found.get("scores"), [(0.0, 0.0)] * len(self.tests[:SHOWN]), "the state's scores")

    def kind(self) -> ModelKind:
        return HEAD_KIND

    loss = staticmethod(reward_batch_loss)

    def validate(self) -> dict[str, float]:
        return _validate(self.model, self.tests, self.config.batch_size)

    def report(self, trainer: Trainer) -> None:
        after = _scores(self.model, self.tests[:SHOWN])
        _show_replies(self.tokenizer, self.tests[:SHOWN], trainer.extra_state["scores"], after)
        try:
            show(f"\n{check_better_than_chance(self.model, self.tests, self.config.out_dir)}")
        except ValueError as error:
            show(f"\n{error}")
        if self.config.data == TASKS:  # in turn, see tasks.preference_pairs
            kinds = {"courtesy": self.tests[0::3], "the answer": self.tests[1::3], "both": self.tests[2::3]}
            right = {name: _validate(self.model, pairs, self.config.batch_size) for name, pairs in kinds.items()}
            shares = ", ".join(f"{name}: {measured['accuracy']:.0%}" for name, measured in right.items())
            show(f"of those that differ in {shares}")


def load_reward_model(folder: str) -> tuple[GPTWithHead, Tokenizer]:
    """Load a trained reward model and its tokenizer. Raises CheckpointError for any other folder."""
    model = load_checkpoint(folder, with_optimizer=False, kind=HEAD_KIND).model
    if model.labels != LABELS:
        raise CheckpointError(f"{folder} holds a classifier of {', '.join(model.labels)[:60]}, not a reward model")
    return model, Tokenizer.load(folder)


def check_better_than_chance(model: GPTWithHead, pairs: Sequence[Pair], folder: str, batch_size: int = 32) -> str:
    """Show the accuracy of a reward model on held-out pairs. Raises ValueError unless it is better than a coin.

    It is better if a coin would get as many pairs right in less than 1 % of cases (one-sided binomial test).
    """
    right = round(_validate(model, pairs, batch_size)["accuracy"] * len(pairs))
    chance = chance_of(right, len(pairs))
    if chance >= CHANCE:
        raise ValueError(
            f"the reward model in {folder} is no better than chance: it gets {right} of {len(pairs)} held-out pairs "
            f"right, and a coin would do as well in {chance:.1%} of cases; train it longer, or on more pairs"
        )
    return f"it gets {right} of {len(pairs)} held-out pairs right; a coin would in {chance:.1g} of cases"


def _validate(model: GPTWithHead, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    metrics = evaluate(model, batches_of(pairs, batch_size, pair_batch), reward_batch_loss)
    return {"val_loss": metrics.pop("loss"), **metrics}


@no_grad()
def _scores(model: GPTWithHead, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """The scores of the better and the worse reply of each pair."""
    batch = pair_batch(pairs)
    scores = to_numpy(model(batch.tokens, batch.lengths).data)[:, 0].tolist()
    return list(zip(scores[: len(pairs)], scores[len(pairs) :]))


def _show_replies(tokenizer: Tokenizer, pairs: Sequence[Pair], before: Any, after: Any) -> None:
    show("\nHeld-out pairs, and their scores before and after training (preferred reply first):")
    for pair, *scores in zip(pairs, before, after):
        question = tokenizer.decode(pair.chosen.ids).split("user\n")[-1].split("<|im_end|>")[0]
        show(f"\n{'':>16} | {shorten(question)}")
        for i, reply in enumerate((pair.chosen, pair.rejected)):
            ids = [id for id, learn in zip(reply.ids, reply.learned) if learn]
            text = shorten(tokenizer.decode(ids, skip_special_tokens=True))
            show(f"{scores[0][i]:7.2f} {scores[1][i]:8.2f} | {text}")
