"""scripts/benchmark.py on a model so small that only its report is of interest."""

import json
import math
import sys

import pytest

from gpt import GPTConfig
from scripts import benchmark
from scripts.benchmarks import ours, race, rows, turns
from tests.helpers import read_json
from tests.scripts.running import run_here, write_text


def measured(monkeypatch, tmp_path, batch, opponent):
    """The row of one measurement, with one step of a tiny model in the place of the demo's."""
    monkeypatch.setitem(rows.ROWS, "demo", rows.training("tiny", batch, 8, opponent))
    assert run_here(benchmark.main, "--only", "demo", "--steps", 1, "--out", tmp_path / "out.json") == 0
    return read_json(tmp_path / "out.json")["rows"]["demo"]


def test_the_demo_is_measured_in_the_shape_that_it_trains():
    name, *shape = rows.ROWS["demo"].arguments
    assert shape == [ours.DEMO.batch_size, ours.DEMO.model["block_size"]]
    assert ours.model_config(name) == GPTConfig(ours.DEMO.vocab_size, **ours.DEMO.model)
    assert ours.model_config("baby") == GPTConfig.preset("baby")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_processes_are_measured_beside_threads(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(turns.OPPONENTS, "torch.compile", ("pytorch", "no_such_package"))
    monkeypatch.setattr(rows, "usable_cores", lambda: 3)  # which do not divide the batch
    row = measured(monkeypatch, tmp_path, 4, "torch.compile")
    assert row["sides"].keys() == {"fast", "2 processes"}
    assert row["sides"]["2 processes"]["peak_bytes"] > row["sides"]["2 processes"]["job_bytes"] > 0
    shown = capsys.readouterr().out
    for words in ("2 processes beside fast: ", row["sides"]["fast"]["library"], "of the matmul floor", row["date"]):
        assert words in shown
    assert row["lines"][-1].endswith(row["command"]) and row["command"].endswith('--only "demo" --steps 1')


@pytest.mark.slow
@pytest.mark.oracle
def test_pytorch_steps_in_bfloat16_with_float32_weights(monkeypatch, tmp_path):
    row = measured(monkeypatch, tmp_path, 1, "torch bfloat16")
    assert row["sides"].keys() == {"fast", "torch bfloat16"}
    assert row["sides"]["torch bfloat16"]["library"].startswith(("oneDNN", "its own library"))
    from scripts.benchmarks import pytorch

    model = pytorch.TorchGPT(GPTConfig.preset("tiny"))
    with pytorch.in_precision("cpu", "bfloat16"):
        assert model.blocks[0].qkv(pytorch.torch.zeros(1, 128)).dtype == pytorch.torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {pytorch.torch.float32}


@pytest.mark.slow
@pytest.mark.oracle
def test_a_race_is_run_and_told(monkeypatch, tmp_path, capsys):
    def run_in_this_process(side, rate, seed):
        monkeypatch.setattr(sys, "argv", ["race", side, str(rate), str(seed), text])
        capsys.readouterr()
        race.main()
        return json.loads(capsys.readouterr().out)

    text = write_text(tmp_path / "text.txt", 3000)
    monkeypatch.setattr(race, "run", run_in_this_process)
    monkeypatch.setattr(race, "SEEDS", (5, 6))
    short = {side: ((2e-3,), {**changes, "max_iters": 16}) for side, (_, changes) in race.SIDES.items()}
    monkeypatch.setattr(race, "SIDES", {side: short[side] for side in (race.THEIRS, "AdamW")})
    out = tmp_path / "out.json"
    assert run_here(benchmark.main, "--only", "nanoGPT", "--text", text, "--out", out) == 0
    shown = capsys.readouterr().out
    row = read_json(out)["rows"]["nanoGPT"]
    theirs, ours = (row["race"][side]["curves"] for side in (race.THEIRS, "AdamW"))
    assert len(theirs) == len(ours) == 2 and row["command"].endswith(f"--text {text}")
    assert theirs[0][-1][1] < theirs[0][0][1] - 0.5
    assert abs(ours[0][-1][1] - theirs[0][-1][1]) < 0.5  # the same model, batches and schedule, other weights
    assert f"the goal is a loss of {row['goal']:.3f}" in shown and "rate 0.002 | loss" in shown


def test_when_a_curve_reaches_the_goal():
    curve = [(0.0, 4.0), (10.0, 2.0), (20.0, 1.5)]
    assert race.seconds_to(3.0, curve) == 5
    assert race.seconds_to(1.75, curve) == 15
    assert race.seconds_to(1.4, curve) == math.inf
