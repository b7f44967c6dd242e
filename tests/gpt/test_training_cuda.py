"""The training loop on a GPU, as far as can be seen without one: nothing in it waits for the device until it logs."""

import json
import math

import numpy as np
import pytest

import minigrad as mg
from gpt import GPT, GPTConfig, load_checkpoint
from gpt.training import trainer as trainer_module
from gpt.training.batches import RandomBatches, sequential_batches
from gpt.training.evaluation import language_model_loss, mean_loss
from gpt.training.log import read_log
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import backend, use_kernels
from tests.gpt.small import SHAPE

TEXT = np.arange(2000) * 5 % 37
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NaN, where the stand-in meets it
on_kernels = pytest.mark.parametrize("kernels", ["textbook", pytest.param("fast", marks=pytest.mark.emulation)])


def a_trainer(folder, device, **settings):
    mg.manual_seed(11)
    model = GPT(GPTConfig(**SHAPE)).to(device)
    config = {"max_iters": 12, "learning_rate": 1e-2, "warmup_iters": 3, "eval_interval": 0, "log_interval": 100}
    return Trainer(
        model,
        RandomBatches(TEXT, 4, 8, seed=2),
        TrainingConfig(**{**config, **settings}),
        folder,
        evaluate=lambda: {"val_loss": mean_loss(model, sequential_batches(TEXT[:100], 4, 8))},
    )


def not_finite_at(*steps):
    """A loss function whose gradient, and in the first of the steps the loss too, is not finite there."""
    count = iter(range(1, 10**9))

    def loss_fn(model, batch):
        loss, n, metrics = language_model_loss(model, batch)
        step = next(count)
        if step in steps:
            loss = loss * (math.nan if step == steps[0] else math.inf)
        return loss, n, metrics

    return loss_fn


def everything(trainer):
    """Weights and moments on the host, and the optimizer's numbers."""
    arrays = {name: np.array(backend.to_numpy(array)) for name, array in trainer.model.state_dict().items()}
    numbers = {}
    for position, state in trainer.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if backend.is_array(value):
                arrays[f"{position}.{name}"] = np.array(backend.to_numpy(value))
            else:
                numbers[f"{position}.{name}"] = value
    return arrays, numbers


@on_kernels
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_waits_for_nothing_and_a_log_line_once(tmp_path, cuda, kernels, precision):
    with use_kernels(kernels):
        trainer = a_trainer(tmp_path, "cuda", precision=precision, gradient_accumulation_steps=2)
        cuda.reset()
        steps = [trainer.step() for _ in range(3)]
        assert (cuda.synchronisations, cuda.to_host) == (0, 0)
        assert all(math.isnan(step.loss) for step in steps)  # nobody knows yet
        trainer.read()
        assert (cuda.synchronisations, cuda.to_host) == (1, 1)
        there = [(step.loss, step.grad_norm) for step in steps]
        here = a_trainer(tmp_path, "cpu", precision=precision, gradient_accumulation_steps=2)
        expected = [(step.loss, step.grad_norm) for step in (here.step() for _ in range(3))]
    np.testing.assert_allclose(there, expected, rtol=1e-4 if precision == "float32" else 2e-2)
    assert [step.learned for step in steps] == [64, 128, 192] and trainer.count == 192
    assert all(step.seconds > 0 and not step.skipped for step in steps)


def test_a_run_waits_when_it_logs_only(tmp_path, cuda):
    trainer = a_trainer(tmp_path, "cuda", max_iters=40, log_interval=10)
    trainer.steps_done, trainer.evaluate, trainer.save = 1, None, lambda: None
    cuda.reset()
    trainer.run()
    assert cuda.synchronisations == cuda.to_host == 4
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [10, 20, 30, 40]
    assert all(math.isfinite(row["loss"]) and row["ms"] > 0 for row in read_log(tmp_path / "log.jsonl"))


