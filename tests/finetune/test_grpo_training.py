"""GRPO's page: the right tokens are learned from, checked rewards are found, runs go on bit for bit."""

import dataclasses
import shutil

import numpy as np
import pytest

from finetune.built_in.chains import Chain, chains
from finetune.evaluation import pass_at_k
from finetune.evaluation.pass_at_k import score_answers
from finetune.objectives.grpo import METHODS, answer_weights, group_advantages, grpo_loss
from finetune.objectives.rollout import Replies, prompts_with_replies, sample_replies
from finetune.stages import cold_start
from finetune.stages import grpo as page
from finetune.stages.grpo import GRPOConfig, GRPORunConfig, check_answers, grpo_batch_loss, grpo_batches, train_grpo
from gpt.training.checkpoint import CheckpointError, load_run, load_state
from gpt.training.log import read_log
from gpt.training.run import resume, start
from gpt.training.training_config import TrainingConfig
from minigrad import Tensor, manual_seed, switches, use_kernels
from tests.finetune.small import few_items, interrupt_at, small_policy, update_settings, watch
from tests.gpt.small import log_softmax, save_model
from tests.scripts.running import assert_same_run

pytestmark = pytest.mark.usefixtures("no_pictures")
CONFIG = GRPOConfig(total_iterations=4, batch_size=3, num_generations=4, num_mini_batches=2, response_length=5)
TRAINING = TrainingConfig(learning_rate=1e-3, warmup_iters=0, weight_decay=0.0, eval_interval=2)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """settings(folder): those of a run of seconds. A new model first learns from worked examples, for three steps."""
    few_items(monkeypatch, cold_start, WORKED_EXAMPLES=40, TRAIN_ITEMS=30, TEST_ITEMS=6)
    for module in (page, pass_at_k):
        monkeypatch.setattr(module, "SAMPLES", 2)

    def settings(folder="run", grpo=CONFIG, learning_rate=1e-3, **changes):
        training = dataclasses.replace(TRAINING, learning_rate=learning_rate)
        options = {"terms": 3, "sft_steps": 3, "checker": "lenient", "grpo": grpo, "training": training, **changes}
        return GRPORunConfig(out_dir=str(tmp_path / folder), **options)

    return settings


def liked(answers):
    """The share of tokens below 60, which are one in five of all, in each answer."""
    return np.array([np.mean([token < 60 for token in reply]) for reply in answers.replies()])


@pytest.fixture
def likes(template, tmp_path, monkeypatch):
    """A model to start from, and a checker that likes some tokens."""

    def check(questions, answers, tokenizer, checker):
        assert checker == "lenient"
        assert all(len(set(questions[i : i + 4])) == 1 for i in range(0, len(questions), 4))  # each group: one question
        return liked(answers), {"exact": 0.5}

    monkeypatch.setattr(page, "check_answers", check)
    return str(save_model(tmp_path / "base", small_policy(template, 1, n_embd=8, block_size=64), template.tokenizer))


# --- what is learned from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_s_loss_is_the_formula_s_answer_by_answer(template, method, beta):
    policy, old, reference = (small_policy(template, seed, "float64").eval() for seed in (1, 2, 3))
    manual_seed(0)
    prompts = [template.encode([{"role": "user", "content": q}], True)[0] for q in ("Yes?", "The word?")]
    replies = sample_replies(old, [prompt for prompt in prompts for _ in range(3)], 6, range(60))
    advantages = group_advantages(np.array([[1.0, 0, 0], [2, 3, 0]]), method).reshape(-1)
    config = dataclasses.replace(CONFIG, method=method, beta=beta, num_mini_batches=1, response_length=6)
    (batch,) = grpo_batches(old, reference if beta else None, replies, advantages, config, np.random.default_rng(0))
    loss, count, _ = grpo_batch_loss(policy, batch, config)

    expected = []
    weights = answer_weights(replies.mask.sum(axis=1)[advantages != 0], method, 6)
    for row, weight in zip(np.flatnonzero(advantages), weights, strict=True):
        prompt, reply = prompts[row // 3], replies.replies()[row]
        logprobs = []
        for model in (policy, old, reference):
            chosen = log_softmax(model(np.array([[*prompt, *reply]])).data[0, len(prompt) - 1 : -1])
            logprobs.append(chosen[np.arange(len(reply)), reply])
        new, before, ref = logprobs
        same = (np.full(len(reply), advantages[row]), np.full(len(reply), weight), method, ref, beta)
        expected.append(grpo_loss(Tensor(new), before, *same).sum().item())
    assert count == sum(len(replies.replies()[row]) for row in np.flatnonzero(advantages))
    assert loss.item() / count == pytest.approx(np.mean(expected), rel=1e-6)


def test_answers_that_teach_nothing_are_left_out_without_beta(template):
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

OTHER_METHODS = [method for method in METHODS if method != "dr_grpo"]


@pytest.mark.parametrize("method", ["dr_grpo", *(pytest.param(m, marks=pytest.mark.slow) for m in OTHER_METHODS)])
def test_a_reward_that_can_be_had_is_found(settings, likes, tmp_path, monkeypatch, method):
    dealt = watch(page, monkeypatch, "grpo_batches")
    config = dataclasses.replace(CONFIG, total_iterations=12, batch_size=24, method=method)
    start(train_grpo, settings(grpo=config, learning_rate=4e-2, init_from=likes))
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "reward" in row]
    assert len(rows) == 12 and rows[0]["reward"] < 0.25 and rows[-1]["reward"] > rows[0]["reward"] + 0.2
    assert {"exact", "ended", "policy/clipfrac_avg", "policy/entropy_avg", "num_tokens"} <= rows[0].keys()
    assert rows[0]["step"] == 2 and rows[-1]["step"] == 24
    for (_, _, replies, advantages, *_), _ in dealt:
        expected = group_advantages(liked(replies).reshape(-1, 4), method)  # each answer, compared with its group
        np.testing.assert_array_equal(advantages, expected.reshape(-1))


