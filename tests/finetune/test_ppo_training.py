"""PPO's loop: the right tokens are learned from, a reward that can be had is found, runs go on where they stopped."""

import dataclasses

import numpy as np
import pytest

from finetune.objectives.ppo import gae, token_rewards, whiten
from finetune.objectives.rollout import Rollout, rollout_metrics
from finetune.stages import ppo as page
from finetune.stages.ppo import PPOConfig, PPORunConfig, ppo_batches, train_ppo
from gpt.training.checkpoint import CheckpointError, load_checkpoint, load_run, load_state
from gpt.training.log import read_log
from gpt.training.run import Run, resume, start
from gpt.training.training_config import TrainingConfig
from minigrad import Tensor, nn, use_kernels
from tests.finetune.small import few_items, interrupt_at, small_policy, update_settings, watch
from tests.gpt.small import assert_same, save_model, weights_of
from tests.scripts.preference_files import write_questions

pytestmark = pytest.mark.usefixtures("no_pictures")
CONFIG = PPOConfig(total_iterations=3, batch_size=6, num_ppo_epochs=2, num_mini_batches=2, response_length=5)
TRAINING = TrainingConfig(learning_rate=1e-3, warmup_iters=0, weight_decay=0.0, eval_interval=2)


class Likes(nn.Module):
    """A reward model that counts tokens below 60, which are one in five of all: bytes, mostly punctuation."""

    def forward(self, tokens, lengths):
        counts = [(row[n - 5 : n] < 60).sum() for row, n in zip(tokens, lengths)]
        return Tensor(np.array(counts, dtype=np.float32)[:, None])


@pytest.fixture
def settings(template, tmp_path, monkeypatch):
    """settings(folder): those of a run with a small model, a few questions and the reward model above."""
    monkeypatch.setattr(page, "checked_reward_model", lambda *_: Likes())
    base = str(save_model(tmp_path / "base", small_policy(template, 1, n_embd=8, block_size=192), template.tokenizer))
    data = str(write_questions(tmp_path / "questions.jsonl", 6))

    def settings(folder="run", ppo=CONFIG, learning_rate=1e-3, **changes):
        training = dataclasses.replace(TRAINING, learning_rate=learning_rate)
        return dataclasses.replace(PPORunConfig(base, "", data, str(tmp_path / folder), 0, ppo, training), **changes)

    return settings


# --- what is learned from ---------------------------------------------------------------------------------------------


def test_every_token_is_dealt_once_per_epoch_with_its_numbers():
    """What is known of a token is its number, plus a multiple of 100 for the kind of knowledge."""
    numbers = np.arange(20).reshape(5, 4)
    prompts = np.full((5, 2), 99)
    mask = np.arange(4) < np.array([[4], [1], [3], [2], [4]])
    tokens = np.hstack([prompts, numbers])
    rollout = Rollout(tokens, np.full(5, 2), mask, mask[:, 0], numbers, numbers, numbers + 100, numbers[0])
    config = PPOConfig(batch_size=5, num_ppo_epochs=3, num_mini_batches=2)
    batches = ppo_batches(rollout, numbers + 200, numbers + 300, config, np.random.default_rng(0))
    assert [len(batch.tokens) for batch in batches] == [3, 2] * 3
    for batch in batches:
        drawn = batch.positions.pick(batch.tokens)
        for kind, known in enumerate((batch.old_logprobs, batch.old_values, batch.advantages, batch.returns)):
            np.testing.assert_array_equal(known, drawn + 100 * kind)
    for epoch in range(3):
        first, second = batches[2 * epoch : 2 * epoch + 2]
        assert sorted([*first.old_logprobs, *second.old_logprobs]) == numbers[mask].tolist()


