"""scripts/benchmark.py on a model so small that only its report is of interest."""

import sys

import pytest

from gpt import GPTConfig
from scripts import benchmark
from scripts.benchmarks import jobs, models
from tests.helpers import read_json
from tests.scripts.running import run_here


def measured(monkeypatch, tmp_path, name, batch=1):
    """The row of one measurement, with one step of a tiny model in the place of the step `name`."""
    monkeypatch.setitem(models.TRAINING, name.partition(" ")[0], ("tiny", batch, 8))
    assert run_here(benchmark.main, "--only", name, "--steps", 1, "--out", tmp_path / "out.json") == 0
    return read_json(tmp_path / "out.json")["rows"][name]


def test_the_demo_is_measured_in_the_shape_that_it_trains():
    model, batch, block_size = models.TRAINING["demo"]
    assert (batch, block_size) == (jobs.DEMO.batch_size, jobs.DEMO.model["block_size"])
    assert jobs.model_config(model) == GPTConfig(jobs.DEMO.vocab_size, **jobs.DEMO.model)
    assert jobs.model_config("baby") == GPTConfig.preset("baby")


@pytest.mark.slow
def test_a_row_says_when_how_and_with_what_it_was_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "opponent", list)
    row = measured(monkeypatch, tmp_path, "demo beside compilers")
    shown = capsys.readouterr().out
    assert row["sides"].keys() == {"fast"} and not row["against"]
    for words in (row["sides"]["fast"]["library"], "of the matmul floor", row["command"], row["date"]):
        assert words in shown
    assert row["command"] == 'python scripts/benchmark.py --only "demo beside compilers" --steps 1'


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_several_processes_are_measured_beside_threads(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "opponent", list)
    monkeypatch.setattr(models, "usable_cores", lambda: 3)  # which do not divide the batch
    row = measured(monkeypatch, tmp_path, "demo beside compilers", batch=4)
    assert row["sides"].keys() == row["step_over_floor"].keys() == {"fast", "2 processes"}
    assert row["against"].keys() == {"2 processes beside fast"}
    assert row["sides"]["2 processes"]["peak_bytes"] > row["sides"]["2 processes"]["job_bytes"] > 0


@pytest.mark.slow
@pytest.mark.oracle
def test_pytorch_steps_in_bfloat16_with_float32_weights(monkeypatch, tmp_path):
    row = measured(monkeypatch, tmp_path, "baby beside bfloat16")
    assert row["sides"].keys() == {"fast", "torch bfloat16"} and row["against"].keys() == {"fast beside torch bfloat16"}
    assert row["sides"]["torch bfloat16"]["library"].startswith(("oneDNN", "its own library"))
    from scripts.benchmarks import side, torch_jobs

    job = side.job("torch bfloat16", "train", ["tiny", "1", "8"])
    assert {p.dtype for p in job.model.parameters()} == {torch_jobs.torch.float32}
    with job.in_precision:
        assert job.model.lm_head(torch_jobs.torch.zeros(1, 128)).dtype == torch_jobs.torch.bfloat16
