"""The training loop: one step is what it should be, and a run that was stopped goes on as if it never had been."""

import contextlib
import copy
import dataclasses
import errno
import functools
import itertools
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from gpt import GPT, GPTConfig, Tokenizer, load_checkpoint
from gpt.console import progress_bar, quoted, show, silenced
from gpt.files import write_text
from gpt.training import run as run_page
from gpt.training.batches import RandomBatches, sequential_batches
from gpt.training.checkpoint import CheckpointError, load_state
from gpt.training.evaluation import mean_loss
from gpt.training.log import RunLog, read_log
from gpt.training.run import resume, start
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import one_step, train, train_textbook
from gpt.training.training_step import gradients_for, language_model_loss, training_step
from minigrad import backend, manual_seed, optim, use_kernels
from tests.gpt.small import SHAPE, assert_same, files_of, random_ids, small_gpt, weights_of
from tests.scripts.running import assert_same_run, forge, log_without_times

TEXT = np.arange(2000) * 5 % 37  # what follows is easy to learn


@dataclasses.dataclass(frozen=True)
class Settings:
    """A small run, the same each time."""

    out_dir: str
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    dropout: float = 0.0
    seed: int = 11
    batch_size: int = 4


def settings(folder, dropout=0.0, **training):
    usual = {"max_iters": 12, "learning_rate": 1e-2, "warmup_iters": 3, "eval_interval": 4, "sample_interval": 3}
    return Settings(str(folder), TrainingConfig(**{**usual, "log_interval": 2, **training}), dropout)


def train_model(run, config, loss_fn=language_model_loss, stop_at=10**9, validate=None, after_step=None):
    """The stage of these tests. loss_fn(run, model, batch): another loss; after_step(run): called after each step."""
    if run.is_new:
        run.begin(GPT(GPTConfig(**SHAPE, dropout=config.dropout)), Tokenizer.train(["ab"], 257))
    else:
        run.load()
    model = run.model
    run.validated = []
    loss_fn = loss_fn if loss_fn is language_model_loss else partial(loss_fn, run)
    measure = validate or (lambda: {"val_loss": mean_loss(model, sequential_batches(TEXT[:100], 4, 8))})

    def noted():
        run.validated.append(run.state.step)
        return measure()

    run.prepare(model, config.training)
    record = run.record
    run.record = lambda *step: [record(*step), after_step and after_step(run)]
    model.train()
    batches = StopAt(RandomBatches(TEXT, 4, 8, seed=2), stop_at)
    train(run, batches, one_step(run, loss_fn), noted, lambda: model.generate([[1]], 3, seed=0))


def begin(folder, options=None, device="cpu", **changes):
    return start(partial(train_model, **(options or {})), settings(folder, **changes), device)


def go_on(folder, device="cpu", length=None, **options):
    """Go on as a new process does: other random numbers, a new model, the checkpoint."""
    manual_seed(99)
    return resume(partial(train_model, **options), Settings, str(folder), device, length=length)


def ctrl_c_at(*steps):
    """For `after_step`: Ctrl-C once after each of these steps."""
    return lambda run: [signal.raise_signal(signal.SIGINT) for step in steps if step == run.state.step]


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


def assert_same_arrays(run, other, **limits):
    assert_same(arrays_of(run.model, run.optimizer), arrays_of(other.model, other.optimizer), **limits)


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
    config = TrainingConfig(**training)
    batches = iter(batches)
    steps = []
    prepared = prepare_training(model, config)  # optimizer, schedule
    for _ in range(config.max_iters):
        drawn = [next(batches) for _ in range(config.gradient_accumulation_steps)]
        steps.append(training_step(model, drawn, loss_fn, *prepared, config.grad_clip, gradients_for(config)))
    return steps


def test_it_learns(finished):
    losses = [row["val_loss"] for row in log_without_times(finished.out_dir) if "val_loss" in row]
    assert losses[0] == pytest.approx(math.log(37), abs=0.1) and losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1 and finished.state.count == 12 * 4 * 8
    first, second, *_ = read_log(finished.out_dir / "log.jsonl")
    assert first.keys() == {"step", "val_loss"} and second["num_tokens"] == 32
    names = "step loss learning_rate grad_norm ms tokens_per_second num_tokens skipped"
    assert second.keys() == set(names.split())


def test_a_step_is_forward_backward_clip_adamw():
    manual_seed(11)
    model = GPT(GPTConfig(**SHAPE))
    other = copy.deepcopy(model)
    ours, schedule = prepare_training(model, TrainingConfig(max_iters=12, learning_rate=1e-2, warmup_iters=3))
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
            options = {"max_iters": 1, "gradient_accumulation_steps": len(batches), "warmup_iters": 0}
            steps += steps_of(model, batches, loss_and_accuracy, **options)
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


