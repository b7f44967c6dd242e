"""scripts/demo.py: it starts over in its own folder, and deletes nothing else."""

import dataclasses
import gc
from unittest import mock

import pytest

from gpt.training import batches
from gpt.training.checkpoint import load_state
from gpt.training.pretraining import PretrainingConfig, pretrain
from gpt.training.training_config import TrainingConfig
from scripts import demo
from tests.gpt.small import files_of
from tests.scripts.running import refusal, run_here, run_process, write_text


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The demo, of two steps on a small text."""
    text = write_text(tmp_path / "text.txt")
    settings = demo.demo_config

    def small(short, out_dir, seed, data):
        config = settings(short, out_dir, seed, data=data)
        shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8}
        training = dataclasses.replace(config.training, max_iters=2, warmup_iters=1)
        return dataclasses.replace(config, data=text, vocab_size=260, model=shape, training=training)

    monkeypatch.setattr(demo, "demo_config", small)
    return tmp_path / "demo"


def test_an_earlier_demo_is_replaced_and_nothing_else(quick, capsys):
    for seed in ("1", "2"):
        assert run_here(demo.main, "--out-dir", quick, "--seed", seed) == 0
        assert load_state(quick)["settings"]["seed"] == int(seed)
        (quick / "notes.txt").write_text("mine", encoding="utf-8")
        (quick / "checkpoint-1-best").mkdir(exist_ok=True)
        gc.collect()  # Windows replaces no file that is mapped into memory, and a user's next demo is another process
        (quick.parent / ".demo.earlier").mkdir()  # as after a crash
        (quick.parent / ".demo.earlier" / "more.txt").write_text("mine", encoding="utf-8")
    assert {"notes.txt", "more.txt", "checkpoint-1-best"} <= {path.name for path in quick.iterdir()}
    assert "python scripts/generate.py" in capsys.readouterr().out


def test_an_earlier_demo_stays_if_the_new_one_cannot_start(quick, monkeypatch):
    assert run_here(demo.main, "--out-dir", quick) == 0
    before = files_of(quick)
    gc.collect()
    monkeypatch.setattr(batches, "write_tokens", mock.Mock(side_effect=KeyboardInterrupt))
    assert run_here(demo.main, "--out-dir", quick, "--seed", "2") == 130
    assert files_of(quick) == before


def test_other_runs_and_other_files_are_not_touched(quick, capsys, tmp_path):
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 4}
    run = tmp_path / "run"
    training = TrainingConfig(max_iters=1)
    pretrain(PretrainingConfig(str(tmp_path / "text.txt"), str(run), 257, model=shape, training=training))
    quick.mkdir()
    (quick / "log.jsonl").write_bytes(b"precious")
    before = files_of(tmp_path)
    for folder, words in ((run, f"{run} holds a run already"), (quick, "holds files that are not of a run")):
        assert words in refusal(demo.main, capsys, "--out-dir", folder)
    assert files_of(tmp_path) == before


@pytest.mark.slow
def test_the_short_demo_learns(tmp_path):
    done = run_process("demo", "--short", "--out-dir", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    evaluations = [line for line in done.stdout.splitlines() if "validation loss" in line]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in evaluations]
    assert losses[0] > 6.5 and losses[-1] < 5.5
