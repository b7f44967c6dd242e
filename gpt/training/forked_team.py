"""A core for each process: training on one machine in several processes that share the weights.

One process loads the data and the model. When training begins it is forked: each further process starts as a copy of
it. All go through the block `with team.at_work(...)`, on shares of each batch (data_parallel.py), and at its end only
process 0 goes on:

    process 0   load   fork   step   step   ...   step   show the results
    process 1          |______step   step   ...   step___|

Threads would also use all cores, but they wait for each other in every op, and Python runs one of them at a time.
Processes wait for each other before a step, to agree that there is one, and four times in it. Each parameter has an
*owner*. Say there are parameters a, b and c, of which process 0 owns a and b. Each process has half of the batch. Its
gradients are a0, b0 and c0 in process 0, and a1, b1 and c1 in process 1:

    process 0                                 process 1
    computes a0, b0, c0                       computes a1, b1, c1
    1. all tell how many items they had       (here each has half of the items)
    copies c0/2                               copies a1/2, b1/2       into memory that all see, and drops them
    2. all have copied
    a = a0/2 + a1/2, b = b0/2 + b1/2          c = c1/2 + c0/2         gradients of the whole batch
    3. all tell the norm of what they have, from which follows that of all
    updates a and b                           updates c               with moments that only the owner has
    4. all have updated

The weights lie in memory that all see, too. What a process does not own has no gradient by then, so clipping and
optimizer pass over it. (Rajbhandari et al. 2020, ZeRO, stage 1.) Copies are added in the order of ranks: every run
gives the same bits.

Memory: W bytes of weights are there once, and their moments, 2 W. N processes have gradients of their own, N W, and
copies for the others, (N - 1) W. Activations A are shared out with the batch. Together (2 N + 2) W + A; with threads,
4 W + A.

A process that dies ends the run: process 0 finds the end of its pipe, and ends the others. If process 0 dies, they find
the end of theirs when they next wait for it. Only process 0 writes files, so the last checkpoint stays.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from minigrad import Tensor, optim, switches
from minigrad.backend import Array, is_array, usable_cores
from minigrad.kernels.cpu import threads

from ..console import show, silenced
from ..memory_check import machine_memory, private_memory
from .data_parallel import ALONE, Team, check_batch
from .signals import ASKING_TO_STOP
from .sums import Sums

T = TypeVar("T")


class ForkedTeam(Team):
    """Several processes of this program. Outside the block `at_work` there is one, which has rank 0 inside.

    numbers: how many processes there may be, in ascending order. The largest that fits into half of the machine's
    memory is taken, or else the first.
    """

    # In the block, for each parameter, by its place among those of the optimizer:
    _parameters: list[Tensor]
    _owners: list[int]  # the rank of the process that updates it
    _copies: list[list[Array]]  # by rank: the gradient that this process has copied for the owner, in shared memory
    _moments: list[tuple[Array, Array]]  # room for its moments in shared memory, used when a checkpoint is saved

    def __init__(self, *numbers: int):
        self.numbers = numbers
        self._links: list[Any] = []  # pipes: of process 0 to each other one; of the others to process 0
        self._children: dict[int, int] = {}  # the process ids of the others, by rank; known to process 0
        self._cores = usable_cores()  # of this process
        self.more_memory = 0  # bytes that the others had for themselves at the end of the block

    # --- a step -------------------------------------------------------------------------------------------------------

    def add_gradients(self, parameters: Sequence[Tensor], sums: Sums, count: int) -> tuple[Sums, int]:
        # `parameters` are those of the optimizer; self._parameters has them in the optimizer's order.
        sums, total = self.add_up(sums, count)
        share = count / max(total, 1)
        # Copy the gradients of parameters that others own.
        copied = []
        for place, p in enumerate(self._parameters):
            if p.grad is None:  # these items do not depend on it
                continue
            if self._is_mine(place):
                p.grad *= share
            else:
                np.multiply(p.grad, share, out=self._copies[self.rank][place])
                copied.append(place)
                p.grad = None
        # When all have done so, add the copies that the others have made of one's own.
        for rank, places in enumerate(self.gather(copied)):
            for place in filter(self._is_mine, places):
                p, copy = self._parameters[place], self._copies[rank][place]
                if p.grad is None:
                    p.grad = copy  # until step 4, nobody overwrites it
                else:
                    p.grad += copy
        return sums, total

    def clip_grad_norm_(self, parameters: Sequence[Tensor], max_norm: float) -> Array:
        mine = optim.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = np.asarray(math.hypot(*self.gather(float(mine))))
        optim.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def wait(self) -> None:
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        if self.rank > 0:
            (link,) = self._links
            link.send(value)
            return link.recv()  # raises EOFError if process 0 has ended
        values: list[Any] = [value]
        for rank, link in enumerate(self._links, start=1):
            with self._noticing_the_end_of(rank):
                values.append(link.recv())
            if isinstance(values[rank], BaseException):  # with which the other has ended: see `_send_failure`
                raise values[rank]
        for rank, link in enumerate(self._links, start=1):
            with self._noticing_the_end_of(rank):
                link.send(values)
        return values

    def once(self, function: Callable[[], T]) -> T:
        """The result of `function()`, for which process 0 has all cores while the others wait."""
        if self.size == 1:
            return function()
        self.wait()
        result: Any = None
        if self.rank == 0:
            threads.use_workers(usable_cores())
            result = function()
            threads.use_workers(self._cores)
        return self.gather(result)[0]

    # --- memory that all see ------------------------------------------------------------------------------------------

    def _share_memory(self, optimizer: optim.Optimizer, size: int) -> None:
        """Move the parameters, and the moments that a resumed run has, into memory that forked processes will share."""
        self._owners = owners_of(optimizer.param_groups, size)
        arrays = [p.data for p in self._parameters]
        for p, shared in zip(self._parameters, shared_like(arrays), strict=True):
            shared[...] = p.data
            p.data = shared
        self._copies = [shared_like(arrays) for _ in range(size)]
        self._moments = list(zip(shared_like(arrays), shared_like(arrays), strict=True))
        self.share_state(optimizer)  # that of a resumed run; there is one process still, which has all of it

    def share_state(self, optimizer: optim.Optimizer) -> None:
        """Let process 0 see what the optimizer remembers: moments move into shared memory, and numbers are sent.

        Used before the fork, where a resumed run has moments, and for each checkpoint. Afterwards, owners update them
        in shared memory.
        """
        mine = {}
        for place, state in optimizer.state.items():
            if self._is_mine(place):
                names = [name for name, value in state.items() if is_array(value)]
                for name, shared in zip(names, self._moments[place]):
                    shared[...] = state[name]
                mine[place] = names, {name: value for name, value in state.items() if name not in names}
        # From now on the optimizer's arrays are those in shared memory, in all processes, and owners update them there.
        for theirs in self.gather(mine):  # before the fork `gather` returns [mine]
            for place, (names, others) in theirs.items():  # others: values that are not arrays, as Adam's step count
                optimizer.state[place] = {**others, **dict(zip(names, self._moments[place]))}

    def _is_mine(self, place: int) -> bool:
        """Whether this process updates the parameter in this place."""
        return self.size == 1 or self._owners[place] == self.rank

    # --- processes ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def at_work(self, optimizer: optim.Optimizer, batch_size: int) -> Iterator[None]:
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        size = self._number_that_fits()
        self._share_memory(optimizer, size)
        threads.end_threads()  # only a process without threads can be forked safely
        try:
            self._fork(size)
            # From here on there are several, each with its share of the cores.
            self._cores = max(1, usable_cores() // size)
            threads.use_workers(self._cores)
            # Team's block, inside this one, gives each process its rows of the dropout masks.
            with silenced() if self.rank > 0 else contextlib.nullcontext(), super().at_work(optimizer, batch_size):
                yield
                self.more_memory = sum(self.gather(private_memory())[1:])
        except BaseException as error:
            if self.rank > 0:
                self._send_failure(error)
            raise
        finally:
            # All but process 0 end here, whatever has happened.
            if self.rank > 0:
                os._exit(0)
            self._end_others()
            threads.use_workers(usable_cores())

    def _number_that_fits(self) -> int:
        weights = sum(p.data.nbytes for p in self._parameters)
        fitting = [n for n in self.numbers if (2 * n + 2) * weights <= machine_memory() / 2]
        return max([self.numbers[0], *fitting])

    def _fork(self, size: int) -> None:
        """Start the other processes."""
        import signal  # not at the top, because Python in a browser has neither
        from multiprocessing.connection import Pipe

        for rank in range(1, size):
            ours, theirs = Pipe()
            child = os.fork()
            if child == 0:
                # The fork has copied process 0's ends of all pipes. While they are open here, too, nobody would notice
                # the end of process 0.
                for link in (ours, *self._links):
                    link.close()
                self.rank = rank
                self._links = [theirs]
                self._children = {}
                for name in ASKING_TO_STOP:  # which may reach all; process 0 decides
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
                warnings.simplefilter("ignore")
                break
            theirs.close()
            self._links.append(ours)
            self._children[rank] = child
        self.size = size

    @contextlib.contextmanager
    def _noticing_the_end_of(self, rank: int) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            import signal

            child = self._children.pop(rank)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            words = f"process {child}, one of {self.size} that train together, has ended early ({how})"
            raise ChildProcessError(words) from None

    def _send_failure(self, error: BaseException) -> None:
        """Let process 0 raise this process's exception or, where it cannot be sent as it is, one with its words."""
        from multiprocessing.reduction import ForkingPickler

        sent: BaseException = RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(Exception):
            again = ForkingPickler.loads(ForkingPickler.dumps(error))
            if type(again) is type(error) and str(again) == str(error):
                sent = error
        sent.add_note("".join(traceback.format_exception(error)))  # shown if it is a bug
        with contextlib.suppress(OSError):
            self._links[0].send(sent)

    def _end_others(self) -> None:
        import signal

        self.size = 1
        for link in self._links:
            link.close()
        for child in self._children.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self._links = []
        self._children = {}


