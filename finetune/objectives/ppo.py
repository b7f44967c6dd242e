"""Proximal policy optimization (PPO): one score for a whole reply has to say which of its tokens were good.

The idea: estimate before each token which rewards are still to come. A token after which the estimate rises was better
than expected, and becomes more likely. But not at once: the policy stays close to the one that wrote the replies. The
formulas, in the order in which they are used (the loop is in finetune/stages/ppo.py):

    r_t = -kl_coef (ln π(token_t) - ln ρ(token_t))           rewards; the last one also gets the reply's score
    δ_t = r_t + γ V_{t+1} - V_t,   A_t = δ_t + γ λ A_{t+1}   advantages: how much better token t turned out
    loss = -min(ratio A, clip(ratio, 1 - ε, 1 + ε) A)        ratio = π(token) / π_old(token)

    π        the policy, a language model that is trained
    π_old    the policy before the update, which wrote the replies
    ρ        the reference model, from which the policy should not move far away
    V_t      the value before token t is written: an estimate of the rewards to come, r_t + γ r_{t+1} + γ² r_{t+2} + ...
             It is computed by the value head, a linear layer from the policy's hidden states to one number.
    γ        gamma, the discount: makes later rewards count less; here it is 1, so all count the same
    λ        lam, 0.95: how far A_t relies on the rewards that came (1), and not on V (0) (see `gae`)
    ε        0.2: how far the ratio may move in one update (see `policy_loss`)

*For one reply* of two tokens that has the score 1, with λ = 1. V was 0.5 before the first token and 0.8 before the
second. So the first token has raised by 0.3 what is to be expected, and the second by 0.2. With λ = 1 a token is also
credited with what comes after it, so A is the rewards to come less V, 1 - 0.5 and 1 - 0.8:

    >>> values = np.array([0.5, 0.8, 0.0])          # V = 0 after the end
    >>> rewards = np.array([0.0, 1.0])
    >>> delta = rewards + values[1:] - values[:-1]
    >>> A = np.array([delta[0] + delta[1], delta[1]])
    >>> print(delta.round(2), A.round(2))
    [0.3 0.2] [0.5 0.2]

    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation"
    Schulman et al. 2017, "Proximal policy optimization algorithms"
    Ziegler et al. 2019, "Fine-tuning language models from human preferences"

Shapes: B replies, the longest of L tokens; `mask` (B, L) is True where a reply has a token. N is the number of all
replies' tokens, one after the other: x (B, L) becomes (N) as x[mask].
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from minigrad.backend import module_of, to_device

from .logprobs import entropy, tensor_like


def token_rewards(scores: np.ndarray, kl: np.ndarray, mask: np.ndarray, kl_coef: float) -> np.ndarray:
    """The reward of each token: r_t = -kl_coef kl_t, plus the reply's score at its last token -> (B, L).

    scores (B): of whole replies, from the reward model. kl (B, L): ln π(token) - ln ρ(token), the log-ratios of single
    tokens, which can be negative. kl_coef: strength of the penalty for moving away from the reference model ρ. Ziegler
    et al. 2019, equation 2.

    >>> token_rewards(np.array([1.0]), np.array([[0.5, 0.0, 9.0]]), np.array([[True, True, False]]), 0.2).tolist()
    [[-0.1, 1.0, 0.0]]
    """
    rewards = np.where(mask, -kl_coef * kl, 0.0)  # (B, L): each token pays for moving away from the reference
    # the reward model judges the whole reply, which is complete at its last token
    rewards[np.arange(len(scores)), mask.sum(axis=1) - 1] += scores
    return rewards


def gae(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float = 1.0, lam: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Generalized advantage estimation: advantages and returns, (B, L) each, 0 where there is no token.

        δ_t = r_t + γ V_{t+1} - V_t         how much the token has raised what is to be expected; V = 0 after the end
        A_t = δ_t + γ λ A_{t+1}             the advantage; a smaller λ means less noise, but more error from V
        R_t = A_t + V_t                     the return: the target for V_t

    With γ = 1 and λ = 1, R_t is the sum of the rewards from t on; with λ = 0 it is r_t + γ V_{t+1}, which trusts V.
    Schulman et al. 2016, equation 16.

    Two tokens, λ = 0.5: δ = 0.3, 0.2; A = 0.3 + 0.5 · 0.2, 0.2.

    >>> advantages, returns = gae(np.array([[0.0, 1.0]]), np.array([[0.5, 0.8]]), np.ones((1, 2), bool), lam=0.5)
    >>> advantages.round(2).tolist(), returns.round(2).tolist()
    ([[0.4, 0.2]], [[0.9, 1.0]])
    """
    values = np.where(mask, values, 0.0)
    advantages = np.zeros_like(values)
    advantage = np.zeros(len(values))  # (B): A_{t+1}, which is 0 after the last token
    # From the last token to the first, because A_t needs A_{t+1}.
    for t in reversed(range(values.shape[1])):
        next_values = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        # A_t from A_{t+1}. It is 0 after a reply's last token.
        advantage = np.where(mask[:, t], delta + gamma * lam * advantage, 0.0)
        advantages[:, t] = advantage
    return advantages, advantages + values


