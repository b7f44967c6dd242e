"""scripts/verify_gpu.py without a GPU: it says so; and what it would do there runs on the stand-in, with tiny sizes."""

import json
import subprocess
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from gpt import GPTConfig
from minigrad.kernels.cuda import CUDA
from minigrad.kernels.cuda.launch import KernelWarning
from scripts import verify_gpu
from scripts.benchmarks import ours
from tests.scripts.running import assert_says, refusal, run_here


def numbers(path):
    """What a report has below its text."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text.partition("```json\n")[2].partition("\n```")[0])


@pytest.fixture
def tiny(monkeypatch):
    """Sizes that the emulation can do in seconds."""
    parts = verify_gpu.PARTS
    sizes = parts["kernels"].Sizes(batch=1, time=20, rows=5, width=32, heads=2, vocabulary=70, repeats=1)
    config = GPTConfig(vocab_size=31, block_size=8, n_layer=1, n_head=2, n_embd=16)
    monkeypatch.setattr(parts["kernels"].check, "__defaults__", (sizes,))
    monkeypatch.setattr(parts["training"].check, "__defaults__", (parts["training"].Run(3, 2, config),))


def test_without_a_gpu_one_sentence_says_so(tmp_path, capsys):
    words = refusal(verify_gpu.main, capsys, "--out", tmp_path / "report.md")
    assert words.startswith("error: device 'cuda' cannot be used: CuPy is ")
    assert not (tmp_path / "report.md").exists()


def test_every_kernel_has_a_case():
    kernels = verify_gpu.PARTS["kernels"]
    assert kernels.cases(kernels.Sizes(1, 4, 4, 8, 2, 10)).keys() == CUDA.keys()


@pytest.mark.emulation
def test_kernels_and_training_are_compared_and_reported(tiny, cuda, tmp_path, capsys):
    out = tmp_path / "report.md"
    assert run_here(verify_gpu.main, "--only", "kernels", "--only", "training", "--out", out) == 0
    report = numbers(out)
    rows = report["parts"]["kernels"]["rows"]
    assert {"linear bfloat16", "layer_norm float32"} <= rows.keys()
    assert all(0 <= row["error"] <= row["tolerance"] and row["seconds"] > 0 for row in rows.values())
    assert 0 <= report["parts"]["training"]["difference"] < 1e-4
    shown = capsys.readouterr().out
    assert "verified" in shown and "WRONG" not in shown and "largest difference of a loss" in shown


@pytest.mark.emulation
def test_a_wrong_kernel_is_reported(tiny, cuda, tmp_path, monkeypatch, capsys):
    kernels = verify_gpu.PARTS["kernels"]
    right = kernels.run

    def wrong(op, case, which, *rest):
        factor = 1.01 if (op, which) == ("rms_norm", "fast") else 1
        return [array * factor for array in right(op, case, which, *rest)]

    monkeypatch.setattr(kernels, "run", wrong)
    words = refusal(verify_gpu.main, capsys, "--only", "kernels", "--out", tmp_path / "report.md")
    assert words == "error: this GPU gives wrong results: see kernels above\n"
    rows = numbers(tmp_path / "report.md")["parts"]["kernels"]["rows"]
    assert [name for name, row in rows.items() if row["error"] > row["tolerance"]] == ["rms_norm float32"]


@pytest.mark.emulation
def test_what_went_wrong_is_in_the_report(cuda, tmp_path, monkeypatch, capsys):
    def check():
        warnings.warn("plain CuPy instead", KernelWarning, stacklevel=1)
        return {"passed": True, "rows": {}}

    monkeypatch.setattr(verify_gpu.PARTS["kernels"], "check", check)
    monkeypatch.setattr(verify_gpu.PARTS["training"], "check", lambda: 1 / 0)
    out = tmp_path / "report.md"
    words = refusal(verify_gpu.main, capsys, "--only", "training", "--only", "kernels", "--out", out)
    assert "see training, kernels above" in words
    assert_says(out.read_text(encoding="utf-8"), "training ... ZeroDivisionError ... kernels ... plain CuPy instead")


@pytest.mark.slow
def test_the_tests_for_the_device_are_run_and_counted(monkeypatch):
    suite = verify_gpu.PARTS["suite"]
    needs_one = "tests/minigrad/test_cuda_products.py::test_multiply_of_nothing"
    result = suite.check(("tests/finetune/test_kl.py", needs_one))
    assert not result["passed"] and result["counts"].keys() == {"passed", "error"} and result["failed"] == [needs_one]
    assert "device 'cuda' cannot be used" in "\n".join(suite.lines(result))
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: SimpleNamespace(returncode=0, stdout="7 passed"))
    result = suite.check()
    assert result["passed"] and suite.lines(result) == ["7 passed"]


def test_speed_is_a_table_of_both_sides(monkeypatch):
    speed = verify_gpu.PARTS["speed"]

    class Worker:
        def __init__(self, side, kind, arguments):
            assert arguments[-2] == "cuda"
            self.times = iter([9.0] * speed.WARMUP + ([0.2, 0.3, 0.1] if side == "fast" else [0.1, 0.4, 0.2]))

        def ask(self, command):
            return {"seconds": next(self.times)}

        def close(self):
            pass

    monkeypatch.setattr(speed, "Side", Worker)
    monkeypatch.setattr(speed, "is_installed", lambda side: True)
    result = speed.check(steps=3)
    assert result["rows"]["generate tf32"]["over_torch"] == 1.0 and len(result["rows"]) == 6
    lines = speed.lines(result)
    assert any(line.startswith("train 4x1024 bfloat16") and line.endswith("1.00  (aim: 1.5)") for line in lines)
    monkeypatch.setattr(speed, "is_installed", lambda side: side == "fast")
    assert "pip install torch transformers" in speed.lines(speed.check(steps=3))[-1]


@pytest.mark.emulation
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_what_is_measured_runs_on_the_device(cuda, monkeypatch, precision):
    config = GPTConfig(vocab_size=31, block_size=12, n_layer=1, n_head=2, n_embd=16)
    monkeypatch.setattr(GPTConfig, "preset", lambda name: config)
    training_step, taken = ours.training_step, []

    def step(model, *rest):
        assert model.lm_head.weight.device == "cuda:0"
        taken.append(training_step(model, *rest))

    monkeypatch.setattr(ours, "training_step", step)
    with ours.use_kernels("fast"):
        ours.train(lambda team: range(2), "fast", "gpt2", 2, 8, "cuda", precision)
        ours.generate(lambda: range(1), "fast", "gpt2", 3, 4, 1, "cuda", precision)
    assert np.isfinite(taken[0].loss) and taken[1].loss < taken[0].loss
