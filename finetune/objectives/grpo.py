"""Group relative policy optimization (GRPO): learn from your own answers, where code can check them.

The idea: answer the same question several times. An answer that is better than the others to its question becomes more
likely, with all its tokens, and a worse one less likely.

Let there be G answers, a *group*. Code gives answer i the reward r_i, 1 if it is right, else 0. Its *advantage* says
how much better it is than its group:

    A_i = (r_i - mean(r)) / std(r)           rewards 1, 0, 0, 0 give the advantages 1.5, -0.5, -0.5, -0.5

The mean reward tells what was to be expected. (PPO trains a layer to predict it, the value head.) If all answers of a
group are right, or all are wrong, there is nothing to learn from them. std is the standard deviation of a sample: the
sum of squares is divided by G - 1, not G, as in TRL and verl; the paper does not say which one it takes.

*The loss of a token* is PPO's (ppo.py). Without the clip, -ratio A would push the tokens of a good answer up, and those
of a bad one down, without limit:

    loss_token = -min(ratio A, clip(ratio, 1 - ε, 1 + ε) A)          ratio = π(token) / π_old(token)

π is the *policy*, the language model that is trained; π_old is the policy when it wrote the answers, so training begins
with ratio 1; clip(x, low, high) limits x to the range from low to high; ε is 0.2. Once the ratio has moved by ε in the
direction of A, the loss stays the same, so the gradient is 0 (* in the table), and π stays near π_old:

    ratio        0.5      1.1      1.8
    A =  1      -0.5     -1.1     -1.2 *      the last: min(1.8, 1.2) = 1.2
    A = -1       0.8 *    1.1      1.8        the first: min(-0.5, -0.8) = -0.8; the last: min(-1.8, -1.2) = -1.8

Where the ratio has moved against A, the gradient remains and corrects it: see A = 1 with 0.5, and A = -1 with 1.8.

*The whole loss* is the mean over the answers, each of which is the mean over its tokens. For one question, with answers
of one token each:

    >>> r = np.array([1.0, 0.0, 0.0, 0.0])                  # (G): the first answer is right
    >>> A = (r - r.mean()) / r.std(ddof=1)                  # (G)
    >>> ratio = np.array([1.8, 1.8, 1.0, 0.5])              # (G): how much more likely each has become
    >>> clipped = np.clip(ratio, 0.8, 1.2)
    >>> losses = -np.minimum(ratio * A, clipped * A)        # (G): their mean is the loss
    >>> print(A, losses.round(2))
    [ 1.5 -0.5 -0.5 -0.5] [-1.8  0.9  0.5  0.4]

For longer answers, and with a penalty for moving away from a reference model, the policy before training:

    loss = mean_i 1/|o_i| Σ_t (loss_token + β KL)

o_i is answer i, and |o_i| its number of tokens. KL estimates how far π has moved from the reference model
(`grpo_loss`). β is the strength of this penalty; it is often 0.

Below are three methods that change a part of this, and the functions for many questions.

Simplified: one reward for a whole answer, which judges its outcome ("outcome supervision"; "process supervision" would
reward each step of the reasoning). DAPO's dynamic sampling and its reward for length are left out.
"""

from __future__ import annotations

import math

import numpy as np

from minigrad import Tensor

from .logprobs import estimated_kl, tensor_like
from .ppo import policy_loss

# --- the methods ------------------------------------------------------------------------------------------------------
# What each method changes. In code it is a line each of `group_advantages`, `answer_weights` and CLIP.
#
#   grpo      Shao et al. 2024, "DeepSeekMath", section 4.1, equations 3 and 4
#   dr_grpo   Liu et al. 2025, "Understanding R1-Zero-like training"
#               advantage: not divided by std, because dividing gives more weight to questions that are nearly always or
#                          never answered right (their std is small)
#               weight:    not divided by |o_i|, because dividing makes each token of a wrong answer cheaper, the longer
#                          the answer is
#   dapo      Yu et al. 2025, "DAPO"
#               weight:    each token counts the same within a batch
#               clip:      a higher upper clip, 1.28 instead of 1.2, because this clip holds back rare tokens: from 0.01
#                          to 0.012 is not much, while a token at 0.9 reaches 1 before it is clipped
#   rloo      Ahmadian et al. 2024, "Back to basics"
#               advantage: an answer is compared with the mean of the *other* answers ("leave one out")
#               weight:    not divided by |o_i|
#               clip:      none; where ratio = 1, this is REINFORCE, gradient ascent on A ln π

CLIP = {  # how far the ratio may move down and up: the ε of each direction
    "grpo": (0.2, 0.2),
    "dr_grpo": (0.2, 0.2),
    "dapo": (0.2, 0.28),
    "rloo": (math.inf, math.inf),
}
METHODS = tuple(CLIP)


def check_method(method: str) -> None:
    """Raise ValueError for a method that is not one of METHODS."""
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: choose from {', '.join(METHODS)}")


# --- the formulas -----------------------------------------------------------------------------------------------------
# Shapes: Q questions with G answers each; B = Q G answers, those of a question one after the other; N tokens of them.


