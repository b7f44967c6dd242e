"""GRPO's loop and its stage: the right tokens are learned from, checked rewards are found, runs go on bit for bit."""

import dataclasses
import signal

import numpy as np
import pytest

from finetune.data.chains import Chain, chains
from finetune.data.datasets import ShuffledBatches
from finetune.objectives.grpo import METHODS, answer_weights, group_advantages, grpo_loss
from finetune.objectives.rollout import sample_replies
from finetune.stages import grpo as stage
from finetune.stages.grpo import GRPORunConfig, VerifiedRewards, score_answers
from finetune.stages.grpo_loop import GRPOConfig, GRPOTrainer, grpo_batch_loss, grpo_batches
from finetune.stages.rollout_loop import RolloutTrainer
from finetune.stages.stage import resume, start
from gpt.training.checkpoint import CheckpointError, load_checkpoint
from gpt.training.log import read_log
from gpt.training.trainer import TrainingConfig
from minigrad import Tensor, manual_seed
from tests.finetune.preferences import small_policy, small_template
from tests.scripts.running import log_without_times

CONFIG = GRPOConfig(total_iterations=4, batch_size=3, num_generations=4, num_mini_batches=2, response_length=5)
TRAINING = TrainingConfig(learning_rate=1e-3, warmup_iters=0, weight_decay=0.0, eval_interval=1)


def likes(subjects, replies):
    """A checker: the share of tokens below 60, which are one in five of all. The answers to a question are in a row."""
    assert all(len(set(subjects[i : i + 4])) == 1 for i in range(0, len(subjects), 4))
    return np.array([np.mean([token < 60 for token in reply]) for reply in replies]), {"exact": 0.5}


def trainer_in(folder, config=CONFIG, check=likes, reference=None, training=TRAINING):
    template = small_template()
    questions = [(template.encode([{"role": "user", "content": q}], True)[0], q) for q in ("Yes?", "No?", "Perhaps?")]
    batches = ShuffledBatches(questions, config.batch_size, list, 0)
    manual_seed(0)
    model = small_policy(template, 1, n_embd=8)
    return GRPOTrainer(model, reference, batches, check, config, training, folder, template.stop_tokens)


# --- what is learned from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_s_loss_is_the_formula_s_answer_by_answer(method, beta):
    template = small_template()
    policy, old, reference = (small_policy(template, seed, "float64").eval() for seed in (1, 2, 3))
    manual_seed(0)
    prompts = [template.encode([{"role": "user", "content": q}], True)[0] for q in ("Yes?", "The word?")]
    replies = sample_replies(old, [prompt for prompt in prompts for _ in range(3)], 6, range(60))
    advantages = group_advantages(np.array([[1.0, 0, 0], [2, 3, 0]]), method).reshape(-1)
    config = dataclasses.replace(CONFIG, method=method, beta=beta, num_mini_batches=1, response_length=6)
    known = reference if beta else None
    (batch,) = grpo_batches(old, known, replies, advantages, config, np.random.default_rng(0))
    loss, count, _ = grpo_batch_loss(policy, batch, config)

    expected = []
    weights = answer_weights(replies.mask.sum(axis=1)[advantages != 0], method, 6)
    for row, weight in zip(np.flatnonzero(advantages), weights, strict=True):
        prompt, reply = prompts[row // 3], replies.replies()[row]
        logprobs = []
        for model in (policy, old, reference):
            logits = model(np.array([[*prompt, *reply]])).data[0, len(prompt) - 1 : -1]
            chosen = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            logprobs.append(chosen[np.arange(len(reply)), reply])
        new, before, ref = logprobs
        same = (np.full(len(reply), advantages[row]), np.full(len(reply), weight), method, ref, beta)
        expected.append(grpo_loss(Tensor(new), before, *same).sum().item())
    assert count == sum(len(replies.replies()[row]) for row in np.flatnonzero(advantages))
    assert loss.item() / count == pytest.approx(np.mean(expected), rel=1e-6)


def test_answers_that_teach_nothing_are_left_out_unless_there_is_a_kl_penalty():
    template = small_template()
    policy = small_policy(template, 1).eval()
    manual_seed(0)
    replies = sample_replies(policy, [[1, 2, 3]] * 6, 4, [0])
    advantages = np.array([0.0, 0, 0, 1, -1, 0])

    def rows(advantages, reference, parts=2):
        config = dataclasses.replace(CONFIG, num_mini_batches=parts)
        batches = grpo_batches(policy, reference, replies, advantages, config, np.random.default_rng(0))
        return [len(batch.tokens) for batch in batches]

    assert rows(advantages, None) == [1, 1] and rows(advantages, policy) == [3, 3]
    assert rows(advantages, None, parts=3) == rows(0 * advantages, None, parts=3) == [2, 2, 2]


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_reward_that_can_be_had_is_found(tmp_path, method):
    config = dataclasses.replace(CONFIG, total_iterations=16, batch_size=24, method=method)
    trainer = trainer_in(tmp_path, config, training=dataclasses.replace(TRAINING, learning_rate=4e-2, eval_interval=0))
    trainer.run()
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "reward" in row]
    assert len(rows) == 16 and rows[0]["reward"] < 0.25 and rows[-1]["reward"] > rows[0]["reward"] + 0.2
    assert {"exact", "ended", "policy/clipfrac_avg", "policy/entropy_avg", "num_tokens"} <= rows[0].keys()
    assert rows[0]["step"] == 2 and rows[-1]["step"] == 32


