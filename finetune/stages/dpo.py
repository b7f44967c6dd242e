"""A run of direct preference optimization: from a model that answers to a model that answers as people prefer."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpt.console import show
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.trainer import Trainer
from minigrad import Tensor

from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of
from ..data.pairs import (
    PairBatch,
    encode_pairs,
    encode_referenced,
    load_pairs,
    pair_batch,
    read_referenced,
    with_columns,
)
from ..data.tasks import TASKS, instruction_tasks
from ..evaluation.judge import Judge
from ..objectives.dpo import check_dpo, dpo_batch_loss, with_reference
from .stage import Data, RunConfig, Stage

TEST_ITEMS = 300  # held-out questions


@dataclasses.dataclass(frozen=True)
class DPOConfig(RunConfig):
    """The settings of a DPO run. data: "tasks", or a file for `read_preferences`, whose last tenth is held out.

    beta, loss_type, label_smoothing: see `dpo.dpo_loss`. Raises ValueError for a value that it does not accept.
    """

    out_dir: str = "runs/dpo"
    beta: float = 0.5
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_dpo(self.loss_type, self.beta, self.label_smoothing)


class PreferenceOptimization(Stage):
    """Tune a language model that has the chat tokens on pairs of replies. The untrained model is the reference."""

    name = "dpo"
    config_class = DPOConfig
    columns = """\
                loss  how surprised the model, taken as a reward model, is by which reply was preferred; at first ln 2
    rewards/margins  by how much more than the reference it prefers the better reply: beta times nats
 rewards/accuracies  how often it does
            pairs/s  comparisons learned from per second
              right  share of 100 held-out questions answered rightly, at temperature 1
          courteous  share of them answered rightly and courteously: what is preferred"""
    title = "Learning to prefer"
    shares = ("rewards/accuracies", "right", "courteous")
    unit = "pairs"
    shown = ("rewards/margins", "rewards/accuracies")
    read = staticmethod(read_referenced)
    config: DPOConfig

    def prepare(self) -> Data:
        self.model, self.tokenizer = load_model(self.config.init_from)
        template = ChatTemplate(self.tokenizer)
        self.model.to(self.device)
        show(f"starting from the weights in {self.config.init_from}, which are also the reference")
        data = {}
        for name, preferences in zip(("train", "test"), load_pairs(self.config.data, self.config.seed)):
            pairs, shortened = encode_pairs(preferences, template, self.model.config.block_size)
            if shortened:
                show(f"{name}: {shortened:,} pairs were too long: oldest turns left out, or the replies' ends cut")
            data[name] = with_columns(preferences, with_reference(self.model, pairs, self.config.batch_size))
        return data

    def encode(self, data: Data) -> None:
        config, template, block_size = self.config, ChatTemplate(self.tokenizer), self.model.config.block_size
        self.train, self.tests = (encode_referenced(data[name], template, block_size) for name in ("train", "test"))
        self.batches = ShuffledBatches(self.train, config.batch_size, pair_batch, config.seed)
        items = instruction_tasks("test", TEST_ITEMS, config.seed) if config.data == TASKS else []
        questions = [preference.prompt for preference in data["test"]]
        self.judge = Judge(self.model, self.tokenizer, config.init_from, items, questions, config.seed)

    def introduce(self) -> None:
        show(f"data: {len(self.train):,} pairs of replies to learn from, {len(self.tests):,} to test on")

    def loss(self, model: Any, batch: PairBatch) -> tuple[Tensor, int, dict[str, Any]]:
        return dpo_batch_loss(model, batch, self.config.beta, self.config.loss_type, self.config.label_smoothing)

    def validate(self) -> dict[str, float]:
        metrics = evaluate(self.model, batches_of(self.tests, self.config.batch_size, pair_batch), self.loss)
        return {"val_loss": metrics["loss"], **{name: metrics[name] for name in self.shown}, **self.judge.on_the_way()}

    def report(self, trainer: Trainer) -> None:
        self.judge.show_change()