def shared_like(arrays: Sequence[Array]) -> list[Array]:
    """Arrays of these shapes in memory that forked processes share. What nobody writes to takes no room."""
    sizes = [math.ceil(array.nbytes / 64) * 64 for array in arrays]  # whole cache lines
    starts = itertools.accumulate(sizes, initial=0)
    memory = mmap.mmap(-1, max(sum(sizes), 1))  # without a file
    return [
        np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
        for array, start in zip(arrays, starts)
    ]


def owners_of(groups: Sequence[dict[str, Any]], processes: int) -> list[int]:
    """The rank of the owner of each parameter, so that all have about as much to update in each group.

    >>> from minigrad import nn
    >>> parameters = [nn.Parameter(np.zeros(n)) for n in (5, 4, 3, 3, 3)]
    >>> owners_of([{"params": parameters}], processes=2)
    [0, 1, 1, 0, 1]
    """
    owners: list[int] = []
    for parameters in (group["params"] for group in groups):
        work = [0] * processes
        owner = {}
        for i in sorted(range(len(parameters)), key=lambda i: -parameters[i].data.size):  # the largest first
            owner[i] = work.index(min(work))
            work[owner[i]] += parameters[i].data.size
        owners += [owner[i] for i in range(len(parameters))]
    return owners


# --- how many? --------------------------------------------------------------------------------------------------------


def team_of(wanted: int | None, batch_size: int, device: str) -> Team:
    """The team of so many processes. None: the largest number that divides the batch, of at most one for each core, and
    for which there is memory.

    Where there can be one process only, it is one, and if more are wanted, a line says why. Raises ValueError for more
    processes than items in a batch.
    """
    reason = _why_alone(device)
    if reason and wanted not in (None, 1):
        show(f"one process instead of {wanted}: {reason}")
    if reason or wanted == 1:
        return ALONE
    if wanted is None:
        return ForkedTeam(*(n for n in range(1, usable_cores() + 1) if batch_size % n == 0))
    check_batch(batch_size, wanted)
    return ForkedTeam(wanted)


def _why_alone(device: str) -> str | None:
    """Why there can be one process only, or None."""
    if not sys.platform.startswith("linux"):
        return "only on Linux can several be forked safely"
    if device != "cpu":
        return "a GPU is not shared"
    if not switches.kernels or sys.gettrace() is not None:
        return "textbook kernels and debuggers are for stepping through one"
    if threading.active_count() > 1 + len(threads.pool_threads):
        return "this one has threads, as in a notebook, and cannot be forked safely"
    return None