def test_metrics_of_a_rollout():
    mask, ended = np.array([[True, True], [True, False]]), np.array([True, False])
    logprobs, references = np.array([[-1.0, -2], [-3, 0]]), np.array([[-1.5, -2], [-5, 0]])
    rollout = Rollout(np.zeros((2, 4)), ended, mask, ended, logprobs, references, logprobs, np.array([1.0, 4]))
    expected = {"objective/scores": 2.5, "objective/ended": 0.5, "objective/kl": 1.25, "objective/entropy": 3}
    assert rollout_metrics(rollout).items() >= expected.items()


def test_each_token_has_its_advantage_and_first_none_is_clipped(settings, monkeypatch):
    dealt, losses = (watch(page, monkeypatch, name) for name in ("ppo_batches", "ppo_batch_loss"))
    config = dataclasses.replace(CONFIG, kl_coef=0.2, missing_eos_penalty=0.4, gamma=0.9, lam=0.7)
    start(train_ppo, settings(ppo=config, learning_rate=1e-2))
    assert len(dealt) == 3 and len(losses) == 12
    for (rollout, advantages, returns, *_), _ in dealt:
        kl = rollout.logprobs - rollout.reference_logprobs
        mask = rollout.mask
        rewards = token_rewards(rollout.scores - np.where(rollout.ended, 0, 0.4), kl, mask, 0.2)
        expected, expected_returns = gae(rewards, rollout.values, mask, 0.9, 0.7)
        np.testing.assert_array_equal(advantages, whiten(expected, mask))
        np.testing.assert_array_equal(returns, expected_returns)
    assert abs(kl).max() > 0.01 and not rollout.ended.all()  # the policy has moved, so the price was paid
    (_, batch), (loss, n, metrics) = losses[0]
    assert n == len(batch.advantages) and metrics["val/ratio"] / n == pytest.approx(1, abs=1e-4)
    assert metrics["policy/approxkl_avg"] / n == pytest.approx(0, abs=1e-7) and metrics["policy/clipfrac_avg"] == 0
    assert metrics["loss/policy_avg"] == pytest.approx(-batch.advantages.sum(), abs=1e-3)
    assert metrics["loss/value_avg"] == pytest.approx(0.5 * (batch.returns**2).sum(), rel=1e-3)  # V is 0 at first
    assert loss.item() == pytest.approx(metrics["loss/policy_avg"] + 0.1 * metrics["loss/value_avg"], abs=1e-3)
    assert losses[1][1][2]["policy/approxkl_avg"] > 0


@update_settings
def test_an_update_begins_with_ratio_1_first_at_the_reference(
    settings, monkeypatch, precision, kernels, mini_batches, accumulation
):
    losses, rollouts = watch(page, monkeypatch, "ppo_batch_loss"), watch(page, monkeypatch, "roll_out")
    config = dataclasses.replace(CONFIG, num_mini_batches=mini_batches, num_ppo_epochs=1, total_iterations=2)
    run = settings(ppo=config, learning_rate=1e-2)
    training = dataclasses.replace(run.training, precision=precision, gradient_accumulation_steps=accumulation)
    with use_kernels(kernels):
        start(train_ppo, dataclasses.replace(run, training=training))
    assert len(losses) == 2 * mini_batches
    for _, (_, n, metrics) in losses[::mini_batches]:
        # In float32, the last bit may depend on how many rows are multiplied together.
        assert metrics["val/ratio"] == (n if precision == "bfloat16" else pytest.approx(n, rel=1e-6))
    first, later = (rollout for _, rollout in rollouts)
    assert (first.logprobs == first.reference_logprobs).all() and (later.logprobs != later.reference_logprobs).any()


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_reward_is_found_and_a_dear_reference_is_stayed_with(settings, tmp_path):
    """Without a price the policy comes to write the tokens that are liked; with a high one it stays where it was."""
    config = dataclasses.replace(CONFIG, total_iterations=12, batch_size=36, missing_eos_penalty=0.0)
    logs = {}
    for kl_coef in (0.0, 30.0):
        start(train_ppo, settings(str(kl_coef), dataclasses.replace(config, kl_coef=kl_coef), learning_rate=4e-2))
        logs[kl_coef] = [row for row in read_log(tmp_path / str(kl_coef) / "log.jsonl") if "loss" in row]
    scores = {kl_coef: [row["objective/scores"] for row in rows] for kl_coef, rows in logs.items()}
    assert len(scores[0.0]) == 12 and scores[0.0][0] == scores[30.0][0] < 1.2
    assert min(scores[0.0][-3:]) > 2 > max(scores[30.0][-3:])
    assert logs[0.0][-1]["objective/kl"] > 1.5 > 1 > logs[30.0][-1]["objective/kl"]