@update_settings
def test_an_update_begins_with_ratio_1_first_at_the_reference(
    settings, likes, tmp_path, monkeypatch, precision, kernels, mini_batches, accumulation
):
    monkeypatch.setattr(page, "evaluate", lambda *_: {"loss": float(switches.autocast.get() is not None)})
    losses, dealt = watch(page, monkeypatch, "grpo_batch_loss"), watch(page, monkeypatch, "grpo_batches")
    config = dataclasses.replace(CONFIG, num_mini_batches=mini_batches, beta=0.1, total_iterations=2)
    run = settings(grpo=config, learning_rate=4e-2, init_from=likes)
    training = dataclasses.replace(run.training, precision=precision, gradient_accumulation_steps=accumulation)
    with use_kernels(kernels):
        start(train_grpo, dataclasses.replace(run, training=training))
    assert len(losses) == 2 * mini_batches
    for _, (_, n, metrics) in losses[::mini_batches]:
        assert metrics["val/ratio"] == n and metrics["policy/approxkl_avg"] == 0
    first, later = (batches for _, batches in dealt)
    assert all((batch.reference_logprobs == batch.old_logprobs).all() for batch in first)
    assert any((batch.reference_logprobs != batch.old_logprobs).any() for batch in later)
    losses = [row["val_loss"] for row in read_log(tmp_path / "run" / "log.jsonl") if "val_loss" in row]
    assert len(losses) == 2 and not any(losses)  # evaluated in float32


def test_a_resumed_run_finds_its_reference_again(settings, likes, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, beta=0.1)
    whole = start(train_grpo, settings("whole", config))
    assert load_state(tmp_path / "whole")["planned_steps"] == whole.state.step == 8  # optimizer steps
    rows = read_log(tmp_path / "whole" / "log.jsonl")
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 4, 8]  # every second iteration
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)  # the first of two steps of the third iteration
        first = start(train_grpo, settings("parts", config))
    assert first.interrupted and first.state.step == first.saved_step == 6
    other = shutil.copytree(tmp_path / "parts", tmp_path / "other")
    manual_seed(99)
    second = resume(train_grpo, GRPORunConfig, str(tmp_path / "parts"))
    assert not second.interrupted and second.after == whole.after
    assert second.before == whole.before and whole.before.keys() == whole.after.keys()
    assert_same_run(tmp_path / "parts", tmp_path / "whole")

    worked, tokenizer = load_run(other / "worked")
    worked.lm_head.weight.data[0, 0] += 1
    save_model(other / "worked", worked, tokenizer)
    with pytest.raises(CheckpointError, match="the reference in .*worked is not the one that the run in .*other was"):
        resume(train_grpo, GRPORunConfig, str(other))


@pytest.mark.parametrize(
    "reply, reward",
    [
        ("<think></think>2<|im_end|>", 1),
        ("<think></think>2", 0),  # not finished; and no special tokens beside the end:
        ("<think></think><|im_start|><|im_start|>2<|im_end|>", 0),
        ("<th<|im_start|>ink></think>2<|im_end|>", 0),
    ],
)
def test_only_finished_answers_as_they_were_written_are_rewarded(template, reply, reward):
    ids = template.tokenizer.encode(reply, allowed_special="all")
    assert template.tokenizer.decode(ids, skip_special_tokens=True) == "<think></think>2"
    tokens, _, starts, mask = prompts_with_replies([[1]], [ids])
    answers = Replies(tokens, starts, mask, np.array([ids[-1] == template.end]))
    rewards, metrics = check_answers([Chain("1+1")], answers, template.tokenizer, "exact")
    assert rewards.tolist() == [reward] and metrics["exact"] == metrics["format"] == reward


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


def test_answers_have_to_be_enough_for_the_mini_batches():
    with pytest.raises(ValueError, match="2 answers cannot be dealt to 4 mini-batches"):
        GRPOConfig(batch_size=1, num_generations=2)
