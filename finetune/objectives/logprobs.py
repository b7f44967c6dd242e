"""Log-probabilities of replies, and what is computed from them: entropy and the KL divergence.

A reply's probability is the product of its tokens' (the chain rule), so its log-probability is a sum:

    ln p(reply | prompt) = Σ_t ln p(reply_t | prompt, reply_<t)

The KL divergence says how far a policy π, the model that is trained, has moved from a reference ρ:

    KL(π || ρ) = E_{x ~ π} [ln π(x) - ln ρ(x)]          the mean over replies x that π writes

It is 0 for equal distributions and grows as π puts probability where ρ has little.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt.model.language_model import LanguageModel
from minigrad import Tensor
from minigrad.backend import module_of

from ..data.datasets import IGNORE

KL_ESTIMATORS = ("k1", "k2", "k3")


def tensor_like(array: np.ndarray, like: Tensor) -> Tensor:
    """An array as a Tensor without gradient, with the dtype and on the device of another one."""
    return Tensor(array, dtype=like.dtype, device=like.device)


def sequence_logprobs(model: LanguageModel, ids: np.ndarray, targets: np.ndarray) -> Tensor:
    """ln p of each sequence's tokens that count: ids (B, T), targets (B, T), shifted by one, -> (B,).

    Prompt and padding do not count: their target is -100.
    """
    losses = model.loss(ids, targets, IGNORE, reduction="none")  # (B, T): -ln p of each target, 0 where ignored
    return -losses.sum(dim=1)


def selected_logprobs(logits: Tensor, ids: np.ndarray) -> Tensor:
    """ln softmax(logits)[id] of the tokens that were drawn: logits (..., V), ids (...) -> (...).

    >>> selected_logprobs(Tensor(np.log([[0.25, 0.75]])), np.array([1])).data.round(4).tolist()
    [-0.2877]
    """
    rows, wanted = logits.reshape(-1, logits.shape[-1]), module_of(logits.data).asarray(ids.reshape(-1))
    # cross-entropy is -ln softmax(logits)[id] of each row; without a mean, it is what we want but for the sign
    return -F.cross_entropy(rows, wanted, reduction="none").reshape(*ids.shape)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of a distribution in nats, H = -Σ_v p_v ln p_v: how undecided it is. Logits (..., V) -> (...).

    0 for a certain token, ln V for V equally likely ones. Shannon 1948.

    >>> round(entropy(Tensor([0.0, 0.0])).item(), 4)  # a coin: ln 2
    0.6931
    """
    logprobs = F.log_softmax(logits, -1)  # (..., V): ln p_v
    return -_expected(logprobs, logprobs)


def exact_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(policy || reference) = Σ_v p_v (ln p_v - ln q_v) of next-token distributions: (..., V) -> (...), in nats.

    >>> round(exact_kl(Tensor([1.0, 0.0]), Tensor([0.0, 0.0])).item(), 4)
    0.1109
    >>> exact_kl(Tensor([3.0, 1.0]), Tensor([4.0, 2.0])).item()  # the same distribution
    0.0
    """
    log_p, log_q = F.log_softmax(policy_logits, -1), F.log_softmax(reference_logits, -1)  # (..., V)
    with np.errstate(invalid="ignore"):  # -inf - -inf, where both are certain that a token does not come
        log_ratio = log_p - log_q
    return _expected(log_p, log_ratio)  # the mean of the log-ratio over the policy's own tokens


def _expected(log_p: Tensor, x: Tensor) -> Tensor:
    """Σ_v p_v x_v, where p_v = 0 (a logit of -inf) counts 0, also if x_v is infinite: (..., V) -> (...)."""
    return (F.exp(log_p) * F.masked_fill(x, log_p.data == -np.inf, 0.0)).sum(-1)


def estimated_kl(policy_logprobs: Tensor, reference_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """An estimate of KL(policy || reference) per sample, in nats; the samples must be drawn from the policy.

    There are too many replies to sum over all of them, so the divergence is estimated from samples. With the log-ratio
    r = ln π(x) - ln ρ(x) of a sample, three estimators are in use, named k1, k2 and k3 by Schulman:

        k1 = r                  unbiased, noisy: half of the samples may be negative
        k2 = r² / 2             never negative, little noise, biased; its gradient is the right one
        k3 = e^-r - 1 + r       unbiased, as the mean of e^-r = ρ(x) / π(x) is 1; never negative, as e^-r >= 1 - r

    Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html). The two log-probabilities have the
    same shape, which is also the result's. Raises ValueError for another `kind`.

    >>> policy, reference = Tensor([0.5]), Tensor([0.0])  # log-probabilities; the sample is e^0.5 times as likely now
    >>> [round(estimated_kl(policy, reference, kind).item(), 4) for kind in KL_ESTIMATORS]
    [0.5, 0.125, 0.1065]
    """
    log_ratio = policy_logprobs - reference_logprobs  # its mean over the policy's samples is the KL divergence
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio * log_ratio * 0.5
    if kind == "k3":
        return F.exp(-log_ratio) - 1 + log_ratio
    raise ValueError(f"there is no KL estimator {kind!r}: choose from {', '.join(KL_ESTIMATORS)}")
