"""The training loop: one step is what it should be, and a run that was stopped goes on as if it never had been."""

import contextlib
import copy
import dataclasses
import errno
import functools
import json
import math
import os
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from gpt import GPT, GPTConfig, Tokenizer, load_checkpoint, save_checkpoint
from gpt.console import progress_bar, quoted, show, silenced
from gpt.training.batches import RandomBatches, sequential_batches
from gpt.training.checkpoint import CheckpointError
from gpt.training.evaluation import mean_loss
from gpt.training.log import RunLog, read_log
from gpt.training.run import Run, resume, start
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step, training_steps
from minigrad import Tensor, backend, manual_seed, optim, use_kernels
from tests.gpt.small import SHAPE, assert_same, files_of, random_ids, small_gpt, weights_of
from tests.scripts.running import log_without_times

TEXT = np.arange(2000) * 5 % 37  # what follows is easy to learn


@dataclasses.dataclass(frozen=True)
class Settings:
    """A small run, the same each time."""

    out_dir: str
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    dropout: float = 0.0
    seed: int = 11


def settings(folder, dropout=0.0, **training):
    usual = {"max_iters": 12, "learning_rate": 1e-2, "warmup_iters": 3, "eval_interval": 4, "sample_interval": 3}
    return Settings(str(folder), TrainingConfig(**{**usual, "log_interval": 2, **training}), dropout)


def prepare(run, config, **shape):
    """The model, the optimizer and the schedule of a run."""
    make = lambda: (GPT(GPTConfig(**SHAPE, dropout=config.dropout, **shape)), Tokenizer.train(["ab"], 257))  # noqa: E731
    model, _ = run.model_from(make)
    return model, *run.prepare(model, config.training)


def train(run, config, loss_fn=language_model_loss, stop_at=10**9, validate=None, after_step=None):
    """The stage of these tests. loss_fn(run, model, batch): another loss; after_step(run): called after each step."""
    model, optimizer, schedule = prepare(run, config)
    run.extra["made by"] = "a test"
    usual = lambda: {"val_loss": mean_loss(model, sequential_batches(TEXT[:100], 4, 8))}  # noqa: E731
    stream = StopAt(RandomBatches(TEXT, 4, 8, seed=2), stop_at)
    model.train()
    with run:
        for batches in run.batches(stream, validate or usual):
            step = training_step(
                model, batches, partial(loss_fn, run) if loss_fn is not language_model_loss else loss_fn,
                optimizer, schedule, config.training.grad_clip, run.gradients,
            )  # fmt: skip
            run.record(step)
            if run.is_time_to_sample:
                model.generate([[1]], 3, seed=0)
            if after_step is not None:
                after_step(run)


def begin(folder, options=None, device="cpu", **changes):
    return start(partial(train, **(options or {})), settings(folder, **changes), device)


def go_on(folder, device="cpu", **options):
    """Go on as a new process does: other random numbers, a new model, the checkpoint."""
    manual_seed(99)
    return resume(partial(train, **options), Settings, str(folder), device)


class Stopped(BaseException):
    """The process ends here, without saving."""


class StopAt:
    """Batches that end the process before the `n`-th."""

    def __init__(self, batches, n):
        self.batches, self.left = batches, n
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __next__(self):
        self.left -= 1
        if self.left == 0:
            raise Stopped
        return next(self.batches)


