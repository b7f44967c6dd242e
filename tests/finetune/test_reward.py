"""The reward model: Bradley-Terry."""

import numpy as np
import pytest

from finetune.objectives.reward import reward_loss
from minigrad import Tensor
from tests.finetune.small import golden


def test_loss_and_gradients_are_those_of_trl():
    _, arrays = golden("reward")
    chosen, rejected = (Tensor(arrays[name], requires_grad=True) for name in ("chosen", "rejected"))
    loss = reward_loss(chosen, rejected).mean()
    loss.backward()
    assert loss.item() == pytest.approx(arrays["loss"], rel=1e-13)
    np.testing.assert_allclose(chosen.grad, arrays["gradient/chosen"], rtol=1e-12)
    np.testing.assert_allclose(rejected.grad, arrays["gradient/rejected"], rtol=1e-12)


def test_only_differences_matter():
    scores = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    shifted = [Tensor(s + 100) for s in scores]
    np.testing.assert_allclose(reward_loss(*shifted).data, reward_loss(*map(Tensor, scores)).data, rtol=1e-12)
    assert reward_loss(Tensor([-1000.0]), Tensor([0.0])).item() == 1000  # no overflow
