"""Distillation: the loss and its derived gradient, and the loss function of a training step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from finetune.objectives.distillation import distillation_from, distillation_loss
from gpt.training.training_step import language_model_loss
from minigrad import Tensor, gradcheck, use_kernels
from tests.gpt.small import log_softmax, small_gpt


def logits(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal((2, *shape))


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@given(st.floats(0.3, 10), st.booleans(), st.integers(0, 100))
def test_loss_and_gradient_are_the_derived_ones(kernels, tau, reverse, seed):
    s, t = 3 * logits(2, 3, 5, seed=seed)
    student, teacher = Tensor(s, requires_grad=True), Tensor(t)
    with use_kernels(kernels):
        loss = distillation_loss(student, teacher, tau, reverse)
        loss.sum().backward()
    for place in np.ndindex(2, 3):
        log_p, log_q = log_softmax(t[place] / tau), log_softmax(s[place] / tau)
        p = np.exp(log_p)
        q = np.exp(log_q)
        r = log_q - log_p
        assert loss.data[place] == pytest.approx(tau**2 * (q @ r if reverse else p @ -r), abs=1e-9)
        expected = tau * (q * (r - q @ r) if reverse else q - p)
        assert_allclose(student.grad[place], expected, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_gradients(reverse, tau):
    s, t = logits(2, 4)
    gradcheck(lambda s, t: distillation_loss(s, t, tau, reverse), [s, t])


def batch():
    ids = np.random.default_rng(0).integers(0, 37, (3, 8))
    return ids, np.where(np.arange(8) < 3, -100, np.roll(ids, -1, axis=1))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_of_a_step_mixes_teacher_and_text(weight, kernels):
    student = small_gpt(1, "float64")
    teacher = small_gpt(2, "float64", n_embd=16)
    ids, targets = batch()
    with use_kernels(kernels):
        loss, count, metrics = distillation_from(teacher, 2.0, text_weight=weight)(student, (ids, targets))
        text, counted, _ = language_model_loss(student, (ids, targets))
        kl = distillation_loss(student(ids), teacher(ids), 2.0).data[targets != -100].sum()
    assert count == counted == 15
    assert metrics == {"kl": pytest.approx(kl), "text": pytest.approx(text.item())}
    assert loss.item() == pytest.approx((1 - weight) * kl + weight * text.item())


def test_the_teacher_has_neither_gradients_nor_dropout():
    student, teacher = small_gpt(1), small_gpt(1, dropout=0.5)
    teacher.train()
    loss, count, _ = distillation_from(teacher)(student.eval(), batch())
    (loss / count).backward()
    assert loss.item() == pytest.approx(0, abs=1e-5) and teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_another_vocabulary_and_no_temperature_are_refused():
    with pytest.raises(ValueError, match=r"logits of \(15, 37\) and \(15, 38\): .* need the same vocabulary"):
        distillation_from(small_gpt(vocab_size=38))(small_gpt(), batch())
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        distillation_from(small_gpt(), temperature=0)(small_gpt(), batch())