def arrays_of(model, optimizer):
    """Copies of weights and moments, on the host."""
    moments = {
        f"moment {position} {name}": np.array(backend.to_numpy(value) if backend.is_array(value) else value)
        for position, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    return weights_of(model) | moments


def state_of(run):
    """Every other number that decides how training goes on."""
    state = run.state_dict()
    del state["seconds"], state["extra"]["run"]["out_dir"]
    return state


def assert_same_arrays(run, other, **limits):
    assert_same(arrays_of(run.model, run.optimizer), arrays_of(other.model, other.optimizer), **limits)


def assert_same_end(run, other):
    assert_same_arrays(run, other)
    assert state_of(run) == state_of(other)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, which tests read and do not change."""
    return begin(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copied(finished, tmp_path):
    """A folder with that run, to be changed."""
    return shutil.copytree(finished.out_dir, tmp_path / "copy")


# --- one step ---------------------------------------------------------------------------------------------------------


def steps_of(model, batches, loss_fn=language_model_loss, **training):
    return list(training_steps(model, iter(batches), loss_fn, TrainingConfig(**training)))


def test_it_learns(finished):
    losses = [row["val_loss"] for row in log_without_times(finished.out_dir) if "val_loss" in row]
    assert losses[0] == pytest.approx(math.log(37), abs=0.1) and losses == sorted(losses, reverse=True)
    assert finished.best_loss == losses[-1] < losses[0] - 0.1 and finished.count == 12 * 4 * 8


def test_a_step_is_forward_backward_clip_adamw():
    manual_seed(11)
    model = GPT(GPTConfig(**SHAPE))
    other = copy.deepcopy(model)
    config = TrainingConfig(max_iters=12, learning_rate=1e-2, warmup_iters=3)
    ours, schedule = prepare_training(model, config)
    optimizer = optim.AdamW(optim.decay_groups(other.named_parameters(), 0.1), betas=(0.9, 0.99))
    stream, batches = (RandomBatches(TEXT, 4, 8, seed=2) for _ in range(2))
    for n in range(1, 7):
        step = training_step(model, [next(stream)], language_model_loss, ours, schedule, max_norm=0.5)
        lr = 1e-2 * (n / 4 if n <= 3 else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (n - 4) / 9)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        ids, targets = next(batches)
        other.zero_grad()
        loss = other.loss(ids, targets)
        loss.backward()
        norm = math.sqrt(sum((p.grad.astype(np.float64) ** 2).sum() for p in other.parameters()))
        for p in other.parameters():
            p.grad *= np.float32(min(1, 0.5 / norm))
        optimizer.step()
        assert (step.loss, step.grad_norm, step.lr) == pytest.approx((loss.item(), norm, lr), rel=1e-5)
        assert (step.count, step.skipped, step.metrics) == (32, False, {})
    assert_same(model, other, rtol=1e-7, atol=1e-5)


def loss_and_accuracy(model, batch):
    loss, n, _ = language_model_loss(model, batch)
    ids, targets = batch
    return loss, n, {"accuracy": int((model(ids).data.argmax(-1) == targets).sum())}


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
def test_accumulated_batches_equal_one_large_batch(kernels):
    """Three batches in which different numbers of targets count, and one batch that is all of them."""
    ids, targets = random_ids((6, 8)), random_ids((6, 8), seed=1)
    targets[0, 1:], targets[2:4, 5:] = -100, -100
    parts = [(ids[i : i + 2], targets[i : i + 2]) for i in (0, 2, 4)]
    steps, weights = [], []
    for batches in (parts, [(ids, targets)]):
        model = small_gpt(dtype="float64")
        with use_kernels(kernels):
            steps += steps_of(
                model, batches, loss_and_accuracy, max_iters=1, gradient_accumulation_steps=len(batches), warmup_iters=0
            )
        weights.append(model.state_dict())
    assert steps[0].count == steps[1].count == 48 - 7 - 6
    assert steps[0].loss == pytest.approx(steps[1].loss, rel=1e-12)
    assert steps[0].grad_norm == pytest.approx(steps[1].grad_norm, rel=1e-12)
    assert steps[0].metrics == pytest.approx(steps[1].metrics)
    assert_same(*weights, atol=1e-9)


def test_a_step_without_a_target_that_counts_is_an_error():
    batch = (random_ids((2, 4)), np.full((2, 4), -100))
    for n in (1, 2):
        with pytest.raises(ValueError, match="this step has nothing to learn from"):
            steps_of(small_gpt(), [batch] * n, max_iters=1, gradient_accumulation_steps=n)
    batches = [batch, (random_ids((2, 4)), random_ids((2, 4)))]  # one that counts is enough
    (step,) = steps_of(small_gpt(), batches, max_iters=1, gradient_accumulation_steps=2)
    assert not step.skipped


def test_frozen_parameters_stay_and_are_in_no_optimizer():
    model = small_gpt()
    model.transformer.requires_grad_(False)
    model.transformer.h[1].requires_grad_(True)
    before = weights_of(model)
    steps_of(model, RandomBatches(TEXT, 4, 8), max_iters=1)
    for name, array in model.state_dict().items():
        assert (array != before[name]).any() == name.startswith("transformer.h.1."), name
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train: all parameters are frozen"):
        steps_of(model, RandomBatches(TEXT, 4, 8))


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
def test_bfloat16_trains_with_float32_weights(kernels):
    manual_seed(11)
    model, training = GPT(GPTConfig(**SHAPE)), {"max_iters": 40, "learning_rate": 2e-2, "warmup_iters": 3}
    with use_kernels(kernels):
        (exact,) = steps_of(copy.deepcopy(model), RandomBatches(TEXT, 4, 8, seed=2), max_iters=1)
        first, *_, last = steps_of(model, RandomBatches(TEXT, 4, 8, seed=2), precision="bfloat16", **training)
    assert last.loss < 2 < 3.5 < first.loss and 0 < abs(first.loss - exact.loss) < 0.02
    assert all(p.dtype == np.float32 for p in model.parameters())


# --- stopping and going on --------------------------------------------------------------------------------------------

HARD = {"dropout": 0.2, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """uninterrupted(kernels): a run with dropout and accumulation that was never stopped, and its log."""

    @functools.cache
    def uninterrupted(kernels):
        folder = tmp_path_factory.mktemp("uninterrupted")
        with use_kernels(kernels):
            return begin(folder, **HARD), log_without_times(folder)

    return uninterrupted


@pytest.mark.parametrize(
    ("kernels", "batches"),
    [("textbook", 1), ("textbook", 8), ("textbook", 9), ("fast", 10), ("textbook", 23)],
)
def test_a_killed_run_goes_on_bit_by_bit(tmp_path, uninterrupted, kernels, batches, capsys):
    """Killed in step (batches + 1) // 2: before, at and after evaluations, log lines, and inside an accumulation."""
    expected, log = uninterrupted(kernels)
    capsys.readouterr()
    with use_kernels(kernels):
        with pytest.raises(Stopped):
            begin(tmp_path, {"stop_at": batches}, **HARD)
        assert_same_end(go_on(tmp_path), expected)
    assert f"resuming {tmp_path} at step {(batches - 1) // 2 // 4 * 4}\n" in capsys.readouterr().out  # and no warning
    assert log_without_times(tmp_path) == log


def resaved(folder, change):
    """Change the state of the checkpoint in a folder."""
    checkpoint = load_checkpoint(folder)
    change(checkpoint.state)
    _, optimizer, _ = prepare(run := Run(settings(folder)), run.config)
    optimizer.load_state_dict(checkpoint.optimizer_state)
    save_checkpoint(folder, checkpoint.model, optimizer, checkpoint.state)


def test_a_run_saved_before_a_setting_existed_goes_on(tmp_path):
    with pytest.raises(Stopped):
        begin(tmp_path, {"stop_at": 6})

    def forget(state):
        del state["training"]["checkpoint_activations"], state["training"]["optimizer"]

    resaved(tmp_path, forget)
    assert go_on(tmp_path).steps_done == 12
    resaved(tmp_path, lambda state: state["training"].update(optimizer="muon"))
    with pytest.raises(CheckpointError, match="are those of another run"):
        go_on(tmp_path)
    resaved(tmp_path, lambda state: state.update(batches={"drawn": 7}))
    with pytest.raises(CheckpointError, match="drew its batches as older versions did; a new run can begin from"):
        go_on(tmp_path)


def test_a_run_with_muon_goes_on_bit_by_bit_and_its_state_is_checked(tmp_path):
    whole = begin(tmp_path / "whole", optimizer="muon")
    assert {id(p) for p in whole.optimizer.param_groups[0]["params"]} == {
        id(p) for name, p in whole.model.named_parameters() if ".h." in name and p.ndim == 2
    }
    with pytest.raises(Stopped):
        begin(tmp_path / "stopped", {"stop_at": 7}, optimizer="muon")
    assert_same_end(go_on(tmp_path / "stopped"), whole)
    checkpoint = load_checkpoint(tmp_path / "whole")
    checkpoint.optimizer_state["state"][0]["momentum_buffer"][0] = np.nan
    for optimizer, words in (("muon", "state 0.momentum_buffer is damaged"), ("adamw", "not of a run like this")):
        with pytest.raises(CheckpointError, match=words):
            restorer(tmp_path / "whole", optimizer=optimizer).restore(checkpoint)


@pytest.mark.parametrize(("kernels", "step"), [("textbook", 1), ("textbook", 4), ("fast", 11)])
def test_ctrl_c_saves_and_the_run_goes_on_bit_by_bit(tmp_path, uninterrupted, kernels, step):
    expected, log = uninterrupted(kernels)

    def loss_then_ctrl_c(run, model, batch):
        if run.steps_done == step - 1:
            with contextlib.suppress(KeyboardInterrupt):
                run.interrupted or signal.raise_signal(signal.SIGINT)
        return language_model_loss(model, batch)

    with use_kernels(kernels):
        stopped = begin(tmp_path, {"loss_fn": loss_then_ctrl_c}, **HARD)
        assert stopped.interrupted and stopped.steps_done == stopped.saved_step == step
        run = go_on(tmp_path)
        assert_same_end(run, expected)
    assert not run.interrupted
    assert log_without_times(tmp_path) == log


def test_a_run_that_died_before_its_first_checkpoint_starts_over_with_a_new_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0, "val_loss": 3}\n{"step": 1, "lo', encoding="utf-8")
    begin(tmp_path)
    assert [row["step"] for row in log_without_times(tmp_path)] == [0, 1, 2, 4, 4, 6, 8, 8, 10, 12, 12]


def go_on_to(length, folder, **options):
    manual_seed(99)
    return resume(partial(train, **options), Settings, str(folder), length=length)


def test_a_finished_run_is_trained_longer_on_the_schedule_of_the_new_length(copied, tmp_path, capsys):
    stopped = shutil.copytree(copied, tmp_path / "stopped")
    longer = go_on_to(20, copied)
    assert longer.steps_done == longer.config.training.max_iters == 20 and longer.resumed_at == 12

    rates = {row["step"]: row["learning_rate"] for row in read_log(copied / "log.jsonl") if "loss" in row}
    for length, steps in {12: (1, 6, 12), 20: (14, 18, 20)}.items():
        _, schedule = prepare_training(small_gpt(), settings(tmp_path, max_iters=length).training)
        assert all(rates[step] == 1e-2 * schedule.ratio(step - 1) for step in steps)
    note = (
        "this is not the run that was planned with max_iters 20 from the start: its learning rate has followed the "
        "schedule of 12; from step 12 on it follows that of 20"
    )
    assert f"resuming {copied} at step 12\n{note}\n" in capsys.readouterr().out

    # Stopped on the way, it goes on to its new end without being told again, and the same bits.
    with pytest.raises(Stopped):
        go_on_to(20, stopped, stop_at=7)
    assert load_checkpoint(stopped).state["step"] == 16
    assert_same_end(go_on(stopped), longer)
    assert capsys.readouterr().out.count("this is not the run that was planned") == 1
    assert log_without_times(stopped) == log_without_times(copied)


def test_a_run_is_not_ended_before_what_it_has_done(copied):
    before = files_of(copied)
    with pytest.raises(ValueError, match=f"max_iters 8 is less than the run in {copied} has done: 12$"):
        go_on_to(8, copied)
    go_on_to(12, copied)
    assert files_of(copied) == before


def test_an_interrupted_run_can_end_where_it_is(tmp_path):
    begin(tmp_path, {"after_step": lambda run: run.steps_done == 5 and signal.raise_signal(signal.SIGINT)})
    run = go_on_to(5, tmp_path)
    assert not run.interrupted and load_checkpoint(tmp_path).state["training"]["max_iters"] == 5
    assert read_log(tmp_path / "log.jsonl")[-1].keys() >= {"val_loss"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, Stopped])
