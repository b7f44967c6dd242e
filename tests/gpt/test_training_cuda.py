"""The training loop on a GPU, as far as can be seen without one: a step waits for it once, to read its numbers."""

import dataclasses
import math

import numpy as np
import pytest

from gpt import GPT, GPTConfig, Tokenizer, load_checkpoint
from gpt.training.batches import RandomBatches
from gpt.training.log import read_log
from gpt.training.run import resume, start
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step, training_steps
from minigrad import backend, manual_seed, use_kernels
from tests.gpt.small import SHAPE

TEXT = np.arange(2000) * 5 % 37
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NaN, where the stand-in meets it
on_kernels = pytest.mark.parametrize("kernels", ["textbook", pytest.param("fast", marks=pytest.mark.emulation)])


def new_model(device):
    manual_seed(11)
    return GPT(GPTConfig(**SHAPE)).to(device)


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


def everything(model, optimizer):
    """Weights and moments on the host, and the optimizer's numbers."""
    arrays = {name: np.array(backend.to_numpy(array)) for name, array in model.state_dict().items()}
    numbers = {}
    for position, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if backend.is_array(value):
                arrays[f"{position}.{name}"] = np.array(backend.to_numpy(value))
            else:
                numbers[f"{position}.{name}"] = value
    return arrays, numbers


@on_kernels
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_reads_its_numbers_once(cuda, kernels, precision, accumulated):
    config = TrainingConfig(
        max_iters=3, learning_rate=1e-2, warmup_iters=3, precision=precision, gradient_accumulation_steps=accumulated
    )
    found = {}
    for device in ("cpu", "cuda"):
        with use_kernels(kernels):
            steps = training_steps(new_model(device), RandomBatches(TEXT, 4, 8, seed=2), language_model_loss, config)
            for number in range(3):
                cuda.reset()
                step = next(steps)
                assert (cuda.synchronisations, cuda.to_host) == ((0, 0) if device == "cpu" else (1, 1))
                found[device, number] = step.loss, step.grad_norm
    for number in range(3):
        rtol = 1e-4 if precision == "float32" else 2e-2
        np.testing.assert_allclose(found["cuda", number], found["cpu", number], rtol=rtol)


@on_kernels
def test_a_step_that_is_not_finite_changes_nothing_on_the_device(cuda, kernels):
    ends = {}
    for device in ("cpu", "cuda"):
        with use_kernels(kernels):
            model, loss_fn = new_model(device), not_finite_at(1, 4)
            optimizer, schedule = prepare_training(model, TrainingConfig(max_iters=12, learning_rate=1e-2))
            stream = RandomBatches(TEXT, 4, 8, seed=2)
            skipped = []
            for number in range(1, 6):
                before = everything(model, optimizer)
                skipped.append(training_step(model, [next(stream)], loss_fn, optimizer, schedule, 1.0).skipped)
                after = everything(model, optimizer)
                if number in (1, 4):
                    assert before[1] == after[1] and set(after[1].values()) <= {2}  # Adam's count of steps
                    for name, array in before[0].items():
                        np.testing.assert_array_equal(after[0][name], array, err_msg=name)
        assert skipped == [True, False, False, True, False]
        ends[device] = after[0]
    for name, array in ends["cpu"].items():
        np.testing.assert_allclose(ends["cuda"][name], array, rtol=1e-3, atol=1e-5, err_msg=name)


# --- a run ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    out_dir: str
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    seed: int = 1


def stage(run, config, loss_fn=language_model_loss, end=10**9):
    model, _ = run.model_from(lambda: (new_model("cpu"), Tokenizer.train(["ab"], 257)))
    optimizer, schedule = run.prepare(model, config.training)
    with run:
        for batches in run.batches(RandomBatches(TEXT, 4, 8, seed=2)):
            run.record(training_step(model, batches, loss_fn, optimizer, schedule, 1.0, run.gradients))
            if run.steps_done == end:
                run.interrupted = True


def settings(folder, **training):
    usual = {"max_iters": 12, "learning_rate": 1e-2, "warmup_iters": 3}
    return Settings(str(folder), TrainingConfig(**{**usual, **training}))


def test_skipped_steps_are_logged_at_once(tmp_path, cuda, capsys):
    start(lambda run, config: stage(run, config, not_finite_at(3, 4)), settings(tmp_path, log_interval=6), "cuda")
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "skipped" in row]
    assert [(row["step"], row["skipped"], row["num_tokens"]) for row in rows] == [
        (1, False, 32), (3, True, 64), (4, True, 64), (6, False, 128), (12, False, 320)
    ]  # fmt: skip
    assert capsys.readouterr().out.count("not finite: skipped, its batch kept") == 2
    assert {path.name for path in tmp_path.glob("nonfinite*")} == {f"nonfinite-step-{n}.npz" for n in (3, 4)}


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(tmp_path, cuda, first, then, capsys):
    start(lambda run, config: stage(run, config, end=5), settings(tmp_path / "run"), first)
    assert load_checkpoint(tmp_path / "run").state["count"] == 5 * 32
    capsys.readouterr()
    resumed = resume(stage, Settings, str(tmp_path / "run"), then)
    assert ("changed since" not in capsys.readouterr().out) == (first == then)
    whole = start(stage, settings(tmp_path / "whole"), "cpu")
    ours, expected = (everything(run.model, run.optimizer) for run in (resumed, whole))
    assert ours[1] == expected[1] and resumed.count == whole.count
    for name, array in expected[0].items():
        np.testing.assert_allclose(ours[0][name], array, rtol=1e-3, atol=1e-5, err_msg=name)
