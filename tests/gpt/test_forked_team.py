"""Forked processes that share memory train as one does, end together, and leave a checkpoint and nobody behind."""

import contextlib
import errno
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from gpt import load_checkpoint
from gpt.training import forked_team, run
from gpt.training.checkpoint import load_state
from gpt.training.data_parallel import ALONE
from gpt.training.forked_team import ForkedTeam, team_of
from gpt.training.pretraining import PretrainingConfig, pretrain, train_language_model
from gpt.training.run import resume
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import accumulated_gradients, training_step
from minigrad import nn
from scripts import train
from tests.gpt.small import assert_same, weights_of
from tests.gpt.test_data_parallel import assert_same_up_to_rounding, numbers, options, script
from tests.scripts.running import ROOT, assert_same_run, environment, log_without_times, refusal, run_here, write_text

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are only forked on Linux"),
    pytest.mark.usefixtures("no_pictures", "no_hang_and_nobody_left"),
]
SECONDS = 60  # after which a test hangs


def children(of=None):
    """The processes that a process has started, by default this one, and that still exist."""
    of = of or os.getpid()
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{of}/task/{of}/children").read_text(encoding="utf-8").split()]
    return []


@pytest.fixture
def no_hang_and_nobody_left():
    def too_late(number, frame):
        raise TimeoutError("the processes wait for each other")

    before, old = children(), signal.signal(signal.SIGALRM, too_late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    assert set(children()) <= set(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", 900)


def config(text, folder, shape=(), architecture="gpt", **changes):
    """Batches of five sequences, of which the shares differ."""
    steps = {"max_iters": 6, "gradient_accumulation_steps": 2, "warmup_iters": 2, "learning_rate": 0.01}
    training = TrainingConfig(**{**steps, "grad_clip": 0.5, "eval_interval": 2, "log_interval": 1, **changes})
    model = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, **dict(shape)}
    names = {"vocab_size": 257, "batch_size": 5, "architecture": architecture}
    return PretrainingConfig(data=text, out_dir=str(folder), model=model, training=training, **names)


# --- as one process with the whole batch ------------------------------------------------------------------------------

DROPOUT = {"dropout": 0.2}


@pytest.mark.parametrize(
    ("processes", "kernels", "changes"),
    [
        (2, "textbook", {"shape": DROPOUT}),
        (3, "fast", {"shape": DROPOUT, "optimizer": "muon"}),
        (2, "fast", {"architecture": "llama", "checkpoint_activations": True, "grad_clip": 0.0}),
        (2, "fast", {"precision": "bfloat16"}),
    ],
)
def test_several_are_one_with_the_whole_batch(text, tmp_path, processes, kernels, changes):
    """And the same number of processes is the same bit for bit."""
    mg.use_kernels(kernels)
    for name, n in (("one", 1), ("several", processes), ("again", processes)):
        pretrain(config(text, tmp_path / name, **changes), team=ForkedTeam(n) if n > 1 else ALONE)
    rounding = 1e-2 if "precision" in changes else 1e-4
    assert_same_up_to_rounding(tmp_path / "several", tmp_path / "one", rounding)
    assert_same_run(tmp_path / "several", tmp_path / "again")
    first = log_without_times(tmp_path / "one")[0]
    assert first["bits_per_byte"] == pytest.approx(first["val_loss"] / math.log(2))  # each token is a byte


def accident(monkeypatch, team, rank, at, what):
    """Let `what()` happen in a process of a team before step `at`. rank: None for all of them."""
    steps = itertools.count(1)

    def step(*arguments, **options):
        if next(steps) == at and rank in (team.rank, None):
            what()
        return training_step(*arguments, **options)

    monkeypatch.setattr(run, "training_step", step)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


# Ctrl-C reaches process 0, or as in a terminal, all of them.
@pytest.mark.parametrize(("rank", "kernels"), [(0, "textbook"), (None, "fast")])
def test_interrupted_and_resumed_it_is_the_same_run(text, tmp_path, monkeypatch, capsys, rank, kernels):
    mg.use_kernels(kernels)
    monkeypatch.setattr(forked_team, "_why_alone", lambda device: None)  # the tests' own threads do no harm
    pretrain(config(text, tmp_path / "whole", DROPOUT), team=ForkedTeam(2))
    folder = tmp_path / "run"
    team = ForkedTeam(2)
    with monkeypatch.context() as patch:
        accident(patch, team, rank, at=3, what=ctrl_c)
        assert pretrain(config(text, folder, DROPOUT), team=team).interrupted
    assert load_state(folder)["step"] == 3 and load_state(folder)["processes"] == 2
    arguments = ["--init-from", "resume", "--out-dir", folder, "--kernels", kernels, "--device", "cpu"]
    assert run_here(train.main, *arguments) == 0
    assert "processes 2" not in capsys.readouterr().out
    assert_same_run(folder, tmp_path / "whole")
    assert run_here(train.main, *arguments, "--max-iters", 8, "--processes", 3) == 0
    assert load_state(folder)["processes"] == 3


class Toy(nn.Module):
    """y = a x, and b x or nothing; c is never used."""

    def __init__(self):
        super().__init__()
        for name in "abc":
            setattr(self, name, nn.Parameter(np.ones((4, 3), np.float32)))


@pytest.mark.parametrize("uses", [((1,), (0,)), ((0,), (1,))])
def test_a_gradient_may_come_from_one_process_or_from_none(uses):
    """uses: how often b is used, by process and batch."""

    def loss(model, batch):
        x, uses_b = batch
        return sum(((model.b * (x + i)).sum() for i in range(uses_b)), start=(model.a * x).sum()), 1, {}

    def trained(batches, team):
        model = Toy()
        optimizer = mg.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        how = optimizer, mg.optim.WarmupCosine(optimizer, 0, 3), 0.5, accumulated_gradients, team
        with team.at_work(optimizer, batch_size=2):
            if team.rank == 1:  # slow, but nobody reads what it owns before it has updated it
                optimizer.step = lambda step=optimizer.step: (time.sleep(0.05), step())
            for _ in range(3):
                training_step(model, batches(team.rank), loss, *how)
                seen = team.gather(model.b.data.copy())
                assert all((array == seen[0]).all() for array in seen)
            held = team.gather(list(optimizer.state))
        assert held == ([[0], [1]] if len(held) > 1 else [[0, 1]])  # the moments of its own in each process
        return weights_of(model)

    shares = [[(np.float32(rank + i + 1), use) for i, use in enumerate(each)] for rank, each in enumerate(uses)]
    found, again = (trained(lambda rank: shares[rank], ForkedTeam(2)) for _ in range(2))
    assert_same(found, again)
    assert_same(found, trained(lambda rank: sum(shares, []), ALONE), rtol=1e-5)
    assert (found["c"] == 1).all() and (found["b"] != 1).all()


# --- accidents --------------------------------------------------------------------------------------------------------


class Odd(Exception):
    """Is another one when it is made again from what was sent."""

    def __init__(self, what):
        super().__init__(f"{what} is odd")


def exception():
    raise ValueError("the data are not to my taste")


def odd_exception():
    raise Odd("this")


class Unpickled(ValueError):
    """Cannot be sent at all."""

    def __reduce__(self):
        raise TypeError("no")


def unpickled_exception():
    raise Unpickled("this stays here")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("rank", "what", "error", "words"),
    [
        (0, exception, ValueError, "not to my taste"),
        (1, exception, ValueError, "not to my taste"),
        (1, odd_exception, RuntimeError, "Odd: this is odd$"),
        (2, unpickled_exception, RuntimeError, "Unpickled: this stays here"),
        (2, kill, ChildProcessError, r"process \d+, one of 3 that train together, has .* \(SIGKILL\); .*, of step 2"),
        (1, lambda: os._exit(0), ChildProcessError, r"ended early \(exit code 0\)"),
        (0, lambda: (ctrl_c(), ctrl_c()), KeyboardInterrupt, None),
        (0, lambda: setattr(run, "save_checkpoint", full_disk), OSError, "No space left"),
    ],
)
def test_an_accident_in_one_ends_all_and_leaves_a_checkpoint(text, tmp_path, monkeypatch, rank, what, error, words):
    mg.use_kernels("fast")
    folder = tmp_path / "run"
    team = ForkedTeam(3)
    with monkeypatch.context() as patch, pytest.raises(error, match=words):
        patch.setattr(run, "save_checkpoint", run.save_checkpoint)  # put back afterwards
        accident(patch, team, rank, at=4, what=what)
        pretrain(config(text, folder), team=team)
    assert load_checkpoint(folder).state["step"] == 2 and team.size == 1
    resume(train_language_model, PretrainingConfig, str(folder), team=ForkedTeam(3))
    pretrain(config(text, tmp_path / "whole"), team=ForkedTeam(3))
    assert_same_run(folder, tmp_path / "whole")


