"""A run of instruction tuning: a base model in, a model that answers out, and what that changed, measured.

Before and after, the model is asked questions that share neither wording nor words with those trained on; the same
questions without the chat template, and in another model's; and questions of general knowledge, which instruction
tuning cannot answer for it: it teaches the format, not the knowledge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt import Tokenizer
from gpt.console import show
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import Checkpoint, load_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.pretraining import check_unused
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import manual_seed

from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches, batches_of, read_examples
from ..data.mask_view import mask_as_text
from ..data.tasks import TaskItem, instruction_tasks
from ..evaluation.answering import SHOWN, ask, chat_template, following, scores, show_replies, show_scores
from ..objectives.sft import Conversation, collate, encode_examples, sft_loss
from .stage import begin_run, extra_state, settings_of, show_end

STAGE = "sft"
TASKS = "tasks"  # the name of the built-in questions
TRAIN_ITEMS, TEST_ITEMS = 20_000, 400
ASKED_ON_THE_WAY = 80  # of the test items, at each evaluation

COLUMNS = """\
                 loss  of the assistant's tokens only; all others are masked
  mean_token_accuracy  how often the most likely token is the right one
             tokens/s  tokens learned from, per second: a few of each conversation
          exact match  share of held-out questions answered with the right words, nothing more, and then <|im_end|>
               format  share of replies that look like an answer, right or wrong, and then end"""


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """A run of instruction tuning. data: "tasks", or a file for `read_examples`, whose last tenth is held out."""

    init_from: str = "runs/demo"
    data: str = TASKS
    out_dir: str = "runs/sft"
    batch_size: int = 32
    seed: int = 1337
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def instruct(config: SFTConfig, device: str = "cpu") -> Trainer:
    """Tune the model `config.init_from` on conversations; Ctrl-C saves.

    Raises FileExistsError where `config.out_dir` is in use, and what `load_model`, `read_examples` and `Trainer.run`
    raise.
    """
    check_unused(Path(config.out_dir))
    manual_seed(config.seed)
    model, tokenizer = load_model(config.init_from)
    train, held_out = load_data(config.data, config.seed)
    added = add_chat_tokens(model, tokenizer)
    data = _encode(model, tokenizer, train, held_out)  # raises before anything is written
    show(
        f"starting from the weights in {config.init_from}, {added} tokens added: {model.num_parameters():,} parameters"
    )
    begin_run(config.out_dir, tokenizer, {"train": train, "test": held_out})
    return _train(config, model, tokenizer, data, device)


def resume(out_dir: str, device: str = "cpu") -> Trainer:
    """Go on with the run in `out_dir`, with its own settings and data. Raises CheckpointError where there is none."""
    checkpoint = load_checkpoint(out_dir)
    config = settings_of(checkpoint.state, SFTConfig, STAGE, out_dir)
    tokenizer = Tokenizer.load(out_dir)
    train, held_out = (read_examples(Path(out_dir) / "data" / f"{name}.jsonl") for name in ("train", "test"))
    data = _encode(checkpoint.model, tokenizer, train, held_out)
    return _train(config, checkpoint.model, tokenizer, data, device, checkpoint)


def load_data(data: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Conversations to learn from, and others: the built-in ones of that seed, or a file's, the last tenth held out."""
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


class _Data(NamedTuple):
    """Conversations, as they are and as tokens; `shortened`: how many to learn from are too long for the model."""

    train: list[Example]
    held_out: list[Example]
    conversations: list[Conversation]
    tests: list[Conversation]
    shortened: int


def _encode(model: LanguageModel, tokenizer: Tokenizer, train: list[Example], held_out: list[Example]) -> _Data:
    template, block_size = ChatTemplate(tokenizer), model.config.block_size
    conversations, shortened = encode_examples(train, template, block_size)
    return _Data(train, held_out, conversations, encode_examples(held_out, template, block_size)[0], shortened)


def _train(
    config: SFTConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    data: _Data,
    device: str,
    checkpoint: Checkpoint | None = None,
) -> Trainer:
    model.to(device)
    _introduce(ChatTemplate(tokenizer), data)
    items = instruction_tasks("test", len(data.held_out), config.seed) if config.data == TASKS else []
    before = checkpoint.state["extra"]["before"] if checkpoint else _measure(model, tokenizer, items, data.held_out)
    trainer = Trainer(
        model,
        ShuffledBatches(data.conversations, config.batch_size, collate, config.seed),
        config.training,
        config.out_dir,
        sft_loss,
        evaluate=lambda: _validate(model, tokenizer, data.tests, items[:ASKED_ON_THE_WAY], config.batch_size),
        extra_state=extra_state(config, STAGE, before=before),
    )
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {config.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    picture = None
    if not trainer.interrupted:
        after = _measure(model, tokenizer, items, data.held_out)
        _show_change(before, after, items, data.held_out)
        shares = ("exact_match", "format") if items else ("mean_token_accuracy",)
        picture = plot_run(trainer.out_dir, {}, title="Learning to answer", shares=shares)
    done = f"trained {trainer.steps_done} steps, {trainer.count:,} tokens of answers,"
    show_end(trainer, STAGE, done, picture, "to talk to it:\n  python scripts/chat.py --model")
    return trainer


def _validate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tests: Sequence[Conversation],
    items: Sequence[TaskItem],
    batch_size: int,
) -> dict[str, float]:
    measured = evaluate(model, batches_of(tests, batch_size, collate), sft_loss)
    metrics = {"val_loss": measured["loss"], "mean_token_accuracy": measured["mean_token_accuracy"]}
    if items:
        replies = ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer))
        metrics |= scores(items, replies)
    return metrics


def _measure(
    model: LanguageModel, tokenizer: Tokenizer, items: Sequence[TaskItem], held_out: Sequence[Example]
) -> dict[str, Any]:
    """`following` on the built-in questions; of a file's conversations, the replies to the first few."""
    if items:
        return following(model, tokenizer, items)
    questions = [example.messages[:-1] for example in held_out[:SHOWN]]
    replies = ask(model, tokenizer, questions, chat_template(tokenizer), max_new_tokens=60)
    return {"replies": {question[-1]["content"]: reply.text for question, reply in zip(questions, replies)}}


# --- talking ----------------------------------------------------------------------------------------------------------


def _introduce(template: ChatTemplate, data: _Data) -> None:
    tokens = sum(len(ids) for ids, _ in data.conversations)
    learned = sum(sum(marks) for _, marks in data.conversations)
    show(
        f"data: {len(data.train):,} conversations to learn from, {len(data.held_out):,} to test on; {learned:,} of "
        f"{tokens:,} tokens are the assistant's and are learned from"
    )
    if data.shortened:
        show(f"{data.shortened:,} are too long for the model: their oldest turns are left out, or their end is cut")
    show("\nThe first one, with what is learned from in colour or in brackets:")
    show(mask_as_text(template, data.train[0].messages))
    show(f"\nWhat the columns mean:\n{COLUMNS}\n")


def _show_change(
    before: dict[str, Any], after: dict[str, Any], items: Sequence[TaskItem], held_out: Sequence[Example]
) -> None:
    if items:
        show_scores(before, after)
    answers = {example.messages[-2]["content"]: example.messages[-1]["content"] for example in held_out}
    show_replies(before["replies"], after["replies"], answers)
