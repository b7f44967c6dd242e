"""The reward model: a language model with one number on top, which says how good a reply is.

It learns from comparisons, as people are better at "this one" than at "seven out of ten". Under Bradley and Terry's
model (1952) the better-scored reply wins with probability σ(r_chosen - r_rejected), and the loss is its surprise:

    -ln σ(r_chosen - r_rejected)           Ouyang et al. 2022 (InstructGPT), equation 1

Only differences matter: a constant added to all scores changes nothing.
"""

from __future__ import annotations

import math
from typing import Any

import minigrad.functional as F
from minigrad import Tensor

from ..data.pairs import PairBatch


def reward_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-ln σ(chosen - rejected) of each pair, from the scores (B) of its two replies -> (B).

    >>> [round(reward_loss(Tensor([c]), Tensor([0.0])).item(), 4) for c in (0.0, 2.0, -2.0)]
    [0.6931, 0.1269, 2.1269]
    """
    return -F.logsigmoid(chosen - rejected)


def reward_batch_loss(model: Any, batch: PairBatch) -> tuple[Tensor, int, dict[str, Any]]:
    """The loss function for the training loop: the sum over a batch's pairs, their number, and sums of the metrics.

    accuracy: how often the better reply scores higher; margin: by how much, on average.
    """
    scores = model(batch.tokens, batch.lengths).reshape(-1)  # (2B, 1) -> (2B,)
    chosen, rejected = F.split(scores, batch.size)
    margins = (chosen - rejected).data
    metrics = {"accuracy": (margins > 0).sum(), "margin": margins.sum()}
    return reward_loss(chosen, rejected).sum(), batch.size, metrics


def chance_of(right: int, pairs: int) -> float:
    """With which probability a coin would get at least `right` of `pairs` right: Σ_{k >= right} C(pairs, k) / 2^pairs.

    The one-sided binomial test of "no better than chance".

    >>> round(chance_of(60, 100), 3), chance_of(0, 100)
    (0.028, 1.0)
    """
    return sum(math.comb(pairs, k) for k in range(right, pairs + 1)) / 2**pairs
