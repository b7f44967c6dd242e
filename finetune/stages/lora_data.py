"""The data for adapting a model: a text to continue, or conversations to answer.

The training loop needs the same from both: batches, a loss, and a validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from gpt import LanguageModel, Tokenizer
from gpt.corpora.corpus import check_corpus
from gpt.training.batches import RandomBatches, check_length, open_tokens
from gpt.training.evaluation import describe_evaluation, held_out_loss, perplexity
from gpt.training.pretraining_parts import write_corpus
from gpt.training.run import Run, Stream
from gpt.training.training_step import LossFunction, language_model_loss

from ..built_in.tasks import TASKS, instruction_tasks
from ..data.chat_template import ChatTemplate
from ..data.datasets import Example, ShuffledBatches, read_examples
from ..objectives.sft import collate, encode_examples, packed_sft_loss
from .sft import VALIDATION_ITEMS, load_data, validate_answers

LONGEST = 1024  # tokens of a training sequence, for models that can read more


@dataclasses.dataclass(frozen=True)
class Task:
    """What the training loop needs of some data.

    batches: to train on. loss_fn: their loss. validate(whole): "val_loss" and other metrics on held-out data; of a long
    text, on a sample of it, unless all of it is wanted (`whole`). size: how much there is to learn from, in words.
    """

    batches: Stream
    loss_fn: LossFunction
    validate: Callable[..., dict[str, float]]
    size: str


def is_conversations(data: str) -> bool:
    """Whether `data` are conversations ("tasks", a .jsonl or .json file) instead of a text (a corpus or other file)."""
    return data == TASKS or Path(data).suffix.lower() in (".jsonl", ".json")


def read_data(run: Run) -> Sequence[list[Example]]:
    """Conversations to learn from, and conversations to test on. If the data are a text, there are none.

    Raises ValueError or OSError for data that cannot be read: this comes before you have waited for a model.
    """
    config = run.config
    if is_conversations(config.data):
        return load_data(config.data, config.seed) if run.is_new else run.load_data(read_examples)
    if run.is_new:
        check_corpus(config.data)  # can the text be read?
    return [], []


def text_task(run: Run, model: LanguageModel, tokenizer: Tokenizer) -> Task:
    """A text to continue, whose tokens a new run writes into its folder (gpt/training/pretraining_parts.py).

    Raises ValueError if there are too few to learn from.
    """
    config = run.config
    block_size = min(model.config.block_size, LONGEST)  # the length of a training sequence
    if run.is_new:
        write_corpus(config.data, run.out_dir, block_size, tokenizer)
    train = open_tokens(run.out_dir / "data" / "train.bin")
    test = open_tokens(run.out_dir / "data" / "val.bin")[: run.state.max_eval_items * block_size]
    check_length(train, block_size)

    def validate(whole: bool) -> dict[str, float]:
        metrics = held_out_loss(model, test, config.batch_size, block_size, whole)
        return {**metrics, "perplexity": perplexity(metrics["val_loss"])}

    batches = RandomBatches(train, config.batch_size, block_size, config.seed, len(tokenizer))
    size = f"{len(train):,} tokens to learn from, {describe_evaluation(test, block_size)}"
    return Task(batches, language_model_loss, validate, size)


def conversations_task(
    run: Run, model: LanguageModel, tokenizer: Tokenizer, train: Sequence[Example], test: Sequence[Example]
) -> Task:
    """Conversations, whose answers are learned. A new run keeps them in its folder."""
    config = run.config
    block_size = min(model.config.block_size, LONGEST)  # the length of a training sequence
    if run.is_new:
        run.keep_data(train=train, test=test)
    template = ChatTemplate(tokenizer)
    conversations, shortened = encode_examples(train, template, block_size)
    tests, _ = encode_examples(test[: run.state.max_eval_items], template, block_size)  # a short run tests on fewer
    tasks = instruction_tasks("test", VALIDATION_ITEMS, config.seed) if config.data == TASKS else []

    def validate(whole: bool) -> dict[str, float]:
        return validate_answers(run, model, tokenizer, tests, tasks)

    batches = ShuffledBatches(conversations, config.batch_size, collate, config.seed)
    note = f"; {shortened:,} were too long and lost their oldest turns" if shortened else ""
    size = f"{len(conversations):,} conversations to learn from, {len(tests):,} to test on"
    return Task(batches, packed_sft_loss, validate, size + note)


def loss_on_own_text(model: LanguageModel, source: str, max_sequences: int) -> dict[str, float]:
    """The "own_text": the loss on the old text, which is of the kind that the base model was trained on.

    source: the folder of the base model. If it is a run of ours, it holds the text; if not, nothing is measured.
    max_sequences: evaluate at most so many.
    """
    path = Path(source) / "data" / "val.bin"
    if not path.is_file():
        return {}
    block_size = model.config.block_size
    loss = held_out_loss(model, open_tokens(path)[: max_sequences * block_size], 16, block_size, whole=False)
    return {"own_text": loss["val_loss"]}
