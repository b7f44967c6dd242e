"""A run of instruction tuning: from a base model to a model that answers, with measurements of what has changed.

Before and after training, the model is asked held-out questions, which share neither wording nor words with the
training data; the same questions without the chat template, and in another model's template; and questions of general
knowledge, which do not improve, because instruction tuning teaches the format and not the knowledge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import check_like
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.trainer import Trainer

from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches, batches_of, read_examples
from ..data.mask_view import mask_as_text
from ..data.tasks import TASKS, TaskItem, instruction_tasks
from ..evaluation.answering import (
    SHOWN,
    ask,
    chat_template,
    following,
    following_form,
    likely_replies,
    scores,
    show_replies,
    show_scores,
)
from ..objectives.sft import Conversation, collate, encode_examples, sft_loss
from .stage import Data, RunConfig, Stage

TRAIN_ITEMS, TEST_ITEMS = 20_000, 400
VALIDATION_ITEMS = 80  # of the test items, at each evaluation, as the legend of the columns says


@dataclasses.dataclass(frozen=True)
class SFTConfig(RunConfig):
    """The settings of an instruction-tuning run. data: "tasks", or a file for `read_examples`, whose last tenth is held
    out.
    """

    init_from: str = "runs/demo"
    out_dir: str = "runs/sft"


class InstructionTuning(Stage):
    """Tune a language model on conversations. The chat tokens are added to its vocabulary."""

    name = "sft"
    config_class = SFTConfig
    columns = """\
                 loss  of the assistant's tokens only; all others are masked
  mean_token_accuracy  how often the most likely token is the right one
             tokens/s  tokens learned from, per second: a few of each conversation
          exact match  share of 80 held-out questions answered with the right words, nothing more, and then <|im_end|>
               format  share of replies that look like an answer, right or wrong, and then end"""
    title = "Learning to answer"
    read = staticmethod(read_examples)
    config: SFTConfig

    def prepare(self) -> Data:
        self.model, self.tokenizer = load_model(self.config.init_from)
        train, held_out = load_data(self.config.data, self.config.seed)
        added = add_chat_tokens(self.model, self.tokenizer)
        size = f"{self.model.num_parameters():,} parameters"
        show(f"starting from the weights in {self.config.init_from}, {added} tokens added: {size}")
        return {"train": train, "test": held_out}

    def encode(self, data: Data) -> None:
        self.template, block_size = ChatTemplate(self.tokenizer), self.model.config.block_size
        self.train, self.held_out = data["train"], data["test"]
        self.conversations, self.shortened = encode_examples(self.train, self.template, block_size)
        self.tests, _ = encode_examples(self.held_out, self.template, block_size)
        built_in = self.config.data == TASKS
        self.items = instruction_tasks("test", len(self.held_out), self.config.seed) if built_in else []
        self.shares = ("exact_match", "format") if built_in else ("mean_token_accuracy",)
        self.batches = ShuffledBatches(self.conversations, self.config.batch_size, collate, self.config.seed)

    def introduce(self) -> None:
        tokens = sum(len(ids) for ids, _ in self.conversations)
        learned = sum(sum(marks) for _, marks in self.conversations)
        show(
            f"data: {len(self.train):,} conversations to learn from, {len(self.held_out):,} to test on; {learned:,} of "
            f"{tokens:,} tokens are the assistant's and are learned from"
        )
        if self.shortened:
            show(f"{self.shortened:,} are too long for the model: their oldest turns are left out, or their end is cut")
        show("\nThe first one, with what is learned from in color or in brackets:")
        show(mask_as_text(self.template, self.train[0].messages))

    def measure(self) -> dict[str, Any]:
        return {"before": self._measure()}

    def _measure(self) -> dict[str, Any]:
        """`following` on the built-in questions, or the replies to the first few conversations of a file."""
        if self.items:
            return following(self.model, self.tokenizer, self.items)
        questions = [example.messages[:-1] for example in self.held_out[:SHOWN]]
        return {"replies": likely_replies(self.model, self.tokenizer, questions, max_new_tokens=60)}

    def check_measured(self, found: Mapping[str, Any]) -> None:
        replies = {"replies": dict.fromkeys((example.messages[-2]["content"] for example in self.held_out[:SHOWN]), "")}
        form = following_form(self.items) if self.items else replies
        check_like(found.get("before"), form, "the state's before")

    loss = staticmethod(sft_loss)

    def validate(self) -> dict[str, float]:
        items = self.items[:VALIDATION_ITEMS]
        return validate_answers(self.model, self.tokenizer, self.tests, items, self.config.batch_size)

    def report(self, trainer: Trainer) -> None:
        before, after = trainer.extra_state["before"], self._measure()
        if self.items:
            show_scores(before, after)
        answers = {example.messages[-2]["content"]: example.messages[-1]["content"] for example in self.held_out}
        show_replies(before["replies"], after["replies"], answers)

    def done(self, trainer: Trainer) -> str:
        return f"trained {trainer.steps_done} steps, {trainer.count:,} tokens of answers,"


def load_data(data: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and test conversations: the built-in ones of a seed, or those of a file with the last tenth held out."""
    if data == TASKS:
        return (
            [item.example() for item in instruction_tasks("train", TRAIN_ITEMS, seed)],
            [item.example() for item in instruction_tasks("test", TEST_ITEMS, seed)],
        )
    examples = read_examples(data)
    if len(examples) < 2:
        raise ValueError(f"{data} has one conversation only: one more is needed to test on")
    held_out = max(len(examples) // 10, 1)
    return examples[:-held_out], examples[-held_out:]


def validate_answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tests: Sequence[Conversation],
    items: Sequence[TaskItem],
    batch_size: int,
) -> dict[str, float]:
    """The loss on conversations, and the share of questions, if there are any, that are answered correctly."""
    measured = evaluate(model, batches_of(tests, batch_size, collate), sft_loss)
    metrics = {"val_loss": measured["loss"], "mean_token_accuracy": measured["mean_token_accuracy"]}
    if items:
        replies = ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer))
        metrics |= scores(items, replies)
    return metrics
