"""scripts/benchmark.py on a model so small that only its report is of interest."""

import sys

import pytest

from gpt import GPTConfig
from scripts import benchmark
from scripts.benchmarks import ours, rows, turns
from tests.helpers import read_json
from tests.scripts.running import run_here


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
