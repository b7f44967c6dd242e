"""Losses, gradients, advantages and metrics are those of TRL's own trainers, on the batches that they make."""

import copy

import numpy as np
import pytest

from finetune.data.chat_template import IM_START
from finetune.data.pairs import PairBatch
from finetune.objectives.dpo import KINDS, dpo_batch_loss
from finetune.objectives.grpo import METHODS, group_advantages
from finetune.objectives.logprobs import sequence_logprobs
from finetune.objectives.model_with_head import ModelWithHead, save_classifier
from finetune.objectives.reward import reward_batch_loss
from finetune.objectives.rollout import Replies, prompts_with_replies
from finetune.objectives.sft import sft_loss
from finetune.stages.grpo import GRPOConfig, grpo_batch_loss, grpo_batches
from tests.finetune.small import preferences, small_policy

pytestmark = [pytest.mark.slow, pytest.mark.oracle("trl")]
PAIRS = [{"prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in preferences()]


@pytest.fixture
def base(template, tmp_path):
    model = small_policy(template, 1, "float64")
    model.save_pretrained(tmp_path, template.tokenizer)
    return model


def trained_by(stage, folder, *more, model="CausalLM", rows=PAIRS, **settings):
    """A trainer of TRL for the model in a folder, in float64, and its first batch."""
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer, models

    theirs = getattr(models.auto, f"AutoModelFor{model}").from_pretrained(folder).double()
    settings |= {"per_device_train_batch_size": len(rows), "report_to": "none", "use_cpu": True, "bf16": False}
    options = {
        "args": getattr(trl, f"{stage}Config")(f"{folder}/trl", **settings),
        "train_dataset": Dataset.from_list(rows),
    }
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token=IM_START)  # without one, TRL takes the end of text
    trainer = getattr(trl, f"{stage}Trainer")(theirs, *more, processing_class=tokenizer, **options)
    return trainer, next(iter(trainer.get_train_dataloader()))


def moved(base, trainer):
    """A policy that has moved away from the reference, as TRL's now has."""
    policy = copy.deepcopy(base)
    for parameter in [*policy.parameters(), *trainer.model.parameters()]:
        parameter.data *= 1.5
    return policy


def assert_same_step(trainer, batch, model, loss):
    """TRL computes log-probabilities in float32."""
    theirs = trainer.compute_loss(trainer.model.eval(), batch)
    theirs.backward()
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
    gradient = trainer.model.transformer.wte.weight.grad.numpy()
    np.testing.assert_allclose(model.embedding.weight.grad, gradient, atol=1e-5 * abs(gradient).max())


def test_sft(base, template, tmp_path):
    """TRL leaves out the prompts."""
    rows = []
    for pair in PAIRS:
        prompt, answer = (template.tokenizer.encode(pair[part]) for part in ("prompt", "chosen"))
        rows.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})
    trainer, batch = trained_by("SFT", tmp_path, rows=rows)
    loss, count, _ = sft_loss(base, (batch["input_ids"].numpy()[:, :-1], batch["labels"].numpy()[:, 1:]))
    assert_same_step(trainer, batch, base, loss / count)


def pair_batch_of(batch, counted):
    ids, real, mask = (batch[name].numpy() for name in ("input_ids", "attention_mask", counted))
    return PairBatch(ids, real.sum(axis=1), mask == 1, np.array(0))


def test_reward(base, template, tmp_path):
    model = ModelWithHead.from_language_model(base, ["reward"])
    save_classifier(model, tmp_path / "reward", template.tokenizer)
    trainer, batch = trained_by("Reward", tmp_path / "reward", model="SequenceClassification")
    loss, count, _ = reward_batch_loss(model, pair_batch_of(batch, "attention_mask"))
    assert_same_step(trainer, batch, model, loss / count)


@pytest.mark.parametrize("kind", KINDS)
def test_dpo(base, tmp_path, kind):
    trainer, batch = trained_by("DPO", tmp_path, loss_type=kind, beta=0.3, label_smoothing=0.2)
    policy, pairs = moved(base, trainer), pair_batch_of(batch, "completion_mask")
    pairs = pairs._replace(reference=sequence_logprobs(base, *pairs.shifted()).data)
    loss, count, metrics = dpo_batch_loss(policy, pairs, 0.3, kind, 0.2)
    assert_same_step(trainer, batch, policy, loss / count)
    for name, value in metrics.items():
        assert value / count == pytest.approx(trainer._metrics["eval"][name][0], abs=1e-5)


TRL = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
}


@pytest.mark.parametrize("method", METHODS)
def test_grpo(base, tmp_path, method):
    """RLOO's advantages only: TRL's RLOOTrainer has the ratio of a whole answer, and clips it."""
    rewards, rng = np.array([[1.0, 1, 1, 0], [3, 1, 3, 0.5]]), np.random.default_rng(0)
    settings = {"beta": 0.1, "num_generations": 4, "max_completion_length": 8, "num_iterations": 2}
    if method in TRL:
        settings |= {"use_bias_correction_kl": False, **TRL[method]}  # by default TRL has ratio * k3
    stage = "GRPO" if method in TRL else "RLOO"
    trainer, questions = trained_by(stage, tmp_path, lambda **_: rewards.reshape(-1).tolist(), **settings)
    trainer.eos_token_ids = [*range(60)]  # an answer ends at one of these
    batch = trainer._generate_and_score_completions(questions)
    advantages = group_advantages(rewards, method).reshape(-1)
    np.testing.assert_allclose(batch["advantages"].numpy(), advantages, atol=1e-6)
    if method == "rloo":
        return
    texts = []
    for part in ("prompt", "completion"):
        pairs = zip(batch[f"{part}_ids"].numpy(), batch[f"{part}_mask"].numpy() == 1)
        texts.append([ids[real].tolist() for ids, real in pairs])
    tokens, lengths, starts, mask = prompts_with_replies(*texts)
    config = GRPOConfig(method=method, beta=0.1, num_mini_batches=1, response_length=8)
    (ours,) = grpo_batches(base, base, Replies(tokens, starts, mask, lengths > 0), advantages, config, rng)
    policy = moved(base, trainer)
    loss, count, metrics = grpo_batch_loss(policy, ours, config)
    assert 0.1 < metrics["policy/clipfrac_avg"] / count < 0.9 and len({*lengths}) > 2
    assert_same_step(trainer, batch, policy, loss / count)
