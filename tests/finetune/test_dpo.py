"""DPO: its losses are the published formulas; the reference, whole runs, and settings that are refused."""

import dataclasses
import math

import numpy as np
import pytest

from finetune.data.datasets import write_jsonl
from finetune.data.pairs import encode_pairs, pair_batch
from finetune.evaluation import judge
from finetune.objectives.dpo import KINDS, dpo_batch_loss, dpo_loss, with_reference
from finetune.objectives.logprobs import sequence_logprobs
from finetune.stages import cold_start, grpo, ppo, reward, sft
from finetune.stages import dpo as page
from finetune.stages.dpo import DPOConfig, train_dpo
from gpt.training.run import Run, start
from gpt.training.training_config import TrainingConfig
from minigrad import Tensor, gradcheck
from tests.finetune.small import few_items, preferences, small_policy, watch
from tests.gpt.small import save_model

FORMULAS = {  # of the margin h, with beta 0.3 and a share of 0.2 of wrong labels; test_trl.py calls TRL itself
    "sigmoid": lambda h: np.log1p(np.exp(-0.3 * h)),
    "ipo": lambda h: (h - 1 / 0.6) ** 2,
    "hinge": lambda h: np.maximum(1 - 0.3 * h, 0),
    "robust": lambda h: (0.8 * np.log1p(np.exp(-0.3 * h)) - 0.2 * np.log1p(np.exp(0.3 * h))) / 0.6,
}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_trl(kind):
    chosen, rejected, reference_chosen, reference_rejected = logprobs = -8 * np.random.default_rng(0).random((4, 6))
    losses = dpo_loss(*map(Tensor, logprobs), 0.3, kind, 0.2)
    h = (chosen - reference_chosen) - (rejected - reference_rejected)
    np.testing.assert_allclose(losses.data, FORMULAS[kind](h), rtol=1e-12)
    gradcheck(lambda *logprobs: dpo_loss(*logprobs, 0.3, kind, 0.2), [*logprobs])


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(template):
    encoded, _ = encode_pairs(preferences(5), template, 48)
    return with_reference(small_policy(template, seed=1, dtype="float64"), encoded, batch_size=2)


def test_the_reference_does_not_depend_on_the_batches(pairs, template):
    model = small_policy(template, seed=1, dtype="float64", dropout=0.5)
    for pair in pairs:
        for reply in (pair.chosen, pair.rejected):
            targets = np.where(reply.loss_mask, reply.ids, -100)[None, 1:]
            model.eval()
            alone = sequence_logprobs(model, np.array([reply.ids[:-1]]), targets).item()
            assert reply.reference == pytest.approx(alone, rel=1e-12)
    model.train()
    again = with_reference(model, pairs, batch_size=5)  # without dropout, and the mode comes back
    assert model.training and again[4].rejected.reference == pytest.approx(pairs[4].rejected.reference, rel=1e-12)


def test_ipo_compares_tokens_and_not_sums(pairs, template):
    model = small_policy(template, seed=2, dtype="float64")
    batch = pair_batch(pairs)
    h = (sequence_logprobs(model, *batch.shifted()).data - batch.reference) / batch.loss_mask.sum(axis=1)
    loss, _, _ = dpo_batch_loss(model, batch, beta=0.5, kind="ipo")
    assert loss.item() == pytest.approx(((h[:5] - h[5:] - 1) ** 2).sum())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_begins_where_policy_and_reference_agree(template, precision, tmp_path, monkeypatch):
    base = str(save_model(tmp_path / "base", small_policy(template, 1, block_size=48), template.tokenizer))
    write_jsonl(tmp_path / "pairs.jsonl", preferences(30))
    losses = watch(page, monkeypatch, "dpo_batch_loss")
    training = TrainingConfig(max_iters=1, warmup_iters=0, precision=precision)
    start(train_dpo, DPOConfig(base, str(tmp_path / "pairs.jsonl"), str(tmp_path / "run"), 8, training=training))
    for (_, batch), (loss, n, metrics) in losses[:-1]:  # the first evaluation, in float32, and the step
        assert abs(metrics["logps/chosen"] - batch.reference[:n].sum()) < 1e-4
        assert loss.item() / n == pytest.approx(math.log(2), abs=1e-4)


def test_a_short_run_is_evaluated_on_fewer_items(template, tmp_path, monkeypatch, capsys):
    base = str(save_model(tmp_path / "base", small_policy(template, 1, block_size=192), template.tokenizer))
    few_items(monkeypatch, reward, TRAIN_PAIRS=60, TEST_PAIRS=50)
    asked, training = watch(judge, monkeypatch, "ask"), TrainingConfig(max_iters=1)
    config = DPOConfig(base, "tasks", str(tmp_path / "run"), 8, training=training)
    start(train_dpo, config)
    assert "60 pairs of replies to learn from, 40 to test on" in capsys.readouterr().out
    assert [len(questions) for (_, _, questions, *_), _ in asked] == [40] * 4  # two evaluations, and each model once
    reference, model = (arguments[0] for arguments, _ in asked[-2:])
    assert reference is not model

    long = dataclasses.replace(config, training=TrainingConfig(max_iters=30, gradient_accumulation_steps=2))
    assert Run(long).state.max_eval_items == 30 * 2 * 8 // 3 and Run(config).state.max_eval_items == 40
    for stage, count in {
        sft.SFTConfig(training=TrainingConfig(max_iters=800)): sft.TEST_ITEMS,
        DPOConfig(training=TrainingConfig(max_iters=60)): reward.TEST_PAIRS,
        reward.RewardConfig(training=TrainingConfig(max_iters=100)): 300,
        ppo.PPORunConfig(): ppo.TEST_ITEMS,
        grpo.GRPORunConfig(): cold_start.TEST_ITEMS,
    }.items():
        assert Run(stage).state.max_eval_items >= count, stage


def test_impossible_settings():
    for options, words in (
        ({"kind": "sgmoid"}, "no DPO loss 'sgmoid': choose from sigmoid, ipo, hinge, robust"),
        ({"beta": 0.0}, "beta must be > 0, .* got 0.0"),
        ({"label_smoothing": 0.5}, r"label_smoothing in \[0, 0.5\), got .* and 0.5"),
    ):
        with pytest.raises(ValueError, match=words):
            dpo_loss(*[Tensor([0.0])] * 4, **options)
