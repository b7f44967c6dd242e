"""How good is a language model? The loss on text that it was not trained on, and what that loss means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minigrad import Tensor, no_grad

LossFunction = Callable[[Any, Any], tuple[Tensor, int, dict[str, float]]]


def language_model_loss(
    model: Any, batch: tuple[np.ndarray, np.ndarray], ignore_index: int = -100
) -> tuple[Tensor, int, dict[str, float]]:
    """Next-token cross-entropy of a batch (ids, targets), summed; how many targets count; no further metrics.

    The pattern of all loss functions that `evaluate` and the training loop take: a sum, the number to divide it by, and
    sums of whatever else is to be reported, to be divided by the same number.
    """
    ids, targets = batch
    return model.loss(ids, targets, ignore_index, reduction="sum"), int((targets != ignore_index).sum()), {}


@no_grad()
def evaluate(model: Any, batches: Iterable[Any], loss_fn: LossFunction = language_model_loss) -> dict[str, float]:
    """The mean over all batches of the loss, as "loss", and of the other metrics of `loss_fn`; without dropout.

    Raises ValueError if nothing counts.
    """
    sums: Counter[str] = Counter()
    count = 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            loss, n, metrics = loss_fn(model, batch)
            sums.update({"loss": loss.item(), **metrics})
            count += n
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("there is nothing to evaluate: no batch has a target that counts")
    return {name: total / count for name, total in sums.items()}


def mean_loss(model: Any, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean cross-entropy in nats per token over all batches of (ids, targets). exp of it is the perplexity."""
    return evaluate(model, batches)["loss"]


def perplexity(loss: float) -> float:
    """e^loss: among how many equally likely tokens the model seems to choose."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(loss: float, tokens: int, n_bytes: int) -> float:
    """The loss in bits per byte of text, which compares across tokenizers: loss / ln 2 * tokens / bytes."""
    return loss / math.log(2) * tokens / n_bytes


def baseline_losses(train: np.ndarray, validation: np.ndarray, vocab_size: int) -> dict[str, float]:
    """What simple models reach on `validation`, in nats per token: the marks that a loss curve passes.

    "uniform": knowing nothing, ln V. "unigram": knowing how frequent each token is. "bigram": knowing the token
    before, too. Both count in `train` and are smoothed: the unigram as if every token had been seen once more; the
    bigram leans on the unigram as if it had been seen 100 times (a Dirichlet prior; MacKay & Peto 1995).
    """
    train, validation = np.asarray(train, np.int64), np.asarray(validation, np.int64)
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    losses = {"uniform": math.log(vocab_size), "unigram": float(-np.log(unigram[validation]).mean())}
    if len(validation) > 1:
        pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
        wanted = validation[:-1] * vocab_size + validation[1:]
        place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        seen = np.where(pairs[place] == wanted, counts[place], 0)
        first = np.bincount(train[:-1], minlength=vocab_size)
        prior = 100.0
        probability = (seen + prior * unigram[validation[1:]]) / (first[validation[:-1]] + prior)
        losses["bigram"] = float(-np.log(probability).mean())
    return losses