def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing_but_what_was_there(tmp_path, error):
    def validate():
        assert (tmp_path / "new" / "log.jsonl").exists()
        raise error

    for new in (True, False):
        with pytest.raises(error):
            begin(tmp_path / "new", {"validate": validate})
        assert not (tmp_path / "new").exists() or not new
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "log.jsonl").write_text("", encoding="utf-8")  # of an earlier attempt
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["log.jsonl"]


def test_a_finished_run_goes_on_with_nothing(copied):
    before = files_of(copied)
    assert go_on(copied).steps_done == 12
    assert files_of(copied) == before


def test_a_second_ctrl_c_stops_at_once_and_the_handler_is_put_back(tmp_path):
    previous = signal.getsignal(signal.SIGINT)

    def ctrl_c_twice(run):
        if run.steps_done == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path, {"after_step": ctrl_c_twice})
    assert signal.getsignal(signal.SIGINT) is previous and not (tmp_path / ".lock").exists()
    assert load_checkpoint(tmp_path).state["step"] == 0


def test_ctrl_c_in_the_last_step_is_no_interruption(tmp_path):
    run = begin(tmp_path, {"after_step": lambda run: run.steps_done == 12 and signal.raise_signal(signal.SIGINT)})
    assert not run.interrupted and load_checkpoint(tmp_path).state["step"] == 12
    assert run.asked_to_stop  # for those who have more to run