def test_where_nothing_is_saved_no_checkpoint_is_promised(text, tmp_path, monkeypatch):
    team = ForkedTeam(2)
    monkeypatch.setattr(run.Run, "goes_on", lambda run: kill() if run.team.rank else run.team.wait())
    with pytest.raises(ChildProcessError, match=r"\(SIGKILL\); nothing is saved yet: start the run again"):
        pretrain(config(text, tmp_path / "run"), team=team)


def test_a_signal_to_another_than_process_0_changes_nothing(text, tmp_path, monkeypatch):
    def signals():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.raise_signal(getattr(signal, name))

    team = ForkedTeam(2)
    accident(monkeypatch, team, rank=1, at=3, what=signals)
    assert not pretrain(config(text, tmp_path / "run"), team=team).interrupted
    assert load_state(tmp_path / "run")["step"] == 6


@contextlib.contextmanager
def running(arguments, accident=None):
    """scripts/train.py as a process that leads a group of its own, when it has three processes and has taken steps."""
    command = [*script(accident), "--processes", "3", *arguments]
    pipe = subprocess.PIPE
    how = {"stdout": pipe, "stderr": pipe, "encoding": "utf-8", "start_new_session": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), **how) as process:
        for line in process.stdout:
            if "| loss" in line and " 3/" in line:
                break
        yield process
        process.kill()


