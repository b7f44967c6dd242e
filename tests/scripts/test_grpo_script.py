"""scripts/grpo.py as its users meet it."""

import pytest

from finetune.stages import grpo as stage
from gpt.training.checkpoint import load_run
from gpt.training.log import read_log
from scripts import grpo
from tests.scripts.running import refusal, run_here

CHAINS = ["--terms", "4", "--total-iterations", "2", "--eval-interval", "1"]
GROUPS = [*CHAINS, "--batch-size", "2", "--num-generations", "2"]
SMALL = [*GROUPS, "--sft-steps", "3"]
SIZES = {"WORKED_EXAMPLES": 40, "TRAIN_ITEMS": 30, "TEST_ITEMS": 6}


@pytest.fixture
def small(monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(stage, name, value)


def test_a_run_says_what_it_does_and_leaves_its_files(small, tmp_path, capsys):
    assert run_here(grpo.main, "--out-dir", tmp_path / "run", *SMALL) == 0
    output = capsys.readouterr().out
    for part in (
        "has learned from 40 worked examples: loss ",
        "data: 30 questions to learn from, 6 questions to test on, such as ",
        "majority@8  share of questions whose most frequent answer is right",
        "8/8 | loss ",
        "6 held-out questions, 8 answers each",
        "trained 8 steps,",
    ):
        assert part in output, part
    assert (tmp_path / "run" / "loss.png").exists() == ("no picture" not in output)
    rows = read_log(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in rows] == [0, 4, 4, 8, 8] and "pass@8" in rows[-1]
    load_run(tmp_path / "run")
    start = ["--init-from", tmp_path / "run" / "worked", "--out-dir", tmp_path / "control"]
    assert run_here(grpo.main, *start, "--control", *CHAINS) == 0
    output = capsys.readouterr().out
    assert "data: 40 worked examples to learn from" in output and "its aim moves" not in output


@pytest.mark.parametrize(
    "more, words",
    [
        (["--beta", "-1"], "beta must be a number >= 0, got -1.0"),
        (["--method", "ppo"], "invalid choice: 'ppo'"),
        (["--num-generations", "1"], "must be an integer >= 2, got 1"),
        (["--response-length", "60"], "60 tokens of reply are"),
        (["--init-from", "nowhere"], "--sft-steps is for a new model"),
        (["--control"], "--batch-size does not go with --control"),
        (["--batch-size", "1000000000"], "a step on batches of 2,000,000,000"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(small, tmp_path, capsys, more, words):
    assert words in refusal(grpo.main, capsys, "--out-dir", tmp_path / "run", *SMALL, *more)
