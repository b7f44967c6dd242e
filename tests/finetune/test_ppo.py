"""PPO: its formulas against golden values, by the formulas of TRL 0.12 (see golden/make_preference_golden.py)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from finetune.objectives.ppo import gae, ppo_loss, token_rewards, whiten
from minigrad import Tensor
from tests.finetune.small import GOLDEN
from tests.gpt.small import golden_arrays


@pytest.fixture(scope="module")
def reference():
    return golden_arrays(GOLDEN / "preferences")


def test_rewards_advantages_and_returns_are_those_of_trl(reference):
    mask = reference["mask"]
    kl = np.where(mask, reference["logprobs"] - reference["ref_logprobs"], np.nan)  # what padding holds changes nothing
    values = np.where(mask, reference["values"], np.nan)
    rewards = token_rewards(reference["scores"], kl, mask, reference["kl_coef"])
    assert_allclose(rewards, reference["rewards"], atol=1e-15)
    advantages, returns = gae(rewards, values, mask, reference["gamma"], reference["lam"])
    assert_allclose(advantages, reference["advantages"], atol=1e-14)
    assert_allclose(returns, reference["returns"], atol=1e-14)
    assert_allclose(whiten(advantages, mask), reference["whitened"], atol=1e-12)


def test_losses_and_their_gradients_are_those_of_trl(reference):
    mask = reference["mask"]
    flat = {name: value[mask] for name, value in reference.items() if value.ndim == 2}
    logprobs, values = (Tensor(flat[name], requires_grad=True) for name in ("new_logprobs", "vpred"))
    known = [flat[name] for name in ("logprobs", "values", "whitened", "returns")]
    loss, policy, value = ppo_loss(logprobs, values, *known, reference["clip_policy"], reference["clip_value"], 0.25)
    loss.mean().backward()
    assert policy.mean().item() == pytest.approx(reference["pg_loss"], rel=1e-12)
    assert value.mean().item() == pytest.approx(reference["vf_loss"], rel=1e-12)
    assert loss.mean().item() == pytest.approx(reference["pg_loss"] + 0.25 * reference["vf_loss"], rel=1e-12)
    assert_allclose(logprobs.grad, flat["gradient/new_logprobs"], atol=1e-15)
    assert_allclose(values.grad, 0.25 * flat["gradient/vpred"], atol=1e-15)
