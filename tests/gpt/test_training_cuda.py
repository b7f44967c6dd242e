"""The training loop on a GPU, as far as can be seen without one: a step waits for it once, to read its numbers."""

import math

import numpy as np
import pytest

from gpt import GPT, GPTConfig, load_checkpoint
from gpt.training.batches import RandomBatches
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step, training_steps
from minigrad import manual_seed, use_kernels
from tests.gpt.small import SHAPE, assert_same
from tests.gpt.test_training import TEXT, arrays_of, assert_same_arrays, begin, ctrl_c_at, go_on

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NaN, where the stand-in meets it
on_kernels = pytest.mark.parametrize("kernels", ["textbook", pytest.param("fast", marks=pytest.mark.emulation)])


def new_model(device):
    manual_seed(11)
    return GPT(GPTConfig(**{**SHAPE, "n_layer": 1})).to(device)


def not_finite_at(*steps):
    """A loss function whose gradient, and in the first of the steps the loss too, is not finite there."""
    count = iter(range(1, 10**9))

    def loss_fn(*arguments):
        loss, n, metrics = language_model_loss(*arguments[-2:])
        step = next(count)
        if step in steps:
            loss = loss * (math.nan if step == steps[0] else math.inf)
        return loss, n, metrics

    return loss_fn


@on_kernels
@pytest.mark.parametrize(("precision", "accumulated"), [("float32", 2), ("bfloat16", 1)])
def test_a_step_reads_its_numbers_once(cuda, kernels, precision, accumulated):
    config = TrainingConfig(
        max_iters=3, learning_rate=1e-2, warmup_iters=3, precision=precision, gradient_accumulation_steps=accumulated
    )
    found = {}
    for device in ("cpu", "cuda"):
        with use_kernels(kernels):
            steps = training_steps(new_model(device), RandomBatches(TEXT, 4, 8, seed=2), language_model_loss, config)
            for number in range(2):
                cuda.reset()
                step = next(steps)
                assert (cuda.synchronisations, cuda.to_host) == ((0, 0) if device == "cpu" else (1, 1))
                found[device, number] = step.loss, step.grad_norm
    for number in range(2):
        rtol = 1e-4 if precision == "float32" else 2e-2
        np.testing.assert_allclose(found["cuda", number], found["cpu", number], rtol=rtol)


@on_kernels
def test_a_step_that_is_not_finite_changes_nothing_on_the_device(cuda, kernels):
    ends = {}
    for device in ("cpu", "cuda"):
        with use_kernels(kernels):
            model, loss_fn = new_model(device), not_finite_at(1, 3)
            optimizer, schedule = prepare_training(model, TrainingConfig(max_iters=12, learning_rate=1e-2))
            stream = RandomBatches(TEXT, 4, 8, seed=2)
            skipped = []
            for number in range(1, 5):
                before = arrays_of(model, optimizer)
                skipped.append(training_step(model, [next(stream)], loss_fn, optimizer, schedule, 1.0).skipped)
                after = arrays_of(model, optimizer)
                if number in (1, 3):
                    assert_same(after, before)  # Adam's count of steps, too
        assert skipped == [True, False, True, False]
        ends[device] = after
    assert_same(ends["cuda"], ends["cpu"], rtol=1e-3, atol=1e-5)


# --- a run ------------------------------------------------------------------------------------------------------------


QUIET = {"eval_interval": 0, "sample_interval": 0}


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(tmp_path, cuda, first, then, capsys):
    begin(tmp_path / "run", {"after_step": ctrl_c_at(5)}, first, **QUIET)
    assert load_checkpoint(tmp_path / "run").state["count"] == 5 * 32
    capsys.readouterr()
    resumed = go_on(tmp_path / "run", then)
    assert ("changed since" not in capsys.readouterr().out) == (first == then)
    whole = begin(tmp_path / "whole", **QUIET)
    assert_same_arrays(resumed, whole, rtol=1e-3, atol=1e-5)
    assert resumed.count == whole.count
