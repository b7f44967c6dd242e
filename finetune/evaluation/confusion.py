"""Which classes does a classifier take for which? Its predictions, counted in a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt.console import show
from gpt.training.plots import new_figure
from minigrad import no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from ..data.datasets import Labelled, batches_of, pad_right
from ..objectives.classification import Item
from ..objectives.model_with_head import ModelWithHead
from .answering import shorten


@no_grad()
def predict(model: ModelWithHead, texts: Sequence[Sequence[int]], batch_size: int = 32) -> np.ndarray:
    """The probability of each class (N, labels) for texts as ids."""
    batches = batches_of(texts, batch_size, lambda part: pad_right(part, fill=0))
    with evaluating(model):
        return np.concatenate([to_numpy(F.softmax(model(*batch), -1).data) for batch in batches])


def confusion_matrix(true: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """counts[i, j]: how many texts of class i were taken for class j.

    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], n=2).tolist()
    [[1, 1], [0, 2]]
    """
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
    return counts


def majority_baseline(train: Sequence[int], test: Sequence[int]) -> float:
    """The accuracy on `test` of always naming the class that is most frequent in `train`.

    >>> majority_baseline([0, 1, 1], [1, 0, 0, 1])
    0.5
    """
    return float((np.asarray(test) == np.bincount(np.asarray(train, np.intp)).argmax()).mean())


def confusion_as_text(counts: np.ndarray, labels: Sequence[str]) -> str:
    """The matrix as a table: a row per true class, a column per prediction.

    >>> print(confusion_as_text(np.array([[9, 1], [0, 10]]), ["ham", "spam"]))
       true, and taken for   ham  spam
                      ham     9     1
                     spam     0    10
    """
    short = [label[:12] for label in labels]
    width = max(5, *(len(label) + 1 for label in short))
    lines = [f"{'true, and taken for':>22}" + "".join(f"{label:>{width}}" for label in short)]
    for label, row in zip(labels, counts):
        lines.append(f"{label[:22]:>22}" + "".join(f"{count:>{width}}" for count in row))
    return "\n".join(lines)


def draw_confusion(counts: np.ndarray, labels: Sequence[str], path: Any) -> bool:
    """The same as a picture; False without matplotlib. Shades are shares of a row, the numbers are counts."""
    size = 2.5 + 0.75 * len(labels)
    figure = new_figure(size, size)
    if figure is None:
        return False
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=30, ha="right")
    axes.set_yticks(places, labels)
    axes.set(xlabel="taken for", ylabel="true", title="Held-out texts")
    figure.savefig(path, dpi=120)
    return True


def show_predictions(
    model: ModelWithHead, texts: Sequence[Labelled], items: Sequence[Item], baseline: float, out_dir: Path
) -> None:
    """Show the confusion matrix, the accuracy, and a few texts with their predictions; draw the matrix.

    items: the texts as ids, with their labels. baseline: the accuracy of always naming the most frequent class.
    """
    labels = model.labels
    true = np.array([label for _, label in items])
    probabilities = predict(model, [ids for ids, _ in items])  # (N, labels)
    predicted = probabilities.argmax(axis=1)
    counts = confusion_matrix(true, predicted, len(labels))
    show(f"\n{confusion_as_text(counts, labels)}\n")
    draw_confusion(counts, labels, out_dir / "confusion.png")
    right = predicted == true
    of = f"{len(true)} texts that are not learned from (most frequent class: {baseline:.1%})"
    show(f"accuracy {right.mean():.1%} on {of}")
    for i in [*np.flatnonzero(right)[:2], *np.flatnonzero(~right)[:2]]:
        mistake = "" if right[i] else f", but it is {labels[true[i]]}"
        answer = f"{labels[predicted[i]]} ({probabilities[i].max():.0%} sure){mistake}"
        show(f"{'':>11} | {shorten(texts[i].text)}\n{'':>11} | -> {answer}")
