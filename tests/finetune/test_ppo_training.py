"""PPO's loop: the right tokens are learned from, a reward that can be had is found, runs go on where they stopped."""

import dataclasses
import math
import signal

import numpy as np
import pytest

from finetune.data.datasets import ShuffledBatches
from finetune.objectives.logprobs import estimated_kl
from finetune.objectives.ppo import gae, token_rewards
from finetune.objectives.rollout import PolicyWithValue, Rollout, rollout_metrics
from finetune.stages.ppo_loop import PPOConfig, PPOTrainer, ppo_batch_loss, ppo_batches
from gpt.training.checkpoint import load_checkpoint, load_run
from gpt.training.log import read_log
from gpt.training.trainer import TrainingConfig
from minigrad import Tensor, manual_seed, nn
from tests.finetune.preferences import small_policy, small_template

QUESTIONS = ["Say yes.", "No?", "The word, the word!", "Perhaps.", "Glad?"]
CONFIG = PPOConfig(total_iterations=3, batch_size=6, num_ppo_epochs=2, num_mini_batches=2, response_length=5)
TRAINING = TrainingConfig(learning_rate=1e-3, warmup_iters=0, weight_decay=0.0, eval_interval=2)


class Likes(nn.Module):
    """A reward model that counts tokens below 60, which are one in five of all: bytes, mostly punctuation."""

    def forward(self, tokens, lengths):
        counts = [(row[n - 5 : n] < 60).sum() for row, n in zip(tokens, lengths)]
        return Tensor(np.array(counts, dtype=np.float32)[:, None])


def trainer_in(folder, config=CONFIG, reward_model=None, seed=0, **options):
    template = small_template()
    manual_seed(seed)
    prompts = [(template.encode([{"role": "user", "content": q}], True)[0], q) for q in QUESTIONS]
    trainer = PPOTrainer(
        PolicyWithValue(small_policy(template, 1, n_embd=8)),
        small_policy(template, 1, n_embd=8),
        reward_model or Likes(),
        ShuffledBatches(prompts, config.batch_size, list, seed),
        config,
        dataclasses.replace(TRAINING, **options.pop("training", {})),
        folder,
        template.stop_tokens,
        **options,
    )
    template.tokenizer.save(folder)
    manual_seed(seed)
    return trainer


@pytest.fixture
def rollout():
    rng = np.random.default_rng(0)
    mask = np.arange(4) < np.array([[4], [1], [3], [2], [4]])
    starts = np.array([3, 2, 4, 2, 3])
    grids = [np.where(mask, rng.standard_normal(mask.shape), 0) for _ in range(3)]
    tokens = rng.integers(1, 290, (5, 8))
    return Rollout(tokens, starts, mask, np.array([True, True, False, True, False]), *grids, rng.standard_normal(5))


# --- what is learned from ---------------------------------------------------------------------------------------------


def test_every_reply_is_dealt_once_per_epoch_with_its_own_advantages(rollout):
    config = PPOConfig(batch_size=5, num_ppo_epochs=3, num_mini_batches=2, missing_eos_penalty=0.5, kl_coef=0.2)
    batches = ppo_batches(rollout, config, np.random.default_rng(0))
    assert [len(batch.tokens) for batch in batches] == [3, 2] * 3
    scores = rollout.scores - [0, 0, 0.5, 0, 0.5]
    kl = estimated_kl(Tensor(rollout.logprobs), Tensor(rollout.reference_logprobs)).data
    advantages, returns = gae(token_rewards(scores, kl, rollout.mask, 0.2), rollout.values, rollout.mask)
    mean, std = advantages[rollout.mask].mean(), advantages[rollout.mask].std()
    for epoch in range(3):
        seen = []
        for batch in batches[2 * epoch : 2 * epoch + 2]:
            rows, columns = batch.places.here
            for n in range(len(batch.drawn)):
                row = next(r for r in range(5) if np.array_equal(rollout.tokens[r], batch.tokens[rows[n]]))
                step = columns[n] - rollout.starts[row]
                assert batch.drawn[n] == rollout.tokens[row, columns[n]] and rollout.mask[row, step]
                assert batch.places.before[1][n] == columns[n] - 1
                assert batch.logprobs[n] == rollout.logprobs[row, step]
                assert batch.values[n] == rollout.values[row, step]
                assert batch.returns[n] == pytest.approx(returns[row, step])
                assert batch.advantages[n] == pytest.approx((advantages[row, step] - mean) / std, rel=1e-6)
                seen.append((row, step))
        assert len(set(seen)) == len(seen) == rollout.mask.sum()


def test_metrics_of_a_rollout(rollout):
    metrics = rollout_metrics(rollout)
    assert metrics["objective/scores"] == pytest.approx(rollout.scores.mean()) and metrics["objective/ended"] == 0.6
    assert metrics["objective/kl"] == pytest.approx((rollout.logprobs - rollout.reference_logprobs).sum() / 5)
    assert metrics["objective/entropy"] == pytest.approx(-rollout.logprobs.sum() / 5)