def exist(processes):
    return [each for each in processes if Path(f"/proc/{each}/exe").exists()]  # not of one that is only not reaped


@pytest.mark.parametrize("name", ["SIGKILL", "SIGHUP", "SIGINT"])
def test_a_signal_to_process_0_ends_all(text, tmp_path, name):
    folder = tmp_path / "run"
    number = getattr(signal, name)
    with running(options(text, folder, max_iters=100_000)) as process:
        others = children(process.pid)
        assert len(others) == 2
        if number == signal.SIGINT:  # as from a terminal
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, error = process.communicate(timeout=120)
        until = time.monotonic() + 60
        while exist(others) and time.monotonic() < until:
            time.sleep(0.02)
        assert not exist(others) and error == ""
    assert process.returncode == (-number if name == "SIGKILL" else 128 + number)
    assert load_checkpoint(folder).state["step"] >= 2
    if name != "SIGKILL":
        assert "to resume:\n  python scripts/train.py --init-from resume --out-dir" in out


def test_what_is_not_finite_in_one_is_skipped_by_all(text, tmp_path):
    with running(options(text, tmp_path / "run"), "nan:4") as process:
        assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    rows = [row for row in log_without_times(tmp_path / "run") if "skipped" in row]
    assert [row["step"] for row in rows if row["skipped"]] == [4] and rows[-1]["num_tokens"] == 5 * 5 * 2 * 16
    assert all(np.isfinite(array).all() for array in numbers(tmp_path / "run").values())


def test_too_small_a_batch_is_refused_and_leaves_nothing(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forked_team, "_why_alone", lambda device: None)
    words = refusal(train.main, capsys, *options(text, tmp_path / "run", batch_size=1), "--processes", 2)
    assert "a batch of 1 cannot be shared by 2 processes: take a --batch-size of at least 2" in words
    assert not (tmp_path / "run").exists()


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores and 64 GB, without other threads."""
    monkeypatch.setattr(forked_team, "usable_cores", lambda: 8)
    monkeypatch.setattr(forked_team, "machine_memory", lambda: 64 * 10**9)
    monkeypatch.setattr(threading, "active_count", lambda: 1 + len(forked_team.threads.pool_threads))
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    mg.use_kernels("fast")
    return monkeypatch


def test_the_number_follows_from_cores_and_batch(machine, capsys):
    most = [max(team_of(None, batch_size, "cpu").numbers) for batch_size in (1, 5, 7, 12, 16, 22)]
    assert most == [1, 5, 7, 6, 8, 2]
    assert team_of(4, 12, "cpu").numbers == (4,)
    assert team_of(1, 12, "cpu") is ALONE and capsys.readouterr().out == ""


def test_process_0_has_all_cores_while_the_others_wait(monkeypatch):
    def cores():
        return forked_team.threads._workers

    mg.use_kernels("fast")
    monkeypatch.setattr(forked_team, "usable_cores", lambda: 4)
    team = ForkedTeam(2)
    with team.at_work(mg.optim.AdamW(Toy().parameters()), batch_size=2):
        found = team.gather(cores()), team.once(cores), team.gather(cores())
    assert found == ([2, 2], 4, [2, 2]) and cores() == 4
    monkeypatch.undo()
    forked_team.threads.use_workers(forked_team.usable_cores())


@pytest.mark.parametrize(("numbers", "memory", "size"), [((1, 2, 3, 5), 2304, 3), ((1, 2), 100, 1), ((2,), 100, 2)])
def test_it_follows_from_memory_where_it_may(monkeypatch, numbers, memory, size):
    """Toy has 144 bytes of weights: 8 times as many for three processes, in half of the memory."""
    monkeypatch.setattr(forked_team, "machine_memory", lambda: memory)
    team = ForkedTeam(*numbers)
    with team.at_work(mg.optim.AdamW(Toy().parameters()), batch_size=6):
        found = team.size
    assert found == size


@pytest.mark.parametrize(
    ("device", "name", "value", "words"),
    [
        *[("cpu", "sys.platform", name, "only on Linux") for name in ("darwin", "win32", "emscripten")],
        ("cuda", "sys.platform", "linux", "a GPU is not shared"),
        ("cpu", "sys.gettrace", lambda: print, "debuggers are for stepping"),
        ("cpu", "minigrad.switches.kernels", {}, "textbook kernels and debuggers"),
        ("cpu", "threading.active_count", lambda: 9, "has threads, as in a notebook"),
    ],
)
def test_where_it_cannot_be_there_is_one_and_a_line(machine, capsys, device, name, value, words):
    machine.setattr(name, value)
    assert team_of(None, 12, device) is team_of(1, 12, device) is ALONE and capsys.readouterr().out == ""
    assert team_of(3, 12, device) is ALONE
    out = capsys.readouterr().out
    assert out.startswith("one process instead of 3: ") and words in out and out.count("\n") == 1
