"""KL divergence: the exact one is a divergence, and the estimators estimate it."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad.functional as F
from finetune.objectives.logprobs import KL_ESTIMATORS, estimated_kl, exact_kl
from minigrad import Tensor, gradcheck
from tests.gpt.small import log_softmax

LOGITS = st.lists(st.floats(-4, 4), min_size=4, max_size=4)


@given(LOGITS, LOGITS)
def test_the_exact_kl_is_a_divergence(p, q):
    p, q = np.array(p), np.array(q)
    kl = exact_kl(Tensor(p), Tensor(q)).item()
    assert kl == pytest.approx(np.exp(log_softmax(p)) @ (log_softmax(p) - log_softmax(q)), abs=1e-12)
    assert kl > -1e-12
    assert exact_kl(Tensor(p), Tensor(p + 3)).item() == pytest.approx(0, abs=1e-12)


@given(LOGITS, LOGITS)
def test_k1_and_k3_are_unbiased(p, q):
    """The mean over all outcomes, each weighted by its probability under the policy, is the exact KL."""
    log_p, log_q = log_softmax(np.array(p)), log_softmax(np.array(q))
    exact = exact_kl(Tensor(log_p), Tensor(log_q)).item()
    for kind in ("k1", "k3"):
        assert np.exp(log_p) @ estimated_kl(Tensor(log_p), Tensor(log_q), kind).data == pytest.approx(exact, abs=1e-9)


def test_the_expected_gradient_of_k2_is_the_kl_s_and_of_k1_zero():
    """Differentiating a sample of k1 alone forgets that the samples move, too: what PPO's reward makes up for."""
    p, q = Tensor([0.3, -0.2, 1.0], dtype="float64", requires_grad=True), Tensor([0.0, 0.4, 0.1], dtype="float64")
    exact_kl(p, q).backward()
    exact = p.grad
    p.grad = None
    for kind, expected in (("k2", exact), ("k1", np.zeros(3))):
        log_p = F.log_softmax(p, -1)
        (estimated_kl(log_p, F.log_softmax(q, -1), kind) * F.exp(log_p).detach()).sum().backward()
        np.testing.assert_allclose(p.grad, expected, atol=1e-12)
        p.grad = None


@pytest.mark.parametrize("kl", [exact_kl, *(partial(estimated_kl, kind=kind) for kind in KL_ESTIMATORS)])
def test_gradients(kl):
    rng = np.random.default_rng(0)
    assert gradcheck(kl, [rng.standard_normal((2, 4)), rng.standard_normal((2, 4))]).max_error < 1e-6


def test_another_estimator_is_an_error():
    with pytest.raises(ValueError, match="no KL estimator 'k4': choose from k1, k2, k3"):
        estimated_kl(Tensor([0.0]), Tensor([0.0]), "k4")
