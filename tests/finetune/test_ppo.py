"""PPO: its formulas against golden values, by the formulas of TRL 0.12 (see golden/make_preference_golden.py)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from finetune.objectives.ppo import gae, ppo_loss, token_rewards, whiten
from minigrad import Tensor
from tests.finetune.small import golden


@pytest.fixture(scope="module")
def reference():
    return golden("ppo")


def test_rewards_advantages_and_returns_are_those_of_trl(reference):
    settings, arrays = reference
    mask = arrays["mask"]
    rewards = token_rewards(arrays["scores"], arrays["logprobs"] - arrays["ref_logprobs"], mask, settings["kl_coef"])
    assert_allclose(rewards, arrays["rewards"], atol=1e-15)
    advantages, returns = gae(rewards, arrays["values"], mask, settings["gamma"], settings["lam"])
    assert_allclose(advantages, arrays["advantages"], atol=1e-14)
    assert_allclose(returns, arrays["returns"], atol=1e-14)
    assert_allclose(whiten(advantages, mask), arrays["whitened"], atol=1e-12)


def test_losses_and_their_gradients_are_those_of_trl(reference):
    settings, arrays = reference
    mask = arrays["mask"]
    flat = {name: value[mask] for name, value in arrays.items() if value.ndim == 2}
    logprobs, values = (Tensor(flat[name], requires_grad=True) for name in ("new_logprobs", "vpred"))
    known = [flat[name] for name in ("logprobs", "values", "whitened", "returns")]
    loss, policy, value = ppo_loss(logprobs, values, *known, settings["clip_policy"], settings["clip_value"], 0.25)
    loss.mean().backward()
    assert policy.mean().item() == pytest.approx(arrays["pg_loss"], rel=1e-12)
    assert value.mean().item() == pytest.approx(arrays["vf_loss"], rel=1e-12)
    assert loss.mean().item() == pytest.approx(arrays["pg_loss"] + 0.25 * arrays["vf_loss"], rel=1e-12)
    assert_allclose(logprobs.grad, flat["gradient/new_logprobs"], atol=1e-15)
    assert_allclose(values.grad, 0.25 * flat["gradient/vpred"], atol=1e-15)
    assert not arrays["gradient/new_logprobs"][~mask].any()


def test_padding_changes_neither_rewards_nor_advantages():
    rng = np.random.default_rng(0)
    mask = np.arange(4)[None] < np.array([[4], [2]])
    kl, values, scores = rng.standard_normal((2, 4)), rng.standard_normal((2, 4)), np.array([1.0, 2.0])
    results = []
    for filler in (0.0, 7.0, np.nan):
        rewards = token_rewards(scores, np.where(mask, kl, filler), mask, 0.1)
        results.append([rewards, *gae(rewards, np.where(mask, values, filler), mask)])
    for other in results[1:]:
        assert_array_equal(other, results[0])