def test_it_runs_in_a_thread_where_no_signal_can_be_caught(tmp_path):
    thread = threading.Thread(target=begin, args=[tmp_path])
    thread.start()
    thread.join()
    assert load_checkpoint(tmp_path).state["step"] == 12


@pytest.mark.parametrize(
    "watched",
    [
        {"log_interval": 100, "eval_interval": 0, "sample_interval": 0},
        {"log_interval": 1, "eval_interval": 1, "sample_interval": 1},
    ],
)
def test_watching_changes_nothing(tmp_path, watched):
    """Logging, evaluating and sampling touch neither the weights nor the random numbers."""
    one, other = begin(tmp_path / "one", dropout=0.2), begin(tmp_path / "two", dropout=0.2, **watched)
    assert_same_arrays(one, other)
    states = [state_of(run) for run in (one, other)]
    for state in states:
        del state["best_loss"], state["training"], state["extra"]["run"]["training"]
    assert states[0] == states[1]


@pytest.mark.cpu_only("the stand-in has the textbook's kernels whatever is chosen")
@pytest.mark.parametrize("changed", ["threads", "cores"])
def test_other_threads_go_on_with_a_warning(copied, monkeypatch, changed, capsys):
    function = {"threads": "blas_threads", "cores": "usable_cores"}[changed]
    now = getattr(backend, function)()
    monkeypatch.setattr(backend, function, lambda: now + 1)
    go_on(copied)
    output = capsys.readouterr().out
    assert f"{changed} {now} -> {now + 1}" in output and "up to rounding, but not bit for bit" in output
    monkeypatch.undo()
    go_on(copied)
    assert "changed since" not in capsys.readouterr().out
    with use_kernels("fast"):
        monkeypatch.setattr(backend, "blas_threads", lambda: 77)  # fast kernels set it from product to product
        go_on(copied)
    output = capsys.readouterr().out
    assert "kernels textbook -> " in output and "threads 1 ->" not in output and "-> 77" not in output


