"""GRPO: its formulas against their derivation, and a policy small enough to sum over all of its answers.

test_trl.py compares them with TRL.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from finetune.objectives.grpo import CLIP, METHODS, answer_weights, group_advantages, grpo_loss
from minigrad import Tensor


def tokens(seed, n=40):
    """New, old and reference log-probabilities, advantages and weights of n tokens, none of them at the clip's edge."""
    rng = np.random.default_rng(seed)
    old = rng.uniform(-3, -0.5, n)
    log_ratio = rng.choice([-0.6, -0.3, -0.1, 0.1, 0.215, 0.3, 0.6], n) + rng.uniform(-0.01, 0.01, n)
    return old + log_ratio, old, old + rng.uniform(-1, 1, n), rng.standard_normal(n), rng.uniform(0.1, 1, n)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 1000))
def test_the_gradient_is_the_one_derived_by_hand(method, beta, seed):
    """d loss / d logprob = weight (-ratio A, or 0 where it is clipped, + beta (1 - exp(ln rho - ln pi)))."""
    new, old, reference, advantages, weights = tokens(seed)
    low, high = CLIP[method]
    ratio = np.exp(new - old)
    clipped = np.where(advantages > 0, ratio > 1 + high, ratio < 1 - low)
    expected = weights * (np.where(clipped, 0.0, -ratio * advantages) + beta * (1 - np.exp(reference - new)))

    logprobs = Tensor(new, requires_grad=True)
    grpo_loss(logprobs, old, advantages, weights, method, reference, beta).sum().backward()
    assert_allclose(logprobs.grad, expected, atol=1e-12)


@pytest.mark.parametrize("method, scale", [("rloo", 1.0), ("dr_grpo", 2 / 3)])
def test_on_average_it_ascends_the_expected_reward(method, scale):
    """Summed over all groups of 3 answers: the gradient of the expected reward; without the answer's own reward in the
    baseline exactly, with it (G - 1) / G of it."""
    logits = np.array([0.3, -0.5, 1.1])
    rewards = np.array([1.0, 0.0, 0.5])
    G = 3
    probs = np.exp(logits) / np.exp(logits).sum()
    exact = probs * (rewards - probs @ rewards)
    found = np.zeros(3)
    for group in itertools.product(range(3), repeat=G):
        drawn, x = np.array(group), Tensor(logits, requires_grad=True)
        logprobs = F.log_softmax(x, -1)[drawn]
        advantages = group_advantages(rewards[drawn][None], method)[0]
        (grpo_loss(logprobs, logprobs.data, advantages, np.ones(G), method).sum() / G).backward()
        found -= probs[drawn].prod() * x.grad
    assert_allclose(found, scale * exact, atol=1e-12)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_an_advantage_compares_an_answer_with_its_own_group_only(seed, G):
    rewards = np.random.default_rng(seed).integers(0, 2, (4, G)).astype(float)
    for method in METHODS:
        advantages = group_advantages(rewards, method)
        assert_allclose(advantages.sum(axis=1), 0, atol=1e-9)
        for row, alone in zip(advantages, rewards):
            assert_array_equal(row, group_advantages(alone[None], method)[0])
            assert row.any() == (len(set(alone)) > 1)  # all right or all wrong: nothing to learn from
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (G - 1)
    assert_allclose(group_advantages(rewards, "rloo"), rewards - others, atol=1e-12)


def test_only_dapo_lets_a_rare_token_grow_further():
    slopes = {}
    for method in METHODS:
        logprobs = Tensor([np.log(1.25)], dtype="float64", requires_grad=True)
        grpo_loss(logprobs, np.zeros(1), np.ones(1), np.ones(1), method).sum().backward()
        slopes[method] = float(logprobs.grad[0])
    assert slopes == {"grpo": 0, "dr_grpo": 0, "dapo": pytest.approx(-1.25), "rloo": pytest.approx(-1.25)}


@pytest.mark.parametrize("method", METHODS)
def test_equal_rewards_teach_nothing(method):
    assert (group_advantages(np.full((1, 3), 0.1), method) == 0).all()  # their mean is not exactly 0.1


@pytest.mark.parametrize("call", [group_advantages, answer_weights])
def test_an_unknown_method_is_refused(call):
    with pytest.raises(ValueError, match="there is no method 'ppo': choose from grpo, dr_grpo, dapo, rloo"):
        call(np.ones((2, 2)), "ppo")
