"""scripts/reward.py as its users meet it."""

import shutil

import pytest

from finetune.data import pairs
from finetune.stages.reward import load_reward_model
from gpt.training.log import read_log
from scripts import reward
from tests.scripts.preference_files import write_model
from tests.scripts.running import forge, output_of, refusal
from tests.scripts.runs import RHYTHM


def test_a_run_says_what_it_does_and_learns_what_is_preferred(reward_run):
    folder, output = reward_run
    for part in (
        "with a new head: ",
        "data: 90 pairs of replies to learn from, 10 to test on",
        "accuracy  how often it scores the preferred reply higher",
        "0 | validation loss 0.6",
        "20/20 | loss ",
        "Held-out pairs, and their scores before and after training",
        "| Say 90?",
        "| yes!",
        "it gets 10 of 10 held-out pairs right; a coin would in 0.001 of cases",
        "trained 20 steps, 80 pairs,",
        f'python scripts/ppo.py --init-from "{folder.parent / "chat"}" --reward-model {folder}\n',
    ):
        assert part in output, part
    rows = read_log(folder / "log.jsonl")
    assert {"accuracy", "margin", "num_pairs", "learning_rate"} <= rows[1].keys()
    assert rows[-1]["accuracy"] == 1 and rows[-1]["val_loss"] < rows[0]["val_loss"]
    model, tokenizer = load_reward_model(folder)
    assert model.labels == ["reward"] and len(tokenizer) == model.config.vocab_size


def test_the_built_in_pairs_are_told_apart_by_what_they_differ_in(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TRAIN_PAIRS", 30)
    monkeypatch.setattr(pairs, "TEST_PAIRS", 9)
    model = write_model(tmp_path / "sft", block_size=192)
    output = output_of(reward.main, "--init-from", model, "--out-dir", tmp_path / "run", *RHYTHM.split())
    assert "data: 30 pairs of replies to learn from, 9 to test on" in output
    assert "of those that differ in courtesy: " in output and "the answer: " in output


@pytest.mark.parametrize("place", [("scores",), ("scores", 0), ("scores", 0, 1)])
@pytest.mark.parametrize("wrong", ["x", None, [1]])
def test_forged_scores_from_before_training_are_refused_at_the_start(reward_run, tmp_path, capsys, place, wrong):
    folder = shutil.copytree(reward_run[0], tmp_path / "run")
    forge(folder, ("state", "extra", *place), wrong)
    assert "the state's scores" in refusal(reward.main, capsys, "--init-from", "resume", "--out-dir", folder)
