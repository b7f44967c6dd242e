"""Group relative policy optimization (GRPO): learn from your own answers, where code can check them.

    A_i  = (r_i - mean(r)) / std(r)         the advantage of answer i, of G answers to one question
    loss = mean_i 1/|o_i| Σ_t (β KL - min(ratio A_i, clip(ratio, 1 - ε, 1 + ε) A_i))    ratio = π(token) / π_old(token)

o_i is answer i and |o_i| its number of tokens; t runs over them. π is the policy, the model that is trained, and π_old
the policy that wrote the answers. KL estimates how far π is from a reference model. The min, which clips, is PPO's
(ppo.py).

PPO trains a value head that estimates how good a reply to this question is going to be. GRPO measures it: the policy
answers the same question G times, and the answers' mean reward is what was to be expected. An answer that is better
than the others of its group becomes more likely, with all its tokens, and a worse one less likely. No value head is
needed; and where code checks the answers, no reward model either. If all answers of a group are right, or all are
wrong, there is nothing to learn from them.

The methods below are small changes of this one, in a line each of `group_advantages`, `answer_weights` and CLIP:

    grpo      Shao et al. 2024, "DeepSeekMath", section 4.1, equations 3 and 4
    dr_grpo   Liu et al. 2025, "Understanding R1-Zero-like training": does not divide by std, because dividing gives
              more weight to questions that are nearly always or never answered right (their std is small); nor by
              |o_i|, because dividing makes each token of a wrong answer cheaper, the longer the answer is
    dapo      Yu et al. 2025, "DAPO": a higher upper clip, with which rare tokens can grow; each token counts the same
    rloo      Ahmadian et al. 2024, "Back to basics": REINFORCE, not clipped, whose baseline leaves the answer out

Simplified: one reward for a whole answer, which judges its outcome ("outcome supervision"; "process supervision" would
reward each step of the reasoning). DAPO's dynamic sampling and its reward for length are left out.

Shapes: Q questions with G answers each; B = Q G answers, those of a question one after the other; N tokens of them.
"""

from __future__ import annotations

import math

import numpy as np

from minigrad import Tensor

from .logprobs import estimated_kl
from .ppo import policy_loss

CLIP = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "rloo": (math.inf, math.inf)}  # ε low, high
METHODS = tuple(CLIP)


def group_advantages(rewards: np.ndarray, method: str = "grpo") -> np.ndarray:
    """The advantage of each answer: how much better it is than the others to its question. Rewards (Q, G) -> (Q, G).

        grpo, dapo    (r_i - mean(r)) / std(r)
        dr_grpo       r_i - mean(r)
        rloo          r_i - the mean of the others = G / (G - 1) (r_i - mean(r))

    All 0 in a group whose rewards are equal. Raises ValueError for another method and for groups of 1.

    >>> group_advantages(np.array([[1.0, 0.0, 0.0, 0.0]])).round(2).tolist()
    [[1.73, -0.58, -0.58, -0.58]]
    >>> group_advantages(np.array([[1.0, 0.0, 0.0, 0.0]]), "rloo").round(2).tolist()
    [[1.0, -0.33, -0.33, -0.33]]
    """
    check_method(method)
    G = rewards.shape[1]
    if G < 2:
        raise ValueError(f"a group needs at least 2 answers to compare, got {G}")
    better = rewards - rewards.mean(axis=1, keepdims=True)  # (Q, G): the group's mean takes the value head's place
    better = np.where(np.ptp(rewards, axis=1, keepdims=True) == 0, 0.0, better)  # a mean of equal numbers is rounded
    if method == "dr_grpo":
        return better
    if method == "rloo":
        return better * G / (G - 1)  # the mean without the answer itself
    return better / (rewards.std(axis=1, keepdims=True) + 1e-4)  # 0 / 1e-4 where all answers are equally good


def answer_weights(lengths: np.ndarray, method: str = "grpo", longest: int = 1) -> np.ndarray:
    """The weight of each token's loss, by the length of its answer: lengths |o_i| (B) -> (B). The loss is then
    mean_i Σ_t weight_i loss_it.

        grpo             1 / |o_i|               each answer counts the same: a token of a long one counts less
        dapo             1 / mean(|o|)           each token counts the same
        dr_grpo, rloo    1 / longest             the same, with a constant: the length of the longest answer allowed

    >>> answer_weights(np.array([1, 3])).round(2).tolist(), answer_weights(np.array([1, 3]), "dapo").tolist()
    ([1.0, 0.33], [0.5, 0.5])
    """
    check_method(method)
    if method == "grpo":
        return 1 / lengths
    return np.full(len(lengths), 1 / lengths.mean() if method == "dapo" else 1 / longest)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: np.ndarray,
    advantages: np.ndarray,
    weights: np.ndarray,
    method: str = "grpo",
    reference_logprobs: np.ndarray | None = None,
    beta: float = 0.0,
) -> Tensor:
    """weight (β k3 - min(ratio A, clip(ratio, 1 - ε_low, 1 + ε_high) A)) of N tokens -> (N,).

    advantages, weights: of each token's answer. k3 = ρ/π - 1 - ln(ρ/π), with the token's probabilities π and ρ under
    policy and reference, estimates the KL divergence (see `estimated_kl`). It stays in the loss, where PPO subtracts it
    from the reward. beta = 0 needs no reference. Shao et al. 2024, equations 3 and 4.

    >>> old, better = np.log([0.5, 0.5]), np.array([1.0, -1.0])
    >>> grpo_loss(Tensor(np.log([0.9, 0.9])), old, better, np.array([0.5, 0.5])).data.round(2).tolist()
    [-0.6, 0.9]
    """
    check_method(method)
    loss = policy_loss(logprobs, old_logprobs, advantages, *CLIP[method])  # (N,), as in PPO
    if beta:
        reference = Tensor(reference_logprobs, dtype=logprobs.dtype, device=logprobs.device)
        loss = loss + beta * estimated_kl(logprobs, reference, "k3")  # has a gradient, unlike a penalty in the reward
    return loss * Tensor(weights, dtype=logprobs.dtype, device=logprobs.device)


def check_method(method: str) -> None:
    """Raise ValueError for a method that is not one of METHODS."""
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: choose from {', '.join(METHODS)}")
