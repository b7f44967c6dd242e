"""The reward model: a language model whose head gives one number, the score of a reply.

    loss = -ln σ(r_chosen - r_rejected)           Ouyang et al. 2022 (InstructGPT), equation 1

It learns from comparisons, because people find it easier to say "this one is better" than "seven out of ten". The
model of Bradley and Terry (1952) turns scores into comparisons: the first of two is preferred with a probability that
depends on the difference of their scores alone, σ(r_chosen - r_rejected) with the sigmoid σ(x) = 1 / (1 + e^-x). The
loss is the negative log-likelihood of the preferences. A constant added to all scores changes nothing.
"""

from __future__ import annotations

import math
from typing import Any

import minigrad.functional as F
from minigrad import Tensor

from ..data.pairs import PairBatch
from .model_with_head import ModelWithHead

LABELS = ["reward"]  # a head with a single score


def reward_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The loss -ln σ(chosen - rejected) of each pair, from the scores (B) of its two replies -> (B).

    >>> [round(reward_loss(Tensor([c]), Tensor([0.0])).item(), 4) for c in (0.0, 2.0, -2.0)]
    [0.6931, 0.1269, 2.1269]
    """
    return -F.logsigmoid(chosen - rejected)


def reward_batch_loss(model: ModelWithHead, batch: PairBatch) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the losses of B pairs, B, and sums of the metrics.

    accuracy: how often the chosen reply has the higher score. margin: the difference of the two scores.
    """
    scores = model(batch.tokens, batch.lengths).reshape(-1)  # (2B, 1) -> (2B): chosen replies first, then rejected
    chosen, rejected = F.split(scores, batch.size)  # (B) each
    margins = (chosen - rejected).data  # (B), plain numbers: no gradient flows through the metrics
    metrics = {"accuracy": (margins > 0).sum(), "margin": margins.sum()}
    return reward_loss(chosen, rejected).sum(), batch.size, metrics


def chance_of(right: int, pairs: int) -> float:
    """The probability that guessing gets at least `right` of `pairs` right: Σ_{k >= right} C(pairs, k) / 2^pairs.

    This is the one-sided binomial test of "no better than chance".

    >>> round(chance_of(60, 100), 3), chance_of(0, 100)
    (0.028, 1.0)
    """
    return sum(math.comb(pairs, k) for k in range(right, pairs + 1)) / 2**pairs
