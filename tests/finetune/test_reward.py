"""The reward model: the scores that a run shows. Its loss is compared with TRL's in test_trl.py."""

import numpy as np
import pytest

from finetune.data.datasets import write_jsonl
from finetune.objectives.model_with_head import HEAD_FORMAT
from finetune.stages import reward as page
from finetune.stages.reward import RewardConfig, train_reward_model
from gpt.training.checkpoint import load_checkpoint
from gpt.training.run import start
from gpt.training.training_config import TrainingConfig
from tests.finetune.small import preferences, small_policy, watch
from tests.gpt.small import save_model


@pytest.mark.usefixtures("no_pictures")
def test_scores_are_measured_without_dropout(template, tmp_path, monkeypatch):
    data = tmp_path / "pairs.jsonl"
    folder = str(tmp_path / "run")
    base = str(save_model(tmp_path / "base", small_policy(template, dropout=0.5), template.tokenizer))
    write_jsonl(data, preferences(20))
    measured = watch(page, monkeypatch, "_scores")
    start(train_reward_model, RewardConfig(base, str(data), folder, 4, training=TrainingConfig(max_iters=2)))
    (_, before), ((model, pairs), after) = measured
    assert model.training and before != after
    trained = load_checkpoint(folder, format=HEAD_FORMAT).model.eval()
    np.testing.assert_allclose(page._scores(trained, pairs), after, rtol=1e-5)
