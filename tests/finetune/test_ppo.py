"""PPO's formulas beside those of TRL 0.12 (trl/trainer/ppo_trainer.py; newer versions lack PPO), token by token.

Whitening divides by n, as in OpenAI's lm-human-preferences (TRL divides by n - 1).
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from finetune.objectives.ppo import gae, ppo_loss, token_rewards, whiten
from minigrad import Tensor, gradcheck

GAMMA, LAM, KL_COEF = 0.98, 0.9, 0.07
CLIP_POLICY, CLIP_VALUE, VALUE_COEF = 0.2, 0.15, 0.25


def test_rewards_advantages_and_returns_are_those_of_trl():
    rng = np.random.default_rng(0)
    lengths = np.array([5, 3, 1, 4])
    mask = np.arange(5) < lengths[:, None]
    kl, values = np.where(mask, rng.standard_normal((2, 4, 5)), np.nan)  # what padding holds changes nothing
    scores = rng.standard_normal(4)
    rewards = token_rewards(scores, kl, mask, KL_COEF)
    advantages, returns = gae(rewards, values, mask, GAMMA, LAM)
    for row, length in enumerate(lengths):
        next_value = next_advantage = 0.0
        for t in reversed(range(length)):
            reward = -KL_COEF * kl[row, t] + (scores[row] if t == length - 1 else 0)
            delta = reward + GAMMA * next_value - values[row, t]
            next_value, next_advantage = values[row, t], delta + GAMMA * LAM * next_advantage
            found = rewards[row, t], advantages[row, t], returns[row, t]
            assert found == pytest.approx((reward, next_advantage, next_advantage + next_value), abs=1e-14)
    assert not any(array[~mask].any() for array in (rewards, advantages, returns))
    tokens = advantages[mask]
    whitened = whiten(advantages, mask)
    assert_allclose(whitened[mask], (tokens - tokens.mean()) / np.sqrt(tokens.var() + 1e-8), atol=1e-12)
    assert not whitened[~mask].any()


def test_losses_and_their_gradients_are_those_of_trl():
    rng = np.random.default_rng(0)
    old_logprobs, old_values, advantages, returns = known = rng.standard_normal((4, 30))
    logprobs, values = known[:2] + 0.4 * rng.standard_normal((2, 30))
    ratio = np.exp(logprobs - old_logprobs)
    clipped = np.clip(values, old_values - CLIP_VALUE, old_values + CLIP_VALUE)
    policy = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 1 - CLIP_POLICY, 1 + CLIP_POLICY))
    value = 0.5 * np.maximum((values - returns) ** 2, (clipped - returns) ** 2)

    def losses(logprobs, values):
        return ppo_loss(logprobs, values, *known, CLIP_POLICY, CLIP_VALUE, VALUE_COEF)

    gradcheck(losses, [logprobs, values])
    for found, expected in zip(losses(Tensor(logprobs), Tensor(values)), (policy + VALUE_COEF * value, policy, value)):
        assert_allclose(found.data, expected, rtol=1e-12)
