"""The reward model: Bradley-Terry, and the scores that a run shows."""

import numpy as np
import pytest

from finetune.data.datasets import write_jsonl
from finetune.objectives.model_with_head import HEAD_FORMAT
from finetune.objectives.reward import reward_loss
from finetune.stages import reward as page
from finetune.stages.reward import RewardConfig, train_reward_model
from gpt.training.checkpoint import load_checkpoint
from gpt.training.run import start
from gpt.training.training_config import TrainingConfig
from minigrad import Tensor
from tests.finetune.small import golden, preferences, small_policy, watch
from tests.gpt.small import save_model


def test_loss_and_gradients_are_those_of_trl():
    _, arrays = golden("reward")
    chosen, rejected = (Tensor(arrays[name], requires_grad=True) for name in ("chosen", "rejected"))
    loss = reward_loss(chosen, rejected).mean()
    loss.backward()
    assert loss.item() == pytest.approx(arrays["loss"], rel=1e-13)
    np.testing.assert_allclose(chosen.grad, arrays["gradient/chosen"], rtol=1e-12)
    np.testing.assert_allclose(rejected.grad, arrays["gradient/rejected"], rtol=1e-12)


@pytest.mark.usefixtures("no_pictures")
def test_scores_are_measured_without_dropout(template, tmp_path, monkeypatch):
    data, folder = tmp_path / "pairs.jsonl", str(tmp_path / "run")
    base = str(save_model(tmp_path / "base", small_policy(template, dropout=0.5), template.tokenizer))
    write_jsonl(data, preferences(20))
    measured = watch(page, monkeypatch, "_scores")
    start(train_reward_model, RewardConfig(base, str(data), folder, 4, training=TrainingConfig(max_iters=2)))
    (_, before), ((model, pairs), after) = measured
    assert model.training and before != after
    trained = load_checkpoint(folder, format=HEAD_FORMAT).model.eval()
    np.testing.assert_allclose(page._scores(trained, pairs), after, rtol=1e-5)
