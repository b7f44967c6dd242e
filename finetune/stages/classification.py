"""A run of classification: train a head, and some of the model below it, then say how good it is and what it cost.

The cost is what the model forgets: its loss as a language model, on text that it was not trained on, before and after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt import Tokenizer
from gpt.console import show
from gpt.training.batches import sequential_batches
from gpt.training.checkpoint import Checkpoint, load_checkpoint
from gpt.training.corpora import load_corpus
from gpt.training.evaluation import evaluate, mean_loss
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.pretraining import check_unused
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import manual_seed

from ..data.datasets import Labelled, ShuffledBatches, batches_of, read_labelled
from ..data.labelled_texts import documentation_texts, question_texts
from ..evaluation.answering import shorten
from ..objectives.classification import (
    Item,
    classification_loss,
    collate,
    confusion_as_text,
    confusion_matrix,
    draw_confusion,
    encode_texts,
    majority_baseline,
    predict,
)
from ..objectives.gpt_with_head import HEAD_KIND, GPTWithHead, freeze
from .stage import begin_run, extra_state, settings_of, show_end

STAGE = "classify"
DOCUMENTATION, QUESTIONS = "python-docs", "questions"  # the built-in sets
LANGUAGE_TOKENS = 8192  # on which forgetting is measured

COLUMNS = """\
             loss  how surprised the classifier was by the right class, in nats (ln of the number of classes: guessing)
         accuracy  share of texts that are classified right
          texts/s  texts learned from, per second
   language loss  the loss as a language model, on text that it was not trained on: can it still write?"""


@dataclasses.dataclass(frozen=True)
class ClassifyConfig:
    """A run of classification.

    data: "python-docs", "questions", or a file for `read_labelled`, whose last fifth is held out. trained_blocks:
    how many of the last blocks learn with the head; None for the whole model. language: a corpus for `load_corpus`, of
    whose last tenth the language loss is measured.
    """

    init_from: str = "runs/demo"
    data: str = DOCUMENTATION
    out_dir: str = "runs/classify"
    trained_blocks: int | None = 0
    language: str = "english"
    batch_size: int = 16
    seed: int = 1337
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


@dataclasses.dataclass
class Result:
    """What a run came to. language_before and _after: the loss as a language model, in nats per token."""

    trainer: Trainer
    trained_parameters: int
    accuracy: float
    language_before: float
    language_after: float


def classify(config: ClassifyConfig, device: str = "cpu") -> Result:
    """Train a classifier on the model `config.init_from`; Ctrl-C saves.

    Raises FileExistsError where `config.out_dir` is in use, and what `load_model`, `read_labelled` and `Trainer.run`
    raise.
    """
    check_unused(Path(config.out_dir))
    manual_seed(config.seed)
    base, tokenizer = load_model(config.init_from)
    train, test = load_data(config.data, config.seed)
    labels = sorted({text.label for text in train + test})
    if len(labels) < 2:
        raise ValueError(f"{config.data} has only the label {labels[0]!r}: a classifier needs two")
    model = GPTWithHead.from_gpt(base, labels)
    freeze(model, config.trained_blocks)
    language = _language_ids(config.language, tokenizer)
    show(f"starting from the weights in {config.init_from}, with a head for {', '.join(labels)}")
    begin_run(config.out_dir, tokenizer, {"train": train, "test": test})
    return _train(config, model, tokenizer, language, device)


def resume(out_dir: str, device: str = "cpu") -> Result:
    """Go on with the run in `out_dir`, with its own settings and data. Raises CheckpointError where there is none."""
    checkpoint = load_checkpoint(out_dir, kind=HEAD_KIND)
    config = settings_of(checkpoint.state, ClassifyConfig, STAGE, out_dir)
    tokenizer = Tokenizer.load(out_dir)
    freeze(checkpoint.model, config.trained_blocks)
    return _train(config, checkpoint.model, tokenizer, _language_ids(config.language, tokenizer), device, checkpoint)


def load_data(data: str, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Texts to learn from and others: a built-in set's, or a file's, shuffled, with the last fifth held out."""
    if data == DOCUMENTATION:
        return documentation_texts("train"), documentation_texts("test")
    if data == QUESTIONS:
        return question_texts("train", 2000, seed), question_texts("test", 400, seed)
    texts = read_labelled(data)
    order = np.random.default_rng(seed).permutation(len(texts))
    texts = [texts[i] for i in order]
    held_out = max(len(texts) // 5, 1)
    if len(texts) < 4:
        raise ValueError(f"{data} has {len(texts)} texts: too few to learn from some and test on others")
    return texts[:-held_out], texts[-held_out:]


def _train(
    config: ClassifyConfig,
    model: GPTWithHead,
    tokenizer: Tokenizer,
    language: np.ndarray,
    device: str,
    checkpoint: Checkpoint | None = None,
) -> Result:
    model.to(device)
    data = Path(config.out_dir) / "data"
    texts = {name: read_labelled(data / f"{name}.jsonl") for name in ("train", "test")}
    encoded = {
        name: encode_texts(part, model.labels, tokenizer, model.config.block_size) for name, part in texts.items()
    }
    (train, cut), (test, _) = encoded["train"], encoded["test"]
    _introduce(model, train, test, cut)
    before = checkpoint.state["extra"]["language_before"] if checkpoint else _language_loss(model, language)
    trainer = Trainer(
        model,
        ShuffledBatches(train, config.batch_size, collate, config.seed),
        config.training,
        config.out_dir,
        classification_loss,
        evaluate=lambda: _validate(model, test, language),
        extra_state=extra_state(config, STAGE, language_before=before),
        unit="texts",
        kind=HEAD_KIND,
    )
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {config.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    after = _language_loss(model, language)
    accuracy = evaluate(model, batches_of(test, 32, collate), classification_loss)["accuracy"]
    picture = None
    if not trainer.interrupted:
        _show_result(model, train, test, texts["test"], trainer.out_dir)
        _show_forgetting(config, before, after)
        picture = plot_run(trainer.out_dir, {}, title="Learning to classify", unit="text", shares=("accuracy",))
    done = f"trained {trainer.steps_done} steps, {trainer.count:,} texts,"
    show_end(trainer, STAGE, done, picture, 'to use it:\n  python scripts/classify.py --predict "some text" --model')
    return Result(trainer, model.num_parameters(trainable_only=True), accuracy, before, after)


def _validate(model: GPTWithHead, test: Sequence[Item], language: np.ndarray) -> dict[str, float]:
    measured = evaluate(model, batches_of(test, 32, collate), classification_loss)
    return {
        "val_loss": measured["loss"],
        "accuracy": measured["accuracy"],
        "language_loss": _language_loss(model, language),
    }


def _language_ids(corpus: str, tokenizer: Tokenizer) -> np.ndarray:
    """Tokens of the corpus' last tenth, which pretraining on it holds out."""
    text = load_corpus(corpus).text
    ids = tokenizer.encode(text[round(len(text) * 0.9) :], allowed_special=())
    return np.array(ids[:LANGUAGE_TOKENS])


def _language_loss(model: GPTWithHead, ids: np.ndarray) -> float:
    return mean_loss(model.language_model(), sequential_batches(ids, 16, model.config.block_size))


# --- talking ----------------------------------------------------------------------------------------------------------


def _introduce(model: GPTWithHead, train: Sequence[Item], test: Sequence[Item], cut: int) -> None:
    block_size, head = model.config.block_size, model.score.weight.data.size
    trained, whole = model.num_parameters(trainable_only=True), model.num_parameters()
    baseline = majority_baseline([number for _, number in train], [number for _, number in test])
    show(f"data: {len(train):,} texts to learn from, {len(test):,} to test on, {len(model.labels)} classes")
    if cut:
        show(f"{cut:,} texts were longer than the {block_size} tokens that the model can read: their end is cut off")
    show(f"model: {whole:,} parameters, of which {trained:,} are trained; the head has {head:,}")
    show(f"to beat: {baseline:.1%} accuracy, by always naming the most frequent class")
    show(f"\nWhat the columns mean:\n{COLUMNS}\n")


def _show_result(
    model: GPTWithHead, train: Sequence[Item], test: Sequence[Item], texts: Sequence[Labelled], out_dir: Path
) -> None:
    true = [number for _, number in test]
    probabilities = predict(model, [ids for ids, _ in test])  # (N, labels)
    predicted = probabilities.argmax(axis=1)
    counts = confusion_matrix(true, predicted, len(model.labels))
    show(f"\n{confusion_as_text(counts, model.labels)}\n")
    draw_confusion(counts, model.labels, out_dir / "confusion.png")
    right, baseline = float((predicted == true).mean()), majority_baseline([number for _, number in train], true)
    show(f"accuracy {right:.1%} on {len(test)} texts that are not learned from (most frequent class: {baseline:.1%})")
    wrong = np.flatnonzero(predicted != true)
    for i in [*np.flatnonzero(predicted == true)[:2], *wrong[:2]]:
        name, share = model.labels[predicted[i]], probabilities[i, predicted[i]]
        mistake = "" if predicted[i] == true[i] else f", but it is {model.labels[true[i]]}"
        show(f"{'':>11} | {shorten(texts[i].text)}\n{'':>11} | -> {name} ({share:.0%} sure){mistake}")


def _show_forgetting(config: ClassifyConfig, before: float, after: float) -> None:
    what = f"loss as a language model on held-out text ({config.language}): {before:.3f} before, {after:.3f} after"
    if config.trained_blocks == 0:
        show(f"\n{what}: only the head was trained, and nothing is forgotten\n")
    else:
        show(f"\n{what}: what it has forgotten\n")
