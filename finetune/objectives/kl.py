"""How far has a policy moved from its reference? The KL divergence, exact and estimated from samples.

    KL(π || ρ) = E_{x ~ π} [ln π(x) - ln ρ(x)]

is 0 for equal distributions and grows as π puts probability where ρ has little. Over all replies it cannot be summed,
but it can be estimated from replies drawn from π, with the log-ratio r = ln π(x) - ln ρ(x) of each token:

    k1 = r                  unbiased, noisy: half of the samples may be negative
    k2 = r² / 2             never negative, little noise, biased; its gradient is the right one
    k3 = e^-r - 1 + r       unbiased and never negative

Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

import minigrad.functional as F
from minigrad import Tensor

KINDS = ("k1", "k2", "k3")


def estimated_kl(policy_logprobs: Tensor, reference_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """An estimate of KL(policy || reference) per sample, in nats; the samples must be drawn from the policy.

    The two log-probabilities have one shape, which is the result's. Raises ValueError for another `kind`.

    >>> policy, reference = Tensor([0.5]), Tensor([0.0])  # log-probabilities; the sample is e^0.5 times as likely now
    >>> [round(estimated_kl(policy, reference, kind).item(), 4) for kind in KINDS]
    [0.5, 0.125, 0.1065]
    """
    log_ratio = policy_logprobs - reference_logprobs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio * log_ratio * 0.5
    if kind == "k3":
        return F.exp(-log_ratio) - 1 + log_ratio
    raise ValueError(f"there is no KL estimator {kind!r}: choose from {', '.join(KINDS)}")


def exact_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(policy || reference) = Σ_v p_v (ln p_v - ln q_v) of next-token distributions: (..., V) -> (...), in nats.

    >>> round(exact_kl(Tensor([1.0, 0.0]), Tensor([0.0, 0.0])).item(), 4)
    0.1109
    >>> exact_kl(Tensor([3.0, 1.0]), Tensor([4.0, 2.0])).item()  # the same distribution
    0.0
    """
    log_p, log_q = F.log_softmax(policy_logits, -1), F.log_softmax(reference_logits, -1)
    return (F.exp(log_p) * (log_p - log_q)).sum(-1)