def group_advantages(rewards: np.ndarray, method: str = "grpo") -> np.ndarray:
    """The advantage of each answer: how much better it is than the others to its question. Rewards (Q, G) -> (Q, G).

        grpo, dapo    (r_i - mean(r)) / (std(r) + 1e-4)        std divides by G - 1; 1e-4: no division by 0
        dr_grpo       r_i - mean(r)
        rloo          r_i - the mean of the others = G / (G - 1) (r_i - mean(r))

    They are all 0 in a group whose rewards are equal. G is at least 2. Raises ValueError for another method.

    >>> group_advantages(np.array([[1.0, 0.0, 0.0, 0.0]])).round(2).tolist()
    [[1.5, -0.5, -0.5, -0.5]]
    >>> group_advantages(np.array([[1.0, 0.0, 0.0, 0.0]]), "rloo").round(2).tolist()
    [[1.0, -0.33, -0.33, -0.33]]
    """
    check_method(method)
    better = rewards - rewards.mean(axis=1, keepdims=True)  # (Q, G): the group's mean takes the value head's place
    # Equal rewards have advantages of exactly 0: rounding can make the mean of 0.1, 0.1 and 0.1 differ from 0.1.
    better = np.where(np.ptp(rewards, axis=1, keepdims=True) == 0, 0.0, better)
    if method == "dr_grpo":
        return better
    if method == "rloo":
        G = rewards.shape[1]
        return better * G / (G - 1)  # compared with the mean without the answer itself
    return better / (rewards.std(axis=1, keepdims=True, ddof=1) + 1e-4)  # 0 / 1e-4 where all answers are equally good


def answer_weights(lengths: np.ndarray, method: str = "grpo", longest: int = 1) -> np.ndarray:
    """The weight of each answer's tokens, by the lengths |o_i| of the answers: (B) -> (B).

    The loss is then mean_i Σ_t weight_i loss_it, for token t of answer i.

        grpo             1 / |o_i|               each answer counts the same: a token of a long one counts less
        dapo             1 / mean(|o|)           each token counts the same within a batch
        dr_grpo, rloo    1 / longest             each token counts the same in every batch

    longest: the number of tokens of the longest answer allowed. Only dr_grpo and rloo use it; with 1, the default,
    their weights are 1, and the losses of an answer's tokens are added up.

    >>> answer_weights(np.array([1, 3])).round(2).tolist(), answer_weights(np.array([1, 3]), "dapo").tolist()
    ([1.0, 0.33], [0.5, 0.5])
    """
    check_method(method)
    if method == "grpo":
        return 1 / lengths
    if method == "dapo":
        return np.full(len(lengths), 1 / lengths.mean())
    return np.full(len(lengths), 1 / longest)  # dr_grpo, rloo


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: np.ndarray,
    advantages: np.ndarray,
    weights: np.ndarray,
    method: str = "grpo",
    reference_logprobs: np.ndarray | None = None,
    beta: float = 0.0,
) -> Tensor:
    """The loss of each of N tokens -> (N,). Shao et al. 2024, equations 3 and 4.

        weight (-min(ratio A, clip(ratio, 1 - ε_low, 1 + ε_high) A) + β k3)

    advantages A, weights: of the answer that a token belongs to. k3: the penalty, see below.

    Two tokens have become more likely, from 0.5 to 0.9, so both ratios are 1.8. The weights are 0.5. The first token,
    of a good answer, is clipped: -0.5 min(1.8, 1.2) = -0.6. The second is not: -0.5 min(-1.8, -1.2) = 0.9.

    >>> new, old = Tensor(np.log([0.9, 0.9])), np.log([0.5, 0.5])
    >>> advantages, weights = np.array([1.0, -1.0]), np.array([0.5, 0.5])
    >>> grpo_loss(new, old, advantages, weights).data.round(2).tolist()
    [-0.6, 0.9]

    *The penalty*, if beta > 0 (it needs reference_logprobs): k3 = ρ/π - 1 - ln(ρ/π) estimates the KL divergence, with
    the token's probabilities π under the policy and ρ under the reference. Over tokens that the policy writes, the mean
    of -ln(ρ/π) is the divergence, by definition. The mean of ρ/π is Σ π ρ/π = Σ ρ = 1, so ρ/π - 1 adds 0 on average;
    but with it, no single k3 is negative, because ln x is at most x - 1. Both means are exact while π = π_old, which
    wrote the tokens. (k3 is the third of three estimators, see `estimated_kl`.) The penalty is a part of the loss,
    where PPO subtracts it from the reward.
    """
    clip, clip_high = CLIP[method]
    loss = policy_loss(logprobs, old_logprobs, advantages, clip, clip_high)  # (N,), as in PPO
    if beta:
        reference = Tensor(reference_logprobs, dtype=logprobs.dtype, device=logprobs.device)
        loss = loss + beta * estimated_kl(logprobs, reference, "k3")  # has a gradient, unlike a penalty in the reward
    return loss * tensor_like(weights, logprobs)
