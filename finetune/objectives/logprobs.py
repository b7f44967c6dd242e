"""How likely is a whole reply? Log-probabilities of sequences, and entropy: what preference learning is computed from.

A reply's probability is the product of its tokens' (the chain rule), so its log-probability is a sum:

    ln p(reply | prompt) = Σ_t ln p(reply_t | prompt, reply_<t)

Prompt and padding are left out by their target, -100, as in supervised fine-tuning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from minigrad.backend import module_of

IGNORE = -100  # the target of what is not learned from


def sequence_logprobs(model: Any, ids: np.ndarray, targets: np.ndarray) -> Tensor:
    """ln p of the tokens of each sequence that count: ids (B, T), targets (B, T) shifted by one or -100, -> (B,).

    Raises ValueError for a sequence with nothing that counts.
    """
    counts = (targets != IGNORE).sum(axis=1)  # (B,)
    if not counts.all():
        raise ValueError(f"sequence {int(counts.argmin())} has no token that counts: all its targets are {IGNORE}")
    return -model.loss(ids, targets, IGNORE, reduction="none").sum(dim=1)  # the loss is 0 where ignored


def selected_logprobs(logits: Tensor, ids: np.ndarray) -> Tensor:
    """ln softmax(logits)[id]: logits (..., V), and the ids (...) that came, -> (...).

    >>> selected_logprobs(Tensor(np.log([[0.25, 0.75]])), np.array([1])).data.round(4).tolist()
    [-0.2877]
    """
    rows, wanted = logits.reshape(-1, logits.shape[-1]), module_of(logits.data).asarray(ids.reshape(-1))
    return -F.cross_entropy(rows, wanted, reduction="none").reshape(*ids.shape)


def entropy(logits: Tensor) -> Tensor:
    """How undecided a distribution is, in nats: H = -Σ_v p_v ln p_v, logits (..., V) -> (...).

    0 for a certain token, ln V for V equally likely ones. Shannon 1948.

    >>> round(entropy(Tensor([0.0, 0.0])).item(), 4)  # a coin: ln 2
    0.6931
    """
    logprobs = F.log_softmax(logits, -1)
    return -(F.exp(logprobs) * logprobs).sum(-1)
