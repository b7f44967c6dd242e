"""What a model is adapted to: a text, to be continued, or conversations, to be answered.

For the training loop both come down to the same: batches, a loss, and a validation.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt import Tokenizer
from gpt.console import show
from gpt.training.batches import RandomBatches, get_batch, open_tokens, prepare, sequential_batches
from gpt.training.corpora import load_corpus
from gpt.training.evaluation import LossFunction, evaluate, language_model_loss, mean_loss, perplexity
from gpt.training.pretraining import EVAL_TOKENS

from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of, read_examples, write_jsonl
from ..data.tasks import instruction_tasks
from ..evaluation.answering import ask, chat_template, scores
from ..objectives.sft import collate, encode_examples, sft_loss
from .sft import ASKED_ON_THE_WAY, TASKS, load_data


@dataclasses.dataclass(frozen=True)
class Task:
    """Batches for the Trainer, with the loss for them; validate(model) gives "val_loss" and other metrics."""

    batches: Any
    loss_fn: LossFunction
    validate: Callable[[Any], dict[str, float]]
    unit: str = "tokens"


def is_conversations(data: str) -> bool:
    """Whether `data` are conversations ("tasks", a .jsonl or .json file) and not a text (a corpus, any other file)."""
    return data == TASKS or Path(data).suffix.lower() in (".jsonl", ".json")


def prepare_data(data: str, tokenizer: Tokenizer, out_dir: str | os.PathLike[str], seed: int) -> None:
    """Write the data into the folder of the run, which can go on with them then, whatever becomes of their source.

    Raises what `load_corpus` and `read_examples` raise.
    """
    folder = Path(out_dir) / "data"
    if is_conversations(data):
        for name, examples in zip(("train", "test"), load_data(data, seed), strict=True):
            write_jsonl(folder / f"{name}.jsonl", examples)
    else:
        corpus = load_corpus(data)
        show(str(corpus))
        prepare(corpus.text, tokenizer, folder)


def read_task(
    data: str, tokenizer: Tokenizer, out_dir: str | os.PathLike[str], block_size: int, batch_size: int, seed: int
) -> Task:
    """What `prepare_data` has written, for a model that reads `block_size` tokens. Raises ValueError for too few."""
    folder = Path(out_dir) / "data"
    if is_conversations(data):
        return _conversations(folder, data, tokenizer, block_size, batch_size, seed)
    train, validation = open_tokens(folder / "train.bin"), open_tokens(folder / "val.bin")[:EVAL_TOKENS]
    get_batch(train, 1, block_size, np.random.default_rng(0), len(tokenizer))  # raises if it is too short, or damaged
    show(f"data: {len(train):,} tokens to learn from")

    def validate(model: Any) -> dict[str, float]:
        loss = mean_loss(model, sequential_batches(validation, batch_size, block_size, len(tokenizer)))
        return {"val_loss": loss, "perplexity": perplexity(loss)}

    batches = RandomBatches(train, batch_size, block_size, seed, len(tokenizer))
    return Task(batches, language_model_loss, validate)


def _conversations(folder: Path, data: str, tokenizer: Tokenizer, block_size: int, batch_size: int, seed: int) -> Task:
    template = ChatTemplate(tokenizer)
    parts = [read_examples(folder / name) for name in ("train.jsonl", "test.jsonl")]
    (train, shortened), (tests, _) = (encode_examples(examples, template, block_size) for examples in parts)
    items = instruction_tasks("test", ASKED_ON_THE_WAY, seed) if data == TASKS else []
    note = f"; {shortened:,} were too long and lost their oldest turns" if shortened else ""
    show(f"data: {len(train):,} conversations to learn from{note}")

    def validate(model: Any) -> dict[str, float]:
        measured = evaluate(model, batches_of(tests, batch_size, collate), sft_loss)
        metrics = {"val_loss": measured["loss"], "mean_token_accuracy": measured["mean_token_accuracy"]}
        if items:
            replies = ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer))
            metrics |= scores(items, replies)
        return metrics

    return Task(ShuffledBatches(train, batch_size, collate, seed), sft_loss, validate)


def loss_on_own_text(model: Any, source: str, tokenizer: Tokenizer) -> float | None:
    """The loss on text like that which the base model was trained on: what it may forget. None if there is none here.

    source: the base model's run folder, which holds the text that it was validated on.
    """
    path = Path(source) / "data" / "val.bin"
    if not path.is_file():
        return None
    return mean_loss(
        model, sequential_batches(open_tokens(path)[:EVAL_TOKENS], 16, model.config.block_size, len(tokenizer))
    )
