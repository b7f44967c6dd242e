"""scripts/ppo.py as its users meet it."""

import shutil

import pytest

from finetune.data.chat_template import IM_END, IM_START
from finetune.stages import ppo as ppo_stage
from gpt import Tokenizer
from gpt.training.checkpoint import load_run
from gpt.training.log import read_log
from scripts import ppo, reward
from tests.scripts.preference_files import write_model
from tests.scripts.running import output_of, refusal, run_here
from tests.scripts.runs import arguments_of

pytestmark = pytest.mark.usefixtures("reward_run")


def test_a_run_says_what_it_does_and_leaves_its_files(given, finished):
    folder, output = finished("ppo")
    for part in (
        f"reward model: {given / 'reward'}; it gets 10 of 10 held-out pairs right",
        "data: 18 questions to answer, 2 to test on",
        "objective/kl  how far the policy has moved",
        "4/8 | loss ",
        "8/8 | loss ",
        "Replies before and after",
        "Say 18?",
        "reinforced in 2 iterations,",
        "python scripts/chat.py --model",
    ):
        assert part in output, part
    rows = read_log(folder / "log.jsonl")
    assert [row["step"] for row in rows] == [4, 8]
    assert abs(rows[0]["objective/kl"]) < 1e-4  # nothing has moved yet
    load_run(folder)  # a plain model, as every other script takes it


def test_a_run_without_a_price_is_drawn_beside_another(given, finished, tmp_path):
    pytest.importorskip("matplotlib")
    beside = ["--kl-coef", "0", "--beside", finished("ppo")[0], "--out-dir", tmp_path]
    output = output_of(ppo.main, *arguments_of("ppo", given), *beside)
    assert (tmp_path / "comparison.png").stat().st_size > 10_000 and (tmp_path / "reinforcement.png").exists()
    assert f"both runs: {tmp_path}/comparison.png" in output


def test_the_built_in_questions_are_judged(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ppo_stage, "TRAIN_ITEMS", 12)
    monkeypatch.setattr(ppo_stage, "TEST_ITEMS", 3)
    models = ["--init-from", write_model(tmp_path / "sft", block_size=192), "--reward-model", given / "reward"]
    # The reward model reads 64 tokens: that is too few for these questions, and it is said before anything is written.
    assert "reads 64 tokens" in refusal(ppo.main, capsys, *models, "--out-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_reward_model_no_better_than_chance_is_refused(given, tmp_path, capsys):
    data = ["--init-from", given / "chat", "--data", given / "pairs.jsonl", "--out-dir", tmp_path / "coin"]
    assert run_here(reward.main, *data, "--max-iters", "1", "--learning-rate", "0", "--batch-size", "4") == 0
    bad = ["--reward-model", tmp_path / "coin", "--out-dir", tmp_path / "run"]
    message = refusal(ppo.main, capsys, *arguments_of("ppo", given), *bad)
    assert "is no better than chance: it gets" in message and "a coin would do as well in" in message
    assert not (tmp_path / "run").exists()


def test_a_reward_model_with_another_tokenizer_is_refused(given, tmp_path, capsys):
    tokenizer = Tokenizer.train(["another text, another text"], 260)
    tokenizer.add_special_tokens([IM_START, IM_END])
    other = shutil.copytree(given / "reward", tmp_path / "other")
    tokenizer.save(other)
    bad = ["--reward-model", other, "--out-dir", tmp_path / "run"]
    message = refusal(ppo.main, capsys, *arguments_of("ppo", given), *bad)
    assert f"the reward model in {other} has another tokenizer" in message and not (tmp_path / "run").exists()
