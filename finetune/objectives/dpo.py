"""Direct preference optimization: learn from pairs of replies without a reward model and without generating.

    loss = -ln σ(β [(ln π(chosen) - ln ρ(chosen)) - (ln π(rejected) - ln ρ(rejected))])        σ(x) = 1 / (1 + e^-x)

π is the policy, which is trained. ρ is the reference, the model that training starts from. ln π - ln ρ says how much
more likely a reply has become in training. The loss falls if this grows for the chosen reply, and if it falls for the
rejected one. β, 0.5 here, is the strength of the penalty for moving away from the reference: with a larger β, a
smaller change makes the loss small.

*For one pair*: each reply had the probability e^-5. The chosen one has become more likely, e^-4, and the rejected one
less likely, e^-9:

    >>> beta = 0.1
    >>> margin = (-4.0 - -5.0) - (-9.0 - -5.0)     # of ln π - ln ρ: 1 - (-4)
    >>> loss = -np.log(1 / (1 + np.exp(-beta * margin)))
    >>> print(margin, round(loss, 4))
    5.0 0.4741

Before training π = ρ, so the margin is 0 and the loss is -ln σ(0) = ln 2 = 0.69. The rest of this text derives the
loss.

*The best policy for a reward.* Let r(reply) be a reward. We want a high mean reward, and a policy that stays close to
the reference; the KL divergence KL(π || ρ), the mean of ln π - ln ρ over the policy's replies, measures the distance.
The policy with the largest mean(r) - β KL(π || ρ) can be written down, without training:

    π*(reply) = ρ(reply) e^(r(reply) / β) / Z        Z: the sum over all replies to this prompt, so that π* sums to 1

It is the best because for every π, with sums over all replies,

    mean(r) - β KL(π || ρ) = Σ π (r - β ln π + β ln ρ)          the definitions of mean and KL
                           = Σ π (β ln(ρ e^(r/β)) - β ln π)     as r = β ln e^(r/β)
                           = Σ π (β ln Z + β ln π* - β ln π)    as ρ e^(r/β) = Z π*
                           = β ln Z - β KL(π || π*)             as Σ π = 1

and a KL divergence is smallest, 0, where both are equal.

*The reward of a policy.* Nobody can compute Z, but it is not needed. Take the logarithm of the formula for π*, and
solve it for the reward:

    r(reply) = β (ln π*(reply) - ln ρ(reply)) + β ln Z

Therefore a policy *is* a reward model. It can be trained like one: in the model of Bradley and Terry (reward.py), a
reply is preferred with probability σ(r(chosen) - r(rejected)). In this difference β ln Z cancels, because both replies
have the same prompt; what remains is the loss above. The training loop is that of every other stage: only loss and
data change. The reference never changes, so its log-probabilities are computed once and stored with the data.

Rafailov et al. 2023, "Direct preference optimization: your language model is secretly a reward model".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt.console import progress_bar
from gpt.model.language_model import LanguageModel
from gpt.training.training_step import in_precision
from minigrad import Tensor, no_grad
from minigrad.backend import to_device, to_numpy
from minigrad.nn.module import evaluating

from ..data.datasets import Preference, batches_of
from ..data.pairs import Pair, PairBatch, pair_batch
from .logprobs import sequence_logprobs, tensor_like

KINDS = ("sigmoid", "ipo", "hinge", "robust")
BETA = 0.5  # the default everywhere; papers often take 0.1, for models that are larger than ours


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = BETA,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of each pair, from the log-probabilities (B) of its two replies under policy and reference -> (B).

        h = (ln π(chosen) - ln ρ(chosen)) - (ln π(rejected) - ln ρ(rejected))          loss = -ln σ(β h)

    h is the margin: by how much more than the reference the policy prefers the chosen reply to the rejected one.

    >>> before = dpo_loss(Tensor([-5.0]), Tensor([-5.0]), Tensor([-5.0]), Tensor([-5.0]))
    >>> after = dpo_loss(Tensor([-4.0]), Tensor([-9.0]), Tensor([-5.0]), Tensor([-5.0]), beta=0.1)
    >>> round(before.item(), 4), round(after.item(), 4)  # ln 2, and -ln σ(0.5)
    (0.6931, 0.4741)

    This is the kind "sigmoid". Other kinds of loss use the same h:

        sigmoid    -ln σ(β h)                                Rafailov et al. 2023, equation 7
        hinge      max(0, 1 - β h)                           Zhao et al. 2023 (SLiC), equation 2; Liu et al. 2024 (RSO)
        ipo        (h - 1/(2β))²                             Azar et al. 2023, equation 17: h is drawn to 1/(2β)
        robust     (-(1-ε) ln σ(β h) + ε ln σ(-β h)) / (1-2ε)    Chowdhury et al. 2024: a share ε of labels is wrong

    For "ipo", pass log-probabilities per token: the sum over a reply's tokens divided by their number. Its authors and
    TRL do so, and `dpo_batch_loss` divides. With sums, h would grow with the length of the replies, but its target
    1/(2β) would not. ε is `label_smoothing`, which only "robust" uses.

    Raises ValueError for another kind, beta <= 0, or label_smoothing outside [0, 0.5).
    """
    if not (0 < beta < float("inf") and 0 <= label_smoothing < 0.5):
        raise ValueError(f"beta must be > 0, and label_smoothing in [0, 0.5), got {beta} and {label_smoothing}")
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)  # (B,)
    if kind == "sigmoid":
        return -F.logsigmoid(beta * h)  # Bradley-Terry, with β h as the difference of the two rewards
    if kind == "hinge":
        return F.relu(1 - beta * h)  # no gradient once β h is 1
    if kind == "ipo":
        return (h - 1 / (2 * beta)) ** 2  # a margin beyond the target costs as much as one short of it
    if kind == "robust":
        # If a share e of the labels is swapped (-h), its mean is the sigmoid loss of the right ones.
        e = label_smoothing
        return (-(1 - e) * F.logsigmoid(beta * h) + e * F.logsigmoid(-beta * h)) / (1 - 2 * e)
    raise ValueError(f"there is no DPO loss {kind!r}: choose from {', '.join(KINDS)}")