def whiten(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Normalize over the tokens to mean 0 and variance 1: (x - mean) / std, (B, L) -> (B, L).

    Then the size of a step does not depend on the scale of the rewards (Ziegler et al. 2019, section 2.1; as in their
    code, the variance divides by N, not by N - 1).

    >>> whiten(np.array([[1.0, 3.0, 7.0]]), np.array([[True, True, False]])).round(3).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    tokens = x[mask]  # (N): without the padding
    return np.where(mask, (x - tokens.mean()) / np.sqrt(tokens.var() + 1e-8), 0.0)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: np.ndarray,
    advantages: np.ndarray,
    clip: float = 0.2,
    clip_high: float | None = None,
) -> Tensor:
    """The clipped loss of N tokens, -min(ratio A, clip(ratio, 1 - ε, 1 + ε) A), ratio = π(token) / π_old(token).

    Once a token is 1 + ε times as likely as when it was drawn (1 - ε times if A < 0), a further change gains nothing
    and the gradient is 0. Schulman et al. 2017, equation 7. clip_high: the upper ε, if it differs (see grpo.py).

    Three tokens with A = 1. The third ratio, 1.5, is clipped to 1.2:

    >>> import math
    >>> logprobs = Tensor([math.log(ratio) for ratio in (0.5, 1.1, 1.5)], dtype="float64")
    >>> policy_loss(logprobs, np.zeros(3), np.ones(3)).data.round(2).tolist()
    [-0.5, -1.1, -1.2]
    """
    # π / π_old as e^(ln π - ln π_old); it is 1 in the first step of an update, and its gradient is that of ln π
    ratio = F.exp(logprobs - tensor_like(old_logprobs, logprobs))
    advantage = tensor_like(advantages, logprobs)
    if clip_high is None:  # PPO: the same ε in both directions
        clip_high = clip
    clipped = F.clip(ratio, 1 - clip, 1 + clip_high)
    # The smaller of the two counts. It is the clipped one, which has no gradient, where the ratio has moved too far in
    # the direction of A: up if A > 0, down if A < 0. Where it has moved against A, it is the other: that is corrected.
    return -F.minimum(ratio * advantage, clipped * advantage)


def value_loss(values: Tensor, old_values: np.ndarray, returns: np.ndarray, clip: float = 0.2) -> Tensor:
    """½ max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²) of N tokens: V learns R, but stays close to V_old.

    V_old = 0, R = 1. V = 0.1 is inside the clip: ½ 0.9². V = 0.5 is clipped to 0.2: ½ 0.8². V = 2 is beyond R:
    ½ (2 - 1)² counts, as clipping would give the smaller ½ 0.8². The clip is not in the paper of 2017, but in its
    authors' code (OpenAI baselines) and in that of Ziegler et al.

    >>> value_loss(Tensor([0.1, 0.5, 2.0], dtype="float64"), np.zeros(3), np.ones(3)).data.round(3).tolist()
    [0.405, 0.32, 0.5]
    """
    old, target = tensor_like(old_values, values), tensor_like(returns, values)
    clipped = old + F.clip(values - old, -clip, clip)
    # The larger loss counts: where a value has moved too far towards its target, `clipped` wins, and has no gradient.
    return F.maximum((values - target) ** 2, (clipped - target) ** 2) * 0.5


def ppo_loss(
    logprobs: Tensor,
    values: Tensor,
    old_logprobs: np.ndarray,
    old_values: np.ndarray,
    advantages: np.ndarray,
    returns: np.ndarray,
    cliprange: float = 0.2,
    cliprange_value: float = 0.2,
    vf_coef: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """policy_loss + vf_coef * value_loss, and the two losses, of N tokens, (N) each.

    Schulman et al. 2017, equation 9, without the entropy bonus: the KL penalty in the rewards already keeps the policy
    from becoming too certain.
    """
    policy = policy_loss(logprobs, old_logprobs, advantages, cliprange)
    value = value_loss(values, old_values, returns, cliprange_value)
    return policy + vf_coef * value, policy, value


def update_metrics(
    logits: Tensor, logprobs: Tensor, old_logprobs: np.ndarray, advantages: np.ndarray, clip: float, clip_high: float
) -> dict[str, Any]:
    """Measure how far the policy has moved from the one that drew the N tokens: sums of metrics, named as in TRL.

    logits (N, V); the others are (N).
    """
    xp = module_of(logprobs.data)
    log_ratio = logprobs.data - to_device(old_logprobs, logprobs.device)
    ratio = xp.exp(log_ratio)
    advantage = to_device(advantages, logprobs.device)
    # where the clipped loss has no gradient; an advantage of 0 is never clipped
    clipped = xp.where(advantage > 0, ratio > 1 + clip_high, (advantage < 0) & (ratio < 1 - clip))
    return {
        "policy/approxkl_avg": 0.5 * (log_ratio * log_ratio).sum(),  # the estimate k2, see `estimated_kl`
        "policy/clipfrac_avg": clipped.sum(),
        "policy/entropy_avg": entropy(logits.detach()).data.sum(),
        "val/ratio": ratio.sum(),
    }