# --- stopping and going on --------------------------------------------------------------------------------------------

HARD = {"dropout": 0.2, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """uninterrupted(kernels, optimizer): a run with dropout and accumulation that was never stopped."""

    @functools.cache
    def uninterrupted(kernels, optimizer):
        with use_kernels(kernels):
            return begin(tmp_path_factory.mktemp("uninterrupted"), optimizer=optimizer, **HARD)

    return uninterrupted


@pytest.mark.parametrize(
    ("kernels", "optimizer", "stop", "saved", "left"),
    [
        # Killed in a step: before, at and after evaluations, log lines, and inside an accumulation.
        ("textbook", "adamw", {"stop_at": 3}, 0, [4, 8, 12]),
        ("textbook", "adamw", {"stop_at": 9}, 4, [8, 12]),
        ("fast", "muon", {"stop_at": 11}, 4, [8, 12]),
        ("textbook", "adamw", {"stop_at": 23}, 8, [12]),
        # Ctrl-C in a step, after which it saves. What is due after that step is validated when the run goes on.
        ("textbook", "adamw", {"after_step": ctrl_c_at(1)}, 1, [4, 8, 12]),
        ("textbook", "muon", {"after_step": ctrl_c_at(4)}, 4, [4, 8, 12]),
        ("fast", "adamw", {"after_step": ctrl_c_at(11)}, 11, [12]),
    ],
)
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path, uninterrupted, kernels, optimizer, stop, saved, left, capsys):
    """Nothing is validated or logged twice."""
    expected = uninterrupted(kernels, optimizer)
    with use_kernels(kernels):
        with contextlib.suppress(Stopped):
            run = begin(tmp_path, stop, optimizer=optimizer, **HARD)
            assert run.interrupted and run.saved_step == saved
        capsys.readouterr()
        run = go_on(tmp_path)
    assert_same_run(tmp_path, expected.out_dir)
    assert capsys.readouterr().out.startswith(f"resuming {tmp_path} at step {saved}\n")  # no warning
    assert run.validated == left and not run.interrupted


def test_a_run_leaves_the_weights_of_the_textbook_loop(finished):
    manual_seed(finished.config.seed)
    model, batches = GPT(GPTConfig(**SHAPE)), RandomBatches(TEXT, 4, 8, seed=2)
    prepared = prepare_training(model, finished.training)
    losses = train_textbook(model, batches, language_model_loss, *prepared, steps=12)
    assert_same(model, finished.model)
    rows = [row for row in read_log(finished.log.path) if "loss" in row]
    assert [row["loss"] for row in rows] == pytest.approx([losses[row["step"] - 1] for row in rows])


def test_muon_has_the_matrices_of_the_blocks():
    optimizer, _ = prepare_training(model := small_gpt(), TrainingConfig(optimizer="muon"))
    matrices = {id(p) for name, p in model.named_parameters() if ".h." in name and p.ndim == 2}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == matrices


def test_a_run_without_a_checkpoint_starts_over_with_a_new_log(tmp_path):
    write_text(tmp_path / "log.jsonl", '{"step": 0, "val_loss": 3}\n{"step": 1, "lo')
    write_text(tmp_path / ".lock", "")
    begin(tmp_path)
    assert [row["step"] for row in log_without_times(tmp_path)] == [0, 1, 2, 4, 4, 6, 8, 8, 10, 12, 12]


def test_a_finished_run_is_trained_longer_on_a_longer_schedule(copied, tmp_path, capsys):
    stopped = shutil.copytree(copied, tmp_path / "stopped")
    longer = go_on(copied, length=20)
    assert longer.state.step == longer.config.training.max_iters == 20 and longer.resumed_at == 12

    rates = {row["step"]: row["learning_rate"] for row in read_log(copied / "log.jsonl") if "loss" in row}
    for length, steps in {12: (1, 6, 12), 20: (14, 18, 20)}.items():
        _, schedule = prepare_training(small_gpt(), settings(tmp_path, max_iters=length).training)
        assert all(rates[step] == 1e-2 * schedule.ratio(step - 1) for step in steps)
    assert "has followed the schedule of 12; from step 12 on it follows that of 20" in capsys.readouterr().out

    # Stopped on the way, it goes on to its new end without being told again, and the same bits.
    with pytest.raises(Stopped):
        go_on(stopped, length=20, stop_at=7)
    assert load_state(stopped)["step"] == 16
    go_on(stopped)
    assert_same_run(stopped, copied)
    assert capsys.readouterr().out.count("this is not the run that was planned") == 1