def test_before_the_first_step_the_ratio_is_one_and_nothing_is_clipped(tmp_path):
    trainer = trainer_in(tmp_path)
    seen = []

    def loss_fn(model, batch):
        result = ppo_batch_loss(model, batch, CONFIG)
        seen.append((result, batch))
        return result

    trainer.loss_fn = loss_fn
    trainer.run()
    (loss, n, metrics), batch = seen[0]
    assert n == len(batch.drawn) and metrics["val/ratio"] / n == pytest.approx(1, abs=1e-4)
    assert metrics["policy/approxkl_avg"] / n == pytest.approx(0, abs=1e-7) and metrics["policy/clipfrac_avg"] == 0
    assert metrics["loss/policy_avg"] == pytest.approx(-batch.advantages.sum(), abs=1e-3)
    assert metrics["loss/value_avg"] == pytest.approx(0.5 * (batch.returns**2).sum(), rel=1e-3)  # V is 0 at first
    assert loss.item() == pytest.approx(metrics["loss/policy_avg"] + 0.1 * metrics["loss/value_avg"], abs=1e-3)
    assert seen[1][0][2]["policy/approxkl_avg"] > 0


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_reward_that_can_be_had_is_found_and_a_dear_reference_is_stayed_with(tmp_path):
    """Without a price the policy comes to write the tokens that are liked; with a high one it stays where it was."""
    config = dataclasses.replace(CONFIG, total_iterations=15, batch_size=48, missing_eos_penalty=0.0)
    logs = {}
    for kl_coef in (0.0, 30.0):
        trainer = trainer_in(
            tmp_path / str(kl_coef), dataclasses.replace(config, kl_coef=kl_coef), training={"learning_rate": 4e-2}
        )
        trainer.run()
        logs[kl_coef] = [row for row in read_log(tmp_path / str(kl_coef) / "log.jsonl") if "loss" in row]
    scores = {kl_coef: [row["objective/scores"] for row in rows] for kl_coef, rows in logs.items()}
    assert len(scores[0.0]) == 15 and scores[0.0][0] == scores[30.0][0] < 1.2
    assert min(scores[0.0][-3:]) > 2 > max(scores[30.0][-3:])
    assert logs[0.0][-1]["objective/kl"] > 1.5 > 1 > logs[30.0][-1]["objective/kl"]


def test_the_log_has_the_standard_names(tmp_path):
    calls = []

    def judge(about, replies):
        calls.append((about, replies))
        return {"right": 0.25}

    trainer = trainer_in(tmp_path, judge=judge, evaluate=lambda: {"courteous": 0.5})
    trainer.run()
    rows = read_log(tmp_path / "log.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [4, 8, 12] and [row["step"] for row in rows if "courteous" in row] == [
        0,
        8,
        12,
    ]
    names = "objective/kl objective/entropy objective/scores policy/approxkl_avg policy/clipfrac_avg loss/policy_avg"
    assert {*names.split(), "loss/value_avg", "val/ratio", "right", "num_tokens"} <= steps[0].keys()
    assert len(calls) == 3 and all(set(about) <= set(QUESTIONS) and len(replies) == 6 for about, replies in calls)
    assert all(1 <= len(reply) <= 5 for reply in calls[0][1])


def test_only_the_policy_learns_and_its_checkpoint_is_a_plain_model(tmp_path):
    trainer = trainer_in(tmp_path)
    reference = {name: value.copy() for name, value in trainer.reference.state_dict().items()}
    trainer.run()
    for name, value in trainer.reference.state_dict().items():
        np.testing.assert_array_equal(value, reference[name])
    model, _ = load_run(tmp_path)
    policy = trainer.model.policy.state_dict()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, policy[name])
        assert not np.array_equal(value, reference[name])


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path):
    trainer_in(tmp_path / "whole", training={"eval_interval": 1}).run()

    first = trainer_in(tmp_path / "parts", training={"eval_interval": 1})
    iterate = first._iterate

    def interrupted_iterate():
        iterate()
        if first.steps_done == 8:
            signal.raise_signal(signal.SIGINT)

    first._iterate = interrupted_iterate
    first.run()
    assert first.interrupted and first.saved_step == 8

    second = trainer_in(tmp_path / "parts", seed=0, training={"eval_interval": 1})
    manual_seed(99)
    checkpoint = load_checkpoint(tmp_path / "parts")
    second.model.policy.load_state_dict(checkpoint.model.state_dict())
    assert second.resume(checkpoint) is None
    second.run()
    assert not second.interrupted
    whole, parts = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, parts.model.state_dict()[name])
    assert whole.state["extra"]["value_head"] == parts.state["extra"]["value_head"]
    assert any(map(any, parts.state["extra"]["value_head"]["weight"]))


def test_a_reward_that_is_not_finite_skips_steps_keeps_the_batches_and_stops(tmp_path):
    class Broken(nn.Module):
        def forward(self, tokens, lengths):
            return Tensor(np.full((len(tokens), 1), np.nan, dtype=np.float32))

    trainer = trainer_in(tmp_path, dataclasses.replace(CONFIG, total_iterations=9), Broken())
    before = {name: value.copy() for name, value in trainer.model.state_dict().items()}
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="10 steps in a row .* not finite"):
        trainer.run()
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with np.load(tmp_path / "nonfinite-step-1.npz") as kept:
        arrays = dict(kept)
    assert np.isnan(next(value for name, value in arrays.items() if "advantages" in name)).all()
    assert load_checkpoint(tmp_path).state["step"] == 0  # the last good one


@pytest.mark.parametrize(
    "options, words",
    [
        ({"total_iterations": 0}, "total_iterations must be >= 1, got 0"),
        ({"kl_coef": -0.1}, "kl_coef must be a number >= 0, got -0.1"),
        ({"kl_coef": math.nan}, "kl_coef must be a number >= 0"),
        ({"lam": 1.5}, r"lam must be in \[0, 1\], got 1.5"),
        ({"cliprange": 0.0}, "cliprange must be a number > 0"),
        ({"batch_size": 1}, "1 replies cannot be dealt to 2 mini-batches"),
    ],
)
def test_impossible_settings(options, words):
    with pytest.raises(ValueError, match=words):
        PPOConfig(**options)
