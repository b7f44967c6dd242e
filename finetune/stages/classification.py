"""A run of classification: train a head, and part of the model below it, and measure the result and its cost.

The cost is forgetting: the model's loss as a language model on held-out text, before and after training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt import Tokenizer
from gpt.console import show
from gpt.training.batches import sequential_batches
from gpt.training.checkpoint import ModelKind, check_like
from gpt.training.corpora import load_corpus
from gpt.training.evaluation import evaluate, mean_loss
from gpt.training.loading import load_model
from gpt.training.trainer import Trainer

from ..data.datasets import Labelled, ShuffledBatches, batches_of, read_labelled
from ..data.labelled_texts import documentation_texts, question_texts
from ..evaluation.answering import shorten
from ..evaluation.confusion import confusion_as_text, confusion_matrix, draw_confusion, majority_baseline, predict
from ..objectives.classification import classification_loss, collate, encode_texts
from ..objectives.gpt_with_head import HEAD_KIND, GPTWithHead, freeze
from .stage import Data, RunConfig, Stage

DOCUMENTATION, QUESTIONS = "python-docs", "questions"  # the built-in sets
LANGUAGE_TOKENS = 8192  # on which forgetting is measured, as the legend of the columns says


@dataclasses.dataclass(frozen=True)
class ClassifyConfig(RunConfig):
    """The settings of a classification run.

    data: "python-docs", "questions", or a file for `read_labelled`, whose last fifth is held out. trained_blocks:
    the number of last blocks that are trained with the head; None for the whole model. language: a corpus for
    `load_corpus`; the language loss is measured on its last tenth.
    """

    init_from: str = "runs/demo"
    data: str = DOCUMENTATION
    out_dir: str = "runs/classify"
    batch_size: int = 16
    trained_blocks: int | None = 0
    language: str = "english"


class Classification(Stage):
    """Train a classifier on a language model's body, and measure what the body forgets."""

    name = "classify"
    config_class = ClassifyConfig
    columns = """\
             loss  how surprised the classifier was by the right class, in nats (ln of the number of classes: guessing)
         accuracy  share of texts that are classified right
          texts/s  texts learned from, per second
   language loss  the loss as a language model, on the first 8,192 tokens of held-out text: can it still write?"""
    title = "Learning to classify"
    shares = ("accuracy",)
    unit = "texts"
    read = staticmethod(read_labelled)
    config: ClassifyConfig

    def prepare(self) -> Data:
        base, self.tokenizer = load_model(self.config.init_from)
        train, test = load_data(self.config.data, self.config.seed)
        labels = sorted({text.label for text in train + test})
        if len(labels) < 2:
            raise ValueError(f"{self.config.data} has only the label {labels[0]!r}: a classifier needs two")
        self.model = GPTWithHead.from_gpt(base, labels)
        show(f"starting from the weights in {self.config.init_from}, with a head for {', '.join(labels)}")
        return {"train": train, "test": test}

    def encode(self, data: Data) -> None:
        config, model = self.config, self.model
        freeze(model, config.trained_blocks)
        self.language = _language_ids(config.language, self.tokenizer)
        self.texts = data["test"]
        to_fit = model.labels, self.tokenizer, model.config.block_size
        self.train, self.cut = encode_texts(data["train"], *to_fit)
        self.test, _ = encode_texts(data["test"], *to_fit)
        self.batches = ShuffledBatches(self.train, config.batch_size, collate, config.seed)

    def introduce(self) -> None:
        model, block_size = self.model, self.model.config.block_size
        trained, head = model.num_parameters(trainable_only=True), model.score.weight.data.size
        sizes = f"{len(self.train):,} texts to learn from, {len(self.test):,} to test on, {len(model.labels)} classes"
        show(f"data: {sizes}")
        if self.cut:
            cut = f"{self.cut:,} texts were longer than the {block_size} tokens that the model can read"
            show(f"{cut}: their end is cut off")
        show(f"model: {model.num_parameters():,} parameters, of which {trained:,} are trained; the head has {head:,}")
        show(f"to beat: {self._baseline():.1%} accuracy, by always naming the most frequent class")

    def _baseline(self) -> float:
        return majority_baseline([number for _, number in self.train], [number for _, number in self.test])

    def measure(self) -> dict[str, Any]:
        return {"language_before": self._language_loss()}

    def check_measured(self, found: Mapping[str, Any]) -> None:
        check_like(found.get("language_before"), 0.0, "the state's language_before")

    def _language_loss(self) -> float:
        batches = sequential_batches(self.language, 16, self.model.config.block_size)
        return mean_loss(self.model.language_model(), batches)

    def kind(self) -> ModelKind:
        return HEAD_KIND

    loss = staticmethod(classification_loss)

    def validate(self) -> dict[str, float]:
        measured = evaluate(self.model, batches_of(self.test, 32, collate), classification_loss)
        language_loss = self._language_loss()
        return {"val_loss": measured["loss"], "accuracy": measured["accuracy"], "language_loss": language_loss}

    def report(self, trainer: Trainer) -> None:
        """Show the result, and store "accuracy" and "language_after" in the trainer's `extra_state`."""
        measured = self.validate()
        before, after = trainer.extra_state["language_before"], measured["language_loss"]
        trainer.extra_state |= {"accuracy": measured["accuracy"], "language_after": after}
        self._show_result(trainer.out_dir)
        corpus = self.config.language
        what = f"loss as a language model on held-out text ({corpus}): {before:.3f} before, {after:.3f} after"
        if self.config.trained_blocks == 0:
            show(f"\n{what}: only the head was trained, and nothing is forgotten\n")
        else:
            show(f"\n{what}: what it has forgotten\n")

    def _show_result(self, out_dir: Path) -> None:
        labels, true = self.model.labels, [number for _, number in self.test]
        probabilities = predict(self.model, [ids for ids, _ in self.test])  # (N, labels)
        predicted = probabilities.argmax(axis=1)
        counts = confusion_matrix(true, predicted, len(labels))
        show(f"\n{confusion_as_text(counts, labels)}\n")
        draw_confusion(counts, labels, out_dir / "confusion.png")
        right, baseline = float((predicted == true).mean()), self._baseline()
        of = f"{len(true)} texts that are not learned from (most frequent class: {baseline:.1%})"
        show(f"accuracy {right:.1%} on {of}")
        wrong = np.flatnonzero(predicted != true)
        for i in [*np.flatnonzero(predicted == true)[:2], *wrong[:2]]:
            name, share = labels[predicted[i]], probabilities[i, predicted[i]]
            mistake = "" if predicted[i] == true[i] else f", but it is {labels[true[i]]}"
            show(f"{'':>11} | {shorten(self.texts[i].text)}\n{'':>11} | -> {name} ({share:.0%} sure){mistake}")


def load_data(data: str, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Training and test texts: those of a built-in set, or those of a file, shuffled, with the last fifth held out."""
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


def _language_ids(corpus: str, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of the last tenth of a corpus, which pretraining on it holds out."""
    text = load_corpus(corpus).text
    ids = tokenizer.encode(text[round(len(text) * 0.9) :], allowed_special=())
    if len(ids) < 2:
        raise ValueError(f"{corpus} is too short to measure on its last tenth what is forgotten: take more text")
    return np.array(ids[:LANGUAGE_TOKENS])