def restorer(folder, **training):
    """A run that is about to go on from a checkpoint."""
    run = Run(settings(folder, **training), is_new=False)
    prepare(run, run.config)
    run.stream = RandomBatches(TEXT, 4, 8, seed=2)
    return run


def test_what_cannot_be_resumed_is_refused(finished, copied):
    run = finished
    save_checkpoint(copied, run.model, None, run.state_dict())
    with pytest.raises(CheckpointError, match="holds weights only"):
        go_on(copied)
    save_checkpoint(copied, run.model, run.optimizer, {"extra": run.state_dict()["extra"], "step": 1})
    with pytest.raises(CheckpointError, match="not of a run like this"):
        go_on(copied)
    other = small_gpt(positions="sinusoidal")
    optimizer, _ = prepare_training(other, run.training)
    save_checkpoint(copied, run.model, optimizer, run.state_dict())
    with pytest.raises(CheckpointError, match="not of a run like this: the optimizer has groups of"):
        go_on(copied)


def places_of(value, path=()):
    """The path of each number, text and None in a checkpoint's state."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        return [path]
    return [place for key, part in parts for place in places_of(part, (*path, key))]


def forged(value, path, wrong):
    """A copy in which one place holds something else."""
    if not path:
        return wrong
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = forged(value[path[0]], path[1:], wrong)
    return copy


def test_a_state_whose_entries_have_another_form_is_refused(finished):
    good = load_checkpoint(finished.out_dir)
    state = {name: value for name, value in good.state.items() if name not in ("extra", "arithmetic")}
    run = restorer(finished.out_dir)
    for path in places_of(state):
        kind = type(functools.reduce(lambda part, key: part[key], path, state))
        for wrong in (-1, -(2**70), math.nan, math.inf, "7", [], {}, [1], None, True):
            fits = {float: (-1, -(2**70)), str: ("7",)}.get(kind, ())  # such as a smaller loss, or another precision
            if wrong in fits or (path == ("best_loss",) and wrong is None):
                continue
            with pytest.raises(CheckpointError):
                run.restore(dataclasses.replace(good, state=forged(good.state, path, wrong)))
    run.restore(good)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("exp_avg", lambda array: array.astype(np.float64), r"the optimizer's state 3.exp_avg is damaged"),
        ("exp_avg", lambda array: array.astype(np.int32), "exp_avg is damaged"),
        ("exp_avg", lambda array: array[None], "exp_avg is damaged"),
        ("exp_avg", lambda array: array * np.nan, "exp_avg is damaged"),
        ("exp_avg_sq", lambda array: array + np.inf, "exp_avg_sq is damaged"),
        ("exp_avg_sq", lambda array: array - 1, "state 3 cannot be that of step 12"),
        ("step", float, "step is damaged: 12.0"),
        ("step", lambda step: step + 1, "state 3 cannot be that of step 12"),
        ("step", lambda step: -step, "step is damaged: -12"),
        ("step", lambda step: np.array(step), "step is damaged"),
    ],
)
def test_moments_of_another_form_are_refused(finished, name, change, words):
    checkpoint = load_checkpoint(finished.out_dir)
    moments = checkpoint.optimizer_state["state"][3]
    moments[name] = change(moments[name])
    with pytest.raises(CheckpointError, match=words):
        restorer(finished.out_dir).restore(checkpoint)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def not_finite_at(*batches, where="loss"):
    """A loss function that is not finite, or whose gradient is not, at these batches."""
    count = iter(range(1, 10**9))

    def loss_fn(run, model, batch):
        loss, n, metrics = language_model_loss(model, batch)
        if next(count) in batches:
            number = model.lm_head.weight[0, 0]
            loss = loss * math.nan if where == "loss" else loss + (number - number.item()) ** 0.5  # infinite slope at 0
        return loss, n, metrics

    return loss_fn


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_reported_and_its_batch_kept(tmp_path, where, capsys):
    found = []

    def look(run):
        found.append((arrays_of(run.model, run.optimizer), run.stream.state_dict(), run.skipped_in_a_row, run.count))

    options = {"loss_fn": not_finite_at(9, where=where), "after_step": look}
    begin(tmp_path, options, log_interval=100, gradient_accumulation_steps=2, max_iters=6)
    before, after = found[3], found[4]
    assert_same(after[0], before[0])
    assert [row[2:] for row in found] == [(0, 64), (0, 128), (0, 192), (0, 256), (1, 256), (0, 320)]
    row = next(row for row in read_log(tmp_path / "log.jsonl") if row["step"] == 5)
    assert row["skipped"] and (row["loss"] is not None) == (where == "gradient")
    assert "NaN" not in (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    line = next(line for line in capsys.readouterr().out.splitlines() if "5/6" in line)
    assert ("loss     nan" in line) == (where == "loss") and "not finite: skipped, its batch kept" in line
    with np.load(tmp_path / "nonfinite-step-5.npz", allow_pickle=False) as kept:
        kept = dict(kept)
    stream = RandomBatches(TEXT, 4, 8)
    stream.load_state_dict(before[1])
    for i in range(2):
        for j, part in enumerate(next(stream)):
            np.testing.assert_array_equal(kept[f"batch_{i}_{j}"], part)
    assert len(kept) == 4


def test_ten_skipped_steps_in_a_row_stop_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    with pytest.raises(FloatingPointError, match="10 steps in a row .* learning rate of 0.01 is too high") as caught:
        begin(tmp_path, {"loss_fn": not_finite_at(*range(7, 100))}, max_iters=40)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.glob("nonfinite-*")} == {f"nonfinite-step-{n}.npz" for n in range(7, 17)}
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.state["step"] == 12 and checkpoint.state["skipped_in_a_row"] == 6
    assert all(np.isfinite(array).all() for array in checkpoint.model.state_dict().values())
    with pytest.raises(FloatingPointError, match="10 steps in a row"):  # the six from before count
        go_on(tmp_path, loss_fn=not_finite_at(1, 2, 3, 4))


def test_damaged_weights_never_replace_a_good_checkpoint(tmp_path):
    def damage(run):
        if run.steps_done == 6:
            run.parameters[-1].data[0] = math.inf

    with pytest.raises(FloatingPointError, match="a weight is no longer finite"):
        begin(tmp_path, {"after_step": damage, "validate": lambda: {"val_loss": 1.0}})
    assert load_checkpoint(tmp_path).state["step"] == 4
    assert all(np.isfinite(array).all() for array in load_checkpoint(tmp_path).model.state_dict().values())


def test_ctrl_c_after_a_skipped_step_saves_nothing_that_may_be_damaged(tmp_path):
    def ctrl_c(run):
        if run.steps_done == 7:
            signal.raise_signal(signal.SIGINT)

    run = begin(tmp_path, {"loss_fn": not_finite_at(7), "after_step": ctrl_c}, sample_interval=0)
    assert run.interrupted and run.steps_done == 7
    assert run.saved_step == load_checkpoint(tmp_path).state["step"] == 4


def test_a_run_whose_last_step_is_skipped_is_saved_also_without_a_validation_loss(tmp_path):
    run = begin(tmp_path, {"loss_fn": not_finite_at(12), "validate": lambda: {"right": 0.5}}, eval_interval=8)
    assert run.skipped_in_a_row == 1 and run.saved_step == load_checkpoint(tmp_path).state["step"] == 12


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    losses = iter([3.0, 2.0, math.nan])
    with pytest.raises(FloatingPointError, match="validation loss is not finite: .* last good checkpoint, of step 4"):
        begin(tmp_path, {"validate": lambda: {"val_loss": next(losses)}})
    assert load_checkpoint(tmp_path).state["step"] == 4


def test_a_full_disk_names_the_log(tmp_path):
    with mock.patch("gpt.training.log.open", create=True) as opened:
        opened.return_value.__exit__.side_effect = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(OSError, match="No space left on device") as caught:
            begin(tmp_path)
    assert caught.value.filename == str(tmp_path / "log.jsonl")


# --- other kinds of training ------------------------------------------------------------------------------------------


class Endless:
    """The same batch for ever."""

    def __init__(self, batch):
        self.batch = batch

    def __next__(self):
        return self.batch

    def state_dict(self):
        return {}


@dataclasses.dataclass
class Example:
    ids: list
    label: int


def test_batches_may_be_anything_that_the_loss_function_takes(tmp_path, capsys):
    """As classification or preferences have them: dictionaries, dataclasses, ragged lists, texts."""
    batch = {"pairs": [Example([1, 2, 3], 0), Example([4, 5], 1)], "texts": ["a", "b"], "ids": Tensor(np.arange(3))}
    batch["none"] = None

    def loss_fn(model, batch):
        assert batch["texts"] == ["a", "b"]
        loss = model.loss(batch["ids"], batch["ids"], reduction="sum")
        return loss * math.nan, 2, {"accuracy": 1.0, "rewards/margins": 3.0}

    def stage(run, config):
        model, optimizer, schedule = prepare(run, config)
        run.explain_columns("  loss  of both replies", unit="pairs")
        with run:
            for batches in run.batches(Endless(batch)):
                run.record(training_step(model, batches, loss_fn, optimizer, schedule))

    start(stage, settings(tmp_path, max_iters=2), batch["ids"].device)
    row = read_log(tmp_path / "log.jsonl")[0]
    assert row["accuracy"] == 0.5 and row["rewards/margins"] == 1.5 and row["num_pairs"] == 0
    output = capsys.readouterr().out
    assert "pairs/s | accuracy 0.5000 | rewards/margins 1.5000" in output
    assert "What the columns mean:\n  loss  of both replies\n" in output.partition("1/2 | loss")[0]
    with np.load(tmp_path / "nonfinite-step-1.npz", allow_pickle=False) as kept:
        kept = {name: array.tolist() for name, array in kept.items()}
    assert kept == {
        "batch_0_pairs_0_ids": [1, 2, 3],
        "batch_0_pairs_0_label": 0,
        "batch_0_pairs_1_ids": [4, 5],
        "batch_0_pairs_1_label": 1,
        "batch_0_texts_0": "a",
        "batch_0_texts_1": "b",
        "batch_0_ids": [0, 1, 2],
        "batch_0_none": "None",
    }


def test_what_was_measured_before_is_kept_and_has_to_be_json(finished, tmp_path):
    extra = load_checkpoint(finished.out_dir).state["extra"]
    assert extra["made by"] == "a test" and extra["run"]["dropout"] == 0.0
    with pytest.raises(TypeError, match="not JSON serializable"):
        Run(settings(tmp_path)).keep("x", object)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_has_the_names_of_the_field(finished):
    rows = read_log(finished.out_dir / "log.jsonl")
    assert set(rows[1]) == {
        "step", "loss", "learning_rate", "grad_norm", "ms", "tokens_per_second", "num_tokens", "skipped"
    }  # fmt: skip
    assert rows[0].keys() == {"step", "val_loss"} and rows[1]["num_tokens"] == 32


def test_a_damaged_log_is_read_as_far_as_it_goes_and_rewound(tmp_path):
    good = [{"step": n, "loss": 1.0} for n in range(5)]
    lines = [json.dumps(row) for row in good]
    junk = ["[1]", "17", '"step"', '{"loss": 2}', '{"step": "x"}', "\ufffd", ""]
    text = "\n".join([*lines[:3], *junk, *lines[3:], '{"step": 5, "lo'])
    (tmp_path / "log.jsonl").write_bytes(text.encode("utf-8") + b"\xff")
    assert read_log(tmp_path / "log.jsonl") == good
    RunLog(tmp_path).rewind(2)
    assert read_log(tmp_path / "log.jsonl") == good[:3]
    assert read_log(tmp_path / "nowhere.jsonl") == []


def test_a_path_is_quoted_as_the_shell_wants_it(monkeypatch):
    plain, spaced = Path("runs/demo"), Path("my runs/demo")
    assert (quoted(plain), quoted(spaced)) == ("runs/demo", "'my runs/demo'")
    monkeypatch.setattr(os, "name", "nt")
    assert (quoted(plain), quoted(spaced)) == ("runs/demo", '"my runs/demo"')


def test_the_console_can_be_silenced(capsys):
    with silenced():
        show("nobody hears this")
        with progress_bar(2, "nor sees this") as bar:
            bar.update(2)
    show("heard")
    assert capsys.readouterr() == ("heard\n", "")
