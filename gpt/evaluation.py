"""How good is a language model? The loss on text that it was not trained on, and what that loss means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad import no_grad


@no_grad()
def mean_loss(model: Any, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean cross-entropy in nats per token over all batches of (ids, targets). exp of it is the perplexity."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for ids, targets in batches:
        total += model.loss(ids, targets, reduction="sum").item()
        count += targets.size
    model.train(was_training)
    if count == 0:
        raise ValueError("there is nothing to evaluate: no batch has a token")
    return total / count


def perplexity(loss: float) -> float:
    """e^loss: among how many equally likely tokens the model seems to choose."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(loss: float, tokens: int, n_bytes: int) -> float:
    """loss in nats per token -> bits per byte of text, which does not depend on the tokenizer: loss / ln 2 * tokens / bytes."""
    return loss / math.log(2) * tokens / n_bytes


def baseline_losses(train: np.ndarray, validation: np.ndarray, vocab_size: int) -> dict[str, float]:
    """What simple models reach on `validation`, in nats per token: the marks that a loss curve passes.

    "uniform": knowing nothing, ln V. "unigram": knowing how frequent each token is. "bigram": knowing the token before, too.
    Both count in `train` and are smoothed: the bigram leans on the unigram as if it had been seen 100 times
    (a Dirichlet prior; MacKay & Peto 1995).
    """
    train, validation = np.asarray(train, np.int64), np.asarray(validation, np.int64)
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    losses = {"uniform": math.log(vocab_size), "unigram": float(-np.log(unigram[validation]).mean())}
    if len(validation) > 1:
        pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
        first = np.bincount(train[:-1], minlength=vocab_size)
        wanted = validation[:-1] * vocab_size + validation[1:]
        place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        seen = np.where(pairs[place] == wanted, counts[place], 0)
        strength = 100.0
        probability = (seen + strength * unigram[validation[1:]]) / (first[validation[:-1]] + strength)
        losses["bigram"] = float(-np.log(probability).mean())
    return losses
