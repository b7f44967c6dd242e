"""The data for adapting a model: a text to continue, or conversations to answer.

The training loop needs the same from both: batches, a loss, and a validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from gpt import LanguageModel, Tokenizer
from gpt.training.batches import RandomBatches, check_length, open_tokens
from gpt.training.evaluation import describe_evaluation, held_out_loss, perplexity
from gpt.training.run import Stream
from gpt.training.training_step import LossFunction, language_model_loss

from ..built_in.tasks import TASKS, instruction_tasks
from ..data.chat_template import ChatTemplate
from ..data.datasets import Example, ShuffledBatches
from ..objectives.sft import collate, encode_examples, sft_loss
from .adapted_model import AdaptationConfig
from .sft import VALIDATION_ITEMS, validate_answers


@dataclasses.dataclass(frozen=True)
class Task:
    """Batches to train on and their loss. validate(model, whole) gives "val_loss" and other metrics.

    whole: evaluate all held-out data, not only a sample of a long text. size: the amount of training data, in words.
    """

    batches: Stream
    loss_fn: LossFunction
    validate: Callable[..., dict[str, float]]
    size: str


def is_conversations(data: str) -> bool:
    """Whether `data` are conversations ("tasks", a .jsonl or .json file) instead of a text (a corpus or other file)."""
    return data == TASKS or Path(data).suffix.lower() in (".jsonl", ".json")


def text_task(folder: Path, tokenizer: Tokenizer, block_size: int, config: AdaptationConfig, most: int) -> Task:
    """The tokens that `write_corpus` has written (gpt/training/pretraining_parts.py), in sequences of `block_size`.

    most: of the held-out sequences, how many to evaluate. Raises ValueError if there are too few to learn from.
    """
    train, validation = open_tokens(folder / "train.bin"), open_tokens(folder / "val.bin")[: most * block_size]
    check_length(train, block_size)

    def validate(model: LanguageModel, whole: bool) -> dict[str, float]:
        found = held_out_loss(model, validation, config.batch_size, block_size, whole)
        return {**found, "perplexity": perplexity(found["val_loss"])}

    batches = RandomBatches(train, config.batch_size, block_size, config.seed, len(tokenizer))
    size = f"{len(train):,} tokens to learn from, {describe_evaluation(validation, block_size)}"
    return Task(batches, language_model_loss, validate, size)


def conversations_task(
    train: Sequence[Example], test: Sequence[Example], tokenizer: Tokenizer, block_size: int, config: AdaptationConfig
) -> Task:
    """Conversations for a model that reads `block_size` tokens."""
    template = ChatTemplate(tokenizer)
    conversations, shortened = encode_examples(train, template, block_size)
    tests, _ = encode_examples(test, template, block_size)
    items = instruction_tasks("test", VALIDATION_ITEMS, config.seed) if config.data == TASKS else []
    note = f"; {shortened:,} were too long and lost their oldest turns" if shortened else ""

    def validate(model: LanguageModel, whole: bool) -> dict[str, float]:
        return validate_answers(model, tokenizer, tests, items, config.batch_size)

    batches = ShuffledBatches(conversations, config.batch_size, collate, config.seed)
    return Task(batches, sft_loss, validate, f"{len(conversations):,} conversations to learn from{note}")


def loss_on_own_text(model: LanguageModel, source: str, most: int) -> float | None:
    """The loss on text of the kind that the base model was trained on, which it may forget. None if there is no text.

    source: the run folder of the base model, which holds its validation text. most: how many sequences to evaluate.
    """
    path = Path(source) / "data" / "val.bin"
    if not path.is_file():
        return None
    block_size = model.config.block_size
    return held_out_loss(model, open_tokens(path)[: most * block_size], 16, block_size, whole=False)["val_loss"]