def dpo_batch_loss(
    model: LanguageModel, batch: PairBatch, beta: float = BETA, kind: str = "sigmoid", label_smoothing: float = 0.0
) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the losses of B pairs, B, and sums of the metrics, which are named as in TRL.

    rewards/chosen, rewards/rejected: β (ln π - ln ρ), the rewards that the policy implies. rewards/margins: their
    difference, β h. rewards/accuracies: how often it is positive. logps/chosen, logps/rejected: ln π of the replies.
    """
    B = batch.size
    # ln π of all replies: the chosen ones first, then the rejected ones. The target of each token is the token after
    # it, and only the tokens of the reply count.
    ids, targets = batch.shifted()  # (2B, T-1) each
    policy_logps = sequence_logprobs(model, ids, targets)  # (2B)
    reference_logps = tensor_like(batch.reference, policy_logps)  # (2B), stored with the data
    logps = policy_logps.data.astype(np.float64)  # (2B): of whole replies, for the metrics
    if kind == "ipo":  # compares log-probabilities per token, see dpo_loss
        # 1 / the number of tokens of each reply: `loss_mask` is True at them
        per_token = tensor_like(1 / batch.loss_mask.sum(axis=1), policy_logps)
        policy_logps, reference_logps = policy_logps * per_token, reference_logps * per_token
    chosen, rejected = F.split(policy_logps, B)  # (B) each
    reference_chosen, reference_rejected = F.split(reference_logps, B)
    losses = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta, kind, label_smoothing)

    # Metrics, as plain numbers: no gradient flows through them. They are of whole replies also for "ipo", so the
    # margins of all kinds of loss can be compared.
    rewards = beta * (logps - to_device(batch.reference, policy_logps.device))
    margins = rewards[:B] - rewards[B:]
    metrics = {
        "rewards/chosen": rewards[:B].sum(),
        "rewards/rejected": rewards[B:].sum(),
        "rewards/accuracies": (margins > 0).sum(),
        "rewards/margins": margins.sum(),
        "logps/chosen": logps[:B].sum(),
        "logps/rejected": logps[B:].sum(),
    }
    return losses.sum(), B, metrics


@no_grad()
def with_reference(
    model: LanguageModel, pairs: Sequence[Pair], batch_size: int = 32, precision: str = "float32"
) -> list[Pair]:
    """The pairs with the log-probabilities of their replies under `model`, the reference, without dropout."""
    done = []
    with (
        evaluating(model),
        in_precision(precision),
        progress_bar(len(pairs), "reference log-probabilities", "pair") as bar,
    ):
        for part in batches_of(pairs, batch_size, list):
            # (2B): of the chosen replies first, then of the rejected ones
            logprobs = to_numpy(sequence_logprobs(model, *pair_batch(part).shifted()).data).tolist()
            for pair, chosen, rejected in zip(part, logprobs, logprobs[len(part) :]):
                done.append(
                    Pair(
                        dataclasses.replace(pair.chosen, reference=chosen),
                        dataclasses.replace(pair.rejected, reference=rejected),
                    )
                )
            bar.update(len(part))
    return done


def as_text(preferences: Sequence[Preference], pairs: Sequence[Pair]) -> list[Preference]:
    """For saving: the preferences, with the log-probabilities of their pairs."""
    return [
        dataclasses.replace(p, ref_chosen_logps=pair.chosen.reference, ref_rejected_logps=pair.rejected.reference)
        for p, pair in zip(preferences, pairs, strict=True)
    ]