def test_a_finished_run_goes_on_with_nothing_and_ends_no_earlier(copied):
    before = files_of(copied)
    with pytest.raises(ValueError, match=f"max_iters 8 is less than the run in {copied} has done: 12$"):
        go_on(copied, length=8)
    for length in (None, 12):
        run = go_on(copied, length=length)
        assert run.state.step == 12 and run.validated == [] and files_of(copied) == before


@pytest.mark.parametrize(("stop", "step"), [({"after_step": ctrl_c_at(5)}, 5), ({"stop_at": 9}, 8)])
def test_an_interrupted_run_can_end_where_it_is(tmp_path, stop, step):
    with contextlib.suppress(Stopped):
        begin(tmp_path, stop)
    run = go_on(tmp_path, length=step)
    assert not run.interrupted and load_state(tmp_path)["planned_steps"] == step
    assert run.validated == [step] and read_log(tmp_path / "log.jsonl")[-1].keys() == {"step", "val_loss"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, Stopped])
def test_a_run_without_a_checkpoint_starts_again(tmp_path, finished, error):
    """Nothing is left of what it has written: another tokenizer, other data. Before `begin`, it writes nothing."""

    def fail(run, config):
        run.begin(small_gpt(), Tokenizer.train(["abc"], 258))
        write_text(run.out_dir / "data" / "other.bin", "")
        raise error

    with pytest.raises(TypeError):
        start(lambda run, config: len(5), settings(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(error):
        start(fail, settings(tmp_path / "new"))
    begin(tmp_path / "new")
    assert_same_run(tmp_path / "new", finished.out_dir)
    assert files_of(tmp_path / "new").keys() == files_of(finished.out_dir).keys()


def test_a_second_ctrl_c_stops_at_once_and_puts_the_handler_back(tmp_path):
    previous = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path, {"after_step": ctrl_c_at(3, 3)})
    assert signal.getsignal(signal.SIGINT) is previous
    assert load_state(tmp_path)["step"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has Ctrl-C only")
def test_one_event_may_send_its_signal_twice(tmp_path):
    """As `timeout` does."""
    run = begin(tmp_path, {"after_step": lambda run: [signal.raise_signal(signal.SIGTERM) for _ in range(2)]})
    assert run.interrupted and run.saved_step == 1


def test_ctrl_c_in_the_last_step_is_no_interruption(tmp_path):
    run = begin(tmp_path, {"after_step": ctrl_c_at(12)})
    assert not run.interrupted and run.validated[-1] == load_state(tmp_path)["step"] == 12
    assert run.asked_to_stop  # for those who have more to run


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with SIGHUP
    try:
        run = begin(tmp_path, {"after_step": lambda run: signal.raise_signal(signal.SIGTERM)})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run.is_finished and not run.asked_to_stop


def test_a_checkpoint_is_also_saved_when_the_last_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr(run_page, "SAVE_SECONDS", -1)
    with pytest.raises(Stopped):
        begin(tmp_path, {"stop_at": 4})
    assert load_state(tmp_path)["step"] == 3


def test_a_folder_that_is_moved_ends_the_run(tmp_path):
    def move(run):
        if run.state.step == 5:
            run.out_dir.rename(tmp_path / "elsewhere")

    with pytest.raises(FileNotFoundError, match="run was moved or deleted while the run was training"):
        begin(tmp_path / "run", {"after_step": move})
    assert not (tmp_path / "run").exists() and load_state(tmp_path / "elsewhere")["step"] == 4


def test_it_runs_in_a_thread_where_no_signal_can_be_caught(tmp_path):
    thread = threading.Thread(target=begin, args=[tmp_path])
    thread.start()
    thread.join()
    assert load_state(tmp_path)["step"] == 12


def test_each_slow_step_has_a_line(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(perf_counter=itertools.count(step=6).__next__, monotonic=time.monotonic)
    monkeypatch.setattr(run_page, "time", clock)  # each step takes six seconds
    begin(tmp_path, log_interval=100, max_iters=12)
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl") if "ms" in row] == [*range(1, 13)]
    assert capsys.readouterr().out.count("10 more steps like this one take about 1 min") == 1


def test_watching_changes_nothing(tmp_path):
    """Logging, evaluating and sampling touch neither the weights nor the random numbers."""
    names = ("log_interval", "eval_interval", "sample_interval")
    never, always = dict(zip(names, (100, 0, 0))), dict.fromkeys(names, 1)
    one, other = begin(tmp_path / "one", dropout=0.2, **never), begin(tmp_path / "two", dropout=0.2, **always)
    assert_same_arrays(one, other)
    states = [load_state(run.out_dir) for run in (one, other)]
    assert all(states[0][name] == states[1][name] for name in ("random", "batches", "schedule", "count"))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("optimizer", None, "is not of a run like this: there is no 'state'"),
        ("optimizer state", {}, "cannot be loaded: there is no '0'"),
        ("optimizer state 0", [], "cannot be loaded: "),
        ("optimizer state 0 step", "many", "for parameter 0, the saved state is not that of the optimizer adamw"),
        ("optimizer state 3", {"step": 5, "exp": 1}, "for parameter 3, the saved state is not that of"),
        ("state schedule", {}, "is not of a run like this: there is no 'peaks'"),
        ("state step", "many", "is not of a run: step must be an integer >= 0, got 'many'"),
        ("state step", 13, "is not of a run: it is at step 13 of 12"),
        ("state random", [1], "is not of a run: random must be an object"),
        ("state random", {"seed": 1}, "is not of a run like this: there is no 'streams_used'"),
        ("state batches", {"drawn": 7}, "is not of a run like this: "),
        ("state settings", {"sparkles": 1}, "is of another version: unknown setting sparkles"),
        ("state settings training optimizer", "muon", "is not of a run like this: a saved exp_avg has"),
        ("state settings training log_interval", 0, "is of another version: log_interval must be"),
        ("state stage", "dpo", "is of the stage 'dpo', and one of pretraining"),
        ("state", {}, "holds a model and no run: give the folder of a run"),
        ("files", None, "cannot be loaded: "),
        ("inputs", {"data/train.bin": 5}, "cannot be loaded: "),
    ],
)
def test_what_cannot_be_resumed_is_refused(copied, path, value, words):
    forge(copied, path.split(), value)
    with pytest.raises(CheckpointError, match=words) as caught:
        go_on(copied)
    assert str(copied) in str(caught.value) and "\n" not in str(caught.value)


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
def test_a_step_that_is_not_finite_is_skipped(tmp_path, where, capsys):
    found = []

    def look(run):
        found.append((arrays_of(run.model, run.optimizer), run.state.skipped_in_a_row, run.state.count))

    options = {"loss_fn": not_finite_at(9, where=where), "after_step": look}
    begin(tmp_path, options, log_interval=100, gradient_accumulation_steps=2, max_iters=6)
    assert_same(found[4][0], found[3][0])
    assert [row[1:] for row in found] == [(0, 64), (0, 128), (0, 192), (0, 256), (1, 256), (0, 320)]
    row = next(row for row in read_log(tmp_path / "log.jsonl") if row["step"] == 5)
    assert row["skipped"] and (row["loss"] is not None) == (where == "gradient")
    assert "NaN" not in (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    line = next(line for line in capsys.readouterr().out.splitlines() if "5/6" in line)
    assert ("loss     nan" in line) == (where == "loss") and "not finite: skipped" in line


def test_ten_skipped_steps_end_a_run_and_leave_a_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="10 steps in a row .* learning rate of 0.01 is too high") as caught:
        begin(tmp_path, {"loss_fn": not_finite_at(*range(7, 100))}, max_iters=40)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl") if row.get("skipped")] == list(range(7, 17))
    assert load_state(tmp_path)["step"] == 4  # neither at step 8 nor at 12


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_weights_never_replace_a_good_checkpoint(tmp_path):
    def damage(run):
        if run.state.step == 8:
            run.parameters[-1].data[0] = math.inf

    with pytest.raises(FloatingPointError, match="a weight is no longer finite"):
        begin(tmp_path, {"after_step": damage, "validate": lambda: {"val_loss": 1.0}})
    assert load_state(tmp_path)["step"] == 4 and load_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("skipped", "stop", "saved"), [(7, ctrl_c_at(7), 4), (12, None, 12)])
def test_after_a_skipped_step_only_the_end_is_saved(tmp_path, skipped, stop, saved):
    """Its weights may be damaged, as no validation has seen them; at the end there is nothing better."""
    options = {"loss_fn": not_finite_at(skipped), "after_step": stop, "validate": lambda: {"right": 0.5}}
    run = begin(tmp_path, options, sample_interval=0)
    assert run.interrupted == (skipped == 7) and run.state.step == skipped and run.state.skipped_in_a_row == 1
    assert run.saved_step == load_state(tmp_path)["step"] == saved


def test_a_full_disk_names_the_log(tmp_path):
    with mock.patch("gpt.training.log.open", create=True) as opened:
        opened.return_value.__exit__.side_effect = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(OSError, match="No space left on device") as caught:
            begin(tmp_path)
    assert caught.value.filename == str(tmp_path / "log.jsonl")


# --- the log, and the screen ------------------------------------------------------------------------------------------


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


def test_lines_and_progress_can_be_silent(monkeypatch, capfd):
    for _ in range(2):
        with silenced():
            show("nobody hears this")
        with progress_bar(2, "nor sees this") as bar:
            bar.update(2)
        show("heard")
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert capfd.readouterr() == ("heard\nheard\n", "")