@on_kernels
def test_a_step_that_is_not_finite_is_skipped_on_the_device(tmp_path, cuda, kernels):
    with use_kernels(kernels):
        trainer = a_trainer(tmp_path, "cuda")
        trainer.loss_fn = not_finite_at(1, 4)
        trainer.step()
        for name, array in a_trainer(tmp_path, "cpu").model.state_dict().items():
            np.testing.assert_array_equal(trainer.model.state_dict()[name].get(), array, err_msg=name)
        for _ in range(2):
            trainer.step()
        before = everything(trainer)
        cuda.reset()
        skipped = trainer.step()
        assert cuda.synchronisations == 0
        after = everything(trainer)
        assert before[1] == after[1] and set(after[1].values()) == {2}  # Adam's count of steps
        for name, array in before[0].items():
            np.testing.assert_array_equal(after[0][name], array, err_msg=name)
        assert not list(tmp_path.glob("nonfinite*"))  # not known yet
        trainer.read()
        assert skipped.skipped and trainer.skipped_in_a_row == 1 and trainer.count == 64
        assert {path.name for path in tmp_path.glob("nonfinite*")} == {f"nonfinite-step-{n}.npz" for n in (1, 4)}
        # From here on it is as on the CPU, where a step that is skipped is none at all.
        here = a_trainer(tmp_path, "cpu")
        here.loss_fn = not_finite_at(1, 4)
        for _ in range(4):
            here.step()
        for one in (trainer, here):
            one.step()
    for (name, there), array in zip(everything(trainer)[0].items(), everything(here)[0].values(), strict=True):
        np.testing.assert_allclose(there, array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_skipped_steps_are_reported_with_the_next_line(tmp_path, cuda, capsys):
    trainer = a_trainer(tmp_path, "cuda", log_interval=6)
    trainer.loss_fn = not_finite_at(3, 4)
    trainer.run()
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "skipped" in row]
    assert [(row["step"], row["skipped"], row["num_tokens"]) for row in rows] == [
        (1, False, 32), (3, True, 64), (4, True, 64), (6, False, 128), (12, False, 320)
    ]  # fmt: skip
    assert capsys.readouterr().out.count("not finite: skipped, its batch kept") == 2


def test_ten_skipped_steps_stop_the_run_at_the_next_line(tmp_path, cuda):
    trainer = a_trainer(tmp_path, "cuda", max_iters=100, log_interval=8, eval_interval=4)
    trainer.loss_fn = not_finite_at(*range(6, 200))
    with pytest.raises(FloatingPointError, match="11 steps in a row"):
        trainer.run()
    assert trainer.steps_done == 16 and load_checkpoint(tmp_path).state["step"] == 12
    assert len(list(tmp_path.glob("nonfinite-step-*.npz"))) == 11


def test_batches_that_nobody_has_looked_at_do_not_become_many(tmp_path, cuda, monkeypatch):
    monkeypatch.setattr(trainer_module, "MAX_UNREAD", 3)
    trainer = a_trainer(tmp_path, "cuda")
    cuda.reset()
    for _ in range(7):
        trainer.step()
    assert cuda.synchronisations == 2 and trainer.count == 6 * 32
    assert trainer.state_dict()["count"] == 7 * 32  # what is saved is up to date


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(tmp_path, cuda, first, then):
    trainer = a_trainer(tmp_path, first)
    for _ in range(5):
        trainer.step()
    trainer.save()
    assert json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf-8"))["state"]["count"] == 5 * 32
    resumed = a_trainer(tmp_path, then)
    checkpoint = load_checkpoint(tmp_path)
    resumed.model.load_state_dict(checkpoint.model.to(then).state_dict())
    warning = resumed.resume(checkpoint)
    assert (warning is None) == (first == then)
    whole = a_trainer(tmp_path / "whole", "cpu")
    for _ in range(5):
        resumed.step()
    for _ in range(10):
        whole.step()
    assert everything(resumed)[1] == everything(whole)[1]
    for (name, array), expected in zip(everything(resumed)[0].items(), everything(whole)[0].values(), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-5, err_msg=name)
