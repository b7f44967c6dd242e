"""Direct preference optimization: learn from pairs of replies without a reward model and without generating.

    loss = -ln σ(β [(ln π(chosen) - ln ρ(chosen)) - (ln π(rejected) - ln ρ(rejected))])

π is the policy, which is trained. ρ is the reference, the model that training starts from. For a given reward r, the
policy that maximizes the mean of r minus β KL(π || ρ) can be written down, without training:

    π(reply) = ρ(reply) e^(r(reply) / β) / Z        Z: the sum over all replies to this prompt, so that π sums to 1

It is the best because mean(r) - β KL(π || ρ) = β ln Z - β KL(π || ρ e^(r/β) / Z), and a KL divergence is smallest, 0,
where both are equal. Nobody can compute Z, but it is not needed. Solved for the reward, the formula says

    r(reply) = β (ln π(reply) - ln ρ(reply)) + β ln Z

Therefore a policy *is* a reward model. It can be trained like one: in the model of Bradley and Terry (reward.py), a
reply is preferred with probability σ(r(chosen) - r(rejected)). In this difference β ln Z cancels, because both replies
have the same prompt; what remains is the loss above. The training loop is that of every other stage: only loss and
data change. The reference never changes, so its log-probabilities are computed once and stored with the data.

Rafailov et al. 2023, "Direct preference optimization: your language model is secretly a reward model".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt.console import progress_bar
from minigrad import Tensor, no_grad
from minigrad.backend import to_device, to_numpy
from minigrad.nn.module import evaluating

from ..data.pairs import Pair, PairBatch, pair_batch
from .logprobs import sequence_logprobs

KINDS = ("sigmoid", "ipo", "hinge", "robust")


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of each pair, from the log-probabilities (B) of its two replies under policy and reference -> (B).

        h = (ln π(chosen) - ln ρ(chosen)) - (ln π(rejected) - ln ρ(rejected))      how much more the policy prefers it

        sigmoid    -ln σ(β h)                                Rafailov et al. 2023, equation 7
        hinge      max(0, 1 - β h)                           Zhao et al. 2023 (SLiC), equation 2; Liu et al. 2024 (RSO)
        ipo        (h - 1/(2β))²                             Azar et al. 2023, equation 17: h is drawn to 1/(2β)
        robust     (-(1-ε) ln σ(β h) + ε ln σ(-β h)) / (1-2ε)    Chowdhury et al. 2024: a share ε of labels is wrong

    For "ipo", pass log-probabilities per token, as its authors did and TRL does (`dpo_batch_loss` divides): with sums,
    the same target would ask less of longer replies. ε is `label_smoothing`, which only "robust" uses.
    Raises ValueError for another kind, beta <= 0, or label_smoothing outside [0, 0.5).

    >>> before = dpo_loss(Tensor([-5.0]), Tensor([-5.0]), Tensor([-5.0]), Tensor([-5.0]))  # no preference: ln 2
    >>> after = dpo_loss(Tensor([-4.0]), Tensor([-9.0]), Tensor([-5.0]), Tensor([-5.0]))
    >>> round(before.item(), 4), round(after.item(), 4)
    (0.6931, 0.4741)
    """
    check_dpo(kind, beta, label_smoothing)
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)  # (B,)
    if kind == "sigmoid":
        return -F.logsigmoid(beta * h)  # Bradley-Terry, with β h as the difference of the two rewards
    if kind == "hinge":
        return F.relu(1 - beta * h)  # no gradient once the margin β h is 1
    if kind == "ipo":
        return (h - 1 / (2 * beta)) ** 2  # a margin beyond the target costs as much as one short of it
    # robust: with probability ε the two replies were swapped, which turns h into -h
    e = label_smoothing
    return (-(1 - e) * F.logsigmoid(beta * h) + e * F.logsigmoid(-beta * h)) / (1 - 2 * e)


def check_dpo(kind: str, beta: float, label_smoothing: float) -> None:
    """Raise ValueError for arguments that `dpo_loss` does not accept."""
    if kind not in KINDS:
        raise ValueError(f"there is no DPO loss {kind!r}: choose from {', '.join(KINDS)}")
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be a number > 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}: it is the share of wrong labels")


def dpo_batch_loss(
    model: Any, batch: PairBatch, beta: float = 0.1, kind: str = "sigmoid", label_smoothing: float = 0.0
) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the losses of B pairs, B, and sums of the metrics, which are named as in TRL.

    rewards/chosen, rewards/rejected: β (ln π - ln ρ), the rewards that the policy implies. rewards/margins: their
    difference. rewards/accuracies: how often it is positive. logps/chosen, logps/rejected: ln π of the replies.
    """
    B = batch.size
    # ln π of all replies: the chosen ones first, then the rejected ones. `shifted` gives the model's inputs and, for
    # each, the token after it as its target; only the tokens of the reply count.
    policy = sequence_logprobs(model, *batch.shifted())  # (2B)
    reference = Tensor(batch.reference, dtype=policy.dtype, device=policy.device)  # (2B), stored with the data
    # ipo compares log-probabilities per token, see dpo_loss; `learned` (2B, T) is True at the tokens of the reply
    per_token = 1 / batch.learned.sum(axis=1) if kind == "ipo" else np.ones(2 * B)
    weight = Tensor(per_token, dtype=policy.dtype, device=policy.device)
    chosen, rejected = F.split(policy * weight, B)  # (B) each
    reference_chosen, reference_rejected = F.split(reference * weight, B)
    losses = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta, kind, label_smoothing)

    # Metrics, as plain numbers: no gradient flows through them.
    logps = policy.data.astype(np.float64)
    rewards = beta * (logps - to_device(batch.reference, policy.device))
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
def with_reference(model: Any, pairs: Sequence[Pair], batch_size: int = 32) -> list[Pair]:
    """The pairs with the log-probabilities of their replies under `model`, the reference, without dropout."""
    done = []
    with evaluating(model), progress_bar(len(pairs), "reference log-probabilities", "pair") as bar:
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            logprobs = to_numpy(sequence_logprobs(model, *pair_batch(part).shifted()).data).tolist()
            for pair, chosen, rejected in zip(part, logprobs, logprobs[len(part) :]):
                done.append(pair.with_reference(chosen, rejected))
            bar.update(len(part))
    return done