def test_the_log_has_standard_names_and_replies_are_checked(settings, template, tmp_path, monkeypatch):
    few_items(monkeypatch, page, TRAIN_ITEMS=12, TEST_ITEMS=3)
    rollouts, judged = watch(page, monkeypatch, "roll_out"), watch(page, monkeypatch, "qualities")
    start(train_ppo, settings(data="tasks"))
    rows = read_log(tmp_path / "run" / "log.jsonl")
    steps, evaluations = ([row for row in rows if ("loss" in row) is is_step] for is_step in (True, False))
    assert [row["step"] for row in steps] == [4, 8, 12] and [row["step"] for row in evaluations] == [0, 8, 12]
    names = "objective/kl objective/entropy objective/scores policy/approxkl_avg policy/clipfrac_avg loss/policy_avg"
    assert {*names.split(), "loss/value_avg", "val/ratio", "right", "courteous", "num_tokens"} <= steps[0].keys()
    assert evaluations[0].keys() == {"step", "right", "courteous"}
    for (arguments, _), ((items, replies), _) in zip(rollouts, judged, strict=True):
        assert arguments[3] == tuple(template.encode(item.question, True)[0] for item in items)
        assert len(replies) == 6 and all(1 <= len(reply.ids) <= 5 for reply in replies)


def test_only_the_policy_learns_and_a_plain_model_is_saved(settings, tmp_path, monkeypatch):
    rollouts = watch(page, monkeypatch, "roll_out")
    run = start(train_ppo, settings())
    (model, reference, *_), _ = rollouts[-1]
    base, saved = (weights_of(load_run(tmp_path / name)[0]) for name in ("base", "run"))
    assert_same(reference, base)
    assert_same(run.model, saved)
    assert load_state(tmp_path / "run")["planned_steps"] == run.state.step == 12  # optimizer steps
    assert any(map(any, load_state(tmp_path / "run")["parts"]["value_head"]["weight"]))
    assert not any(np.array_equal(value, base[name]) for name, value in saved.items())
    assert model.policy is run.model and any(model.value_head.weight.data.ravel())


@pytest.mark.parametrize("changed", ["reference", "reward model"])
def test_a_run_goes_on_only_with_its_reference_and_reward_model(settings, template, tmp_path, monkeypatch, changed):
    likes = Likes()
    likes.weight = nn.Parameter(np.ones(3, np.float32))
    monkeypatch.setattr(page, "checked_reward_model", lambda *_: likes)
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        run = start(train_ppo, settings())
    assert run.interrupted and run.state.step == run.saved_step == 4  # at the end of the iteration
    if changed == "reference":
        save_model(tmp_path / "base", small_policy(template, 2, n_embd=8, block_size=192), template.tokenizer)
    else:
        likes.weight.data[1] = 2
    with pytest.raises(CheckpointError, match=f"the {changed} in .* is not the one that the run in .*run was started"):
        resume(train_ppo, PPORunConfig, str(tmp_path / "run"))


def test_a_reward_that_is_not_finite_skips_steps_and_stops(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Likes, "forward", lambda self, tokens, _: Tensor(np.full((len(tokens), 1), np.nan, np.float32)))
    config = settings(ppo=dataclasses.replace(CONFIG, total_iterations=9))
    run = Run(config)
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="10 steps in a row .* not finite"):
        train_ppo(run, config)
    assert run.state.step == 10
    assert_same(run.model, load_run(tmp_path / "base")[0])
    assert load_checkpoint(tmp_path / "run").state["step"] == 0  # the last good one