def test_a_kl_penalty_keeps_the_policy_near_its_reference(tmp_path):
    moved = {}
    for beta in (0.0, 5.0):
        config = dataclasses.replace(CONFIG, total_iterations=8, batch_size=12, beta=beta)
        reference = small_policy(small_template(), 1, n_embd=8).eval()
        training = dataclasses.replace(TRAINING, learning_rate=2e-2)
        trainer = trainer_in(tmp_path / str(beta), config, reference=reference if beta else None, training=training)
        trainer.run()
        replies = sample_replies(trainer.model, [[1, 2, 3]] * 50, 5, [0])
        (batch,) = grpo_batches(
            trainer.model, reference, replies, np.ones(50), dataclasses.replace(config, num_mini_batches=1),
            np.random.default_rng(0),
        )  # fmt: skip
        moved[beta] = (batch.logprobs - batch.reference).mean()
    assert moved[5.0] < moved[0.0] / 3


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The settings of a run of seconds."""
    sizes = {"WORKED_EXAMPLES": 40, "TRAIN_ITEMS": 30, "TEST_ITEMS": 6, "SAMPLES": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(stage, name, value)
    training = TrainingConfig(learning_rate=1e-3, warmup_iters=0, eval_interval=2)
    return GRPORunConfig(out_dir=str(tmp_path / "run"), terms=3, sft_steps=3, grpo=CONFIG, training=training)


def interrupt_at(monkeypatch, step):
    iterate = RolloutTrainer._iterate

    def interrupted_iterate(self):
        iterate(self)
        if self.steps_done == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RolloutTrainer, "_iterate", interrupted_iterate)


def test_a_resumed_run_equals_one_that_never_stopped(small, tmp_path, monkeypatch):
    config = dataclasses.replace(small, grpo=dataclasses.replace(CONFIG, beta=0.1))
    whole = start(VerifiedRewards, config)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        stopped = start(VerifiedRewards, dataclasses.replace(config, out_dir=str(tmp_path / "parts")))
    assert stopped.interrupted and stopped.saved_step == 6
    manual_seed(99)
    parts = resume(VerifiedRewards, str(tmp_path / "parts"))
    assert not parts.interrupted and parts.steps_done == whole.steps_done == 8
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, parts.model.state_dict()[name])
    assert whole.extra_state["after"] == parts.extra_state["after"]
    assert log_without_times(tmp_path / "run") == log_without_times(tmp_path / "parts")


def test_the_control_learns_from_the_worked_examples_only(small):
    trainer = start(VerifiedRewards, dataclasses.replace(small, control=True))
    assert trainer.steps_done == 4 * 2 * stage.CONTROL_STEPS and not isinstance(trainer, GRPOTrainer)
    rows = read_log(f"{small.out_dir}/log.jsonl")
    assert "mean_token_accuracy" in rows[-2] and {"exact", "pass@2", "majority@2", "thought"} <= rows[-1].keys()
    assert load_checkpoint(small.out_dir).state["step"] == trainer.steps_done


def test_only_finished_answers_are_rewarded(small):
    trained = start(VerifiedRewards, small)
    run = VerifiedRewards(small)
    run.tokenizer, run.template, item = small_template().tokenizer, small_template(), Chain("1+1")
    ids = run.tokenizer.encode("<think></think>2")
    rewards, metrics = run._check([item, item], [[*ids, run.template.end], ids])
    assert rewards.tolist() == [1, 0] and metrics["exact"] == metrics["format"] == 0.5
    assert trained.extra_state["before"].keys() == trained.extra_state["after"].keys()


def test_a_damaged_state_is_refused(small):
    trainer = start(VerifiedRewards, small)
    trainer.extra_state["before"] = {"exact": "all"}
    trainer.save()
    with pytest.raises(CheckpointError, match="before"):
        resume(VerifiedRewards, small.out_dir)


def test_scores_of_several_answers():
    items = chains("test", 2, 4)
    a, b = (item.answer for item in items)
    wrong = str((int(b) + 1) % 10)
    answers = [
        [f"<think></think>{a}", f"<think>12</think>{a}", f"<think>123</think>{a}x"],
        [f"<think></think>{wrong}", f"<think>1</think>{wrong}", f"<think></think>{b}"],
    ]
    scores = score_answers(items, answers)
    assert scores == pytest.approx(
        {"exact": 3 / 6, "format": 5 / 6, "pass@3": 1.0, "majority@3": 0.5, "thought": 1.0, "thinks": 0.5}
    )


@pytest.mark.parametrize(
    "options, words",
    [
        ({"total_iterations": 0}, "total_iterations must be >= 1, got 0"),
        ({"num_generations": 1}, "num_generations must be >= 2, got 1"),
        ({"beta": float("nan")}, "beta must be a number >= 0"),
        ({"method": "ppo"}, "there is no method 'ppo'"),
        ({"batch_size": 1, "num_generations": 2}, "2 answers cannot be dealt to 4 mini-batches"),
    ],
)
def test_impossible_settings(options, words):
    with pytest.raises(ValueError, match=words):
        GRPOConfig(**options)
    with pytest.raises(ValueError, match="there is no checker 'strict': choose from exact, lenient"):
        GRPORunConfig(checker="strict")
