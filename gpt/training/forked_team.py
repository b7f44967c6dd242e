"""A core for each process: training on one machine in several processes that share the weights.

The problem: one process hardly uses several cores, because Python runs one of its threads at a time, and threads wait
for each other in every op. The idea: each process learns from a part of the batch, and updates a part of the weights,
which lie in memory that all processes see.

One process loads the data and the model. When training begins it is *forked*: each further process starts as a copy of
it. All of them go through the block `with team.at_work(...)`, and at its end only process 0 goes on:

    process 0   load   fork   step   step   ...   step   show the results
    process 1          |______step   step   ...   step___|

*A step.* Each parameter has an *owner*, the process that updates it. Say there are parameters a, b and c, of which
process 0 owns a and b, and process 1 owns c. Each process has half of the batch. Its gradients are a0, b0 and c0 in
process 0, and a1, b1 and c1 in process 1:

    process 0                                 process 1
    computes a0, b0, c0                       computes a1, b1, c1
    1. all tell how many items they had       (here each has half of the items)
    copies c0/2 for process 1                 copies a1/2, b1/2 for process 0       into memory that all see
    2. all wait until the copies are there
    a = a0/2 + a1/2, b = b0/2 + b1/2          c = c1/2 + c0/2                       gradients of the whole batch
    3. all tell the norm of what they have    (the norm of all gradients follows: clipping needs it)
    updates a and b                           updates c
    4. all wait until the weights are updated

At each number, process 0 receives a value from each other process, and sends all values to all (`gather`). After the
copies, a process has no gradient for what it does not own, so clipping and optimizer pass over it. Only the owner has
the optimizer's moments of a parameter. (Rajbhandari et al. 2020, ZeRO, stage 1.) Copies are added in the order of
ranks: every run gives the same bits.

*Memory*: W bytes of weights are there once, and their moments, 2 W. N processes have gradients of their own, N W, and
copies for the others, (N - 1) W. Activations A are shared out with the batch. Together (2 N + 2) W + A; one process
with threads needs 4 W + A.

*The end.* A process that dies ends the run: process 0 finds the end of its pipe, and ends the others. If process 0
dies, they find the end of theirs when they next wait for it. Only process 0 writes files, so the last checkpoint stays.
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

    Team (data_parallel.py) says what a team can do. Here are the methods that share memory and send messages.

    numbers: how many processes there may be, in ascending order. The largest that fits into half of the machine's
    memory is taken, or else the first.
    """

    # In the block, lists with an entry for each of the optimizer's parameters, whose index is called its place:
    _parameters: list[Tensor]
    _owners: list[int]  # the rank of the process that updates it
    _copies: list[list[Array]]  # by rank and place: room in shared memory for the gradients that a process copies
    _moments: list[tuple[Array, Array]]  # room for its moments in shared memory, used when a checkpoint is saved

    def __init__(self, *numbers: int):
        self.numbers = numbers
        self._links: list[Any] = []  # pipes: process 0 has one to each other process, and these have one to process 0
        self._children: dict[int, int] = {}  # in process 0: the process ids of the others, by rank
        self._cores = usable_cores()  # how many this process uses
        self.more_memory = 0  # bytes that the others had for themselves at the end of the block

    # --- the block: share the weights, fork, train, end ---------------------------------------------------------------

    @contextlib.contextmanager
    def at_work(self, optimizer: optim.Optimizer, batch_size: int) -> Iterator[None]:
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        size = self._number_that_fits()
        self._share_memory(optimizer, size)
        threads.end_threads()  # only a process without threads can be forked safely
        try:
            self._fork(size)
            # From here on there are several processes, each with its share of the cores.
            self._cores = max(1, usable_cores() // size)
            threads.use_workers(self._cores)
            # Only process 0 prints. Team's own block gives each process its rows of the dropout masks.
            output = silenced() if self.rank > 0 else contextlib.nullcontext()
            with output, super().at_work(optimizer, batch_size):
                yield
                self.more_memory = sum(self.gather(private_memory())[1:])
        except BaseException as error:
            if self.rank > 0:
                self._send_failure(error)
            raise
        finally:
            # All processes but process 0 end here, whatever has happened.
            if self.rank > 0:
                os._exit(0)
            self._end_others()
            threads.use_workers(usable_cores())

    def _number_that_fits(self) -> int:
        weights = sum(p.data.nbytes for p in self._parameters)
        fitting = [n for n in self.numbers if (2 * n + 2) * weights <= machine_memory() / 2]
        return max([self.numbers[0], *fitting])

    def _share_memory(self, optimizer: optim.Optimizer, size: int) -> None:
        """Move the parameters, and the moments that a resumed run has, into memory that forked processes will share."""
        self._owners = owners_of(optimizer.param_groups, size)
        arrays = [p.data for p in self._parameters]
        for p, shared in zip(self._parameters, shared_like(arrays), strict=True):
            shared[...] = p.data
            p.data = shared
        self._copies = [shared_like(arrays) for _ in range(size)]
        self._moments = list(zip(shared_like(arrays), shared_like(arrays), strict=True))
        self.share_state(optimizer)  # of a resumed run; there still is only one process, which has all of it

    def _fork(self, size: int) -> None:
        """Start the other processes."""
        import signal  # not at the top, because Python in a browser has neither
        from multiprocessing.connection import Pipe

        for rank in range(1, size):
            ours, theirs = Pipe()
            child = os.fork()
            if child == 0:
                # This is the new process. The fork has copied process 0's ends of all pipes. They are closed here:
                # otherwise nobody would notice the end of process 0.
                for link in (ours, *self._links):
                    link.close()
                self.rank = rank
                self._links = [theirs]
                self._children = {}
                for name in ASKING_TO_STOP:  # signals that may reach all processes; process 0 decides
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
                warnings.simplefilter("ignore")
                break
            theirs.close()
            self._links.append(ours)
            self._children[rank] = child
        self.size = size

    # --- a step -------------------------------------------------------------------------------------------------------

    def add_gradients(self, parameters: Sequence[Tensor], sums: Sums, count: int) -> tuple[Sums, int]:
        # 1. How many items have all? (`parameters` are also self._parameters, there in the order of their places.)
        sums, total = self.add_up(sums, count)
        share = count / max(total, 1)
        # Copy the gradients of parameters that others own, and drop them here.
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
        # 2. Wait for the copies; then add those that the others have made for this process to its own gradients.
        for rank, places in enumerate(self.gather(copied)):
            for place in filter(self._is_mine, places):
                p, copy = self._parameters[place], self._copies[rank][place]
                if p.grad is None:
                    p.grad = copy  # the other's room itself: it writes there again in its next step, after 4
                else:
                    p.grad += copy
        return sums, total

    def clip_grad_norm_(self, parameters: Sequence[Tensor], max_norm: float) -> Array:
        mine = optim.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # 3. The norm of all gradients: the square root of the sum of the squares of the processes' norms.
        norm = np.asarray(math.hypot(*self.gather(float(mine))))
        optim.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def wait(self) -> None:
        self.gather(None)  # 4.

    def _is_mine(self, place: int) -> bool:
        """Whether this process updates the parameter in this place."""
        return self.size == 1 or self._owners[place] == self.rank

    # --- what all processes do together -------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        if self.rank > 0:
            (link,) = self._links
            link.send(value)
            return link.recv()  # the values of all; raises EOFError if process 0 has ended
        # Process 0 receives the value of each other process, and then sends all values to each.
        values: list[Any] = [value]
        for rank, link in enumerate(self._links, start=1):
            with self._noticing_the_end_of(rank):
                values.append(link.recv())
            if isinstance(values[rank], BaseException):  # the exception that has ended it: see `_send_failure`
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
        return self.gather(result)[0]  # all get what process 0 computed; the others sent None

    # --- a checkpoint: process 0 saves what all remember --------------------------------------------------------------

    def share_state(self, optimizer: optim.Optimizer) -> None:
        """Let process 0 see what the optimizer remembers: moments move into shared memory, and numbers are sent.

        Called for each checkpoint, and before the fork, because a resumed run has moments.
        """
        mine = {}
        for place, state in optimizer.state.items():
            if self._is_mine(place):
                arrays = [name for name, value in state.items() if is_array(value)]  # Adam's two moments
                for name, shared in zip(arrays, self._moments[place]):
                    shared[...] = state[name]
                numbers = {name: value for name, value in state.items() if name not in arrays}  # Adam's step count
                mine[place] = arrays, numbers
        # From now on the optimizer's arrays are those in shared memory, in all processes, and owners update them there.
        for theirs in self.gather(mine):  # before the fork `gather` returns [mine]
            for place, (arrays, numbers) in theirs.items():
                optimizer.state[place] = {**numbers, **dict(zip(arrays, self._moments[place]))}

    # --- when a process ends ------------------------------------------------------------------------------------------

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
    """Arrays like these, of zeros, in memory that forked processes share. What nobody writes to takes no room."""
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
        work = [0] * processes  # the numbers that each process updates, so far
        owner = [0] * len(parameters)
        # The largest parameter first; each goes to the process that has the least to update.
        for i in sorted(range(len(parameters)), key=lambda i: -parameters[i].data.size):
            owner[i] = work.index(min(work))
            work[owner[i]] += parameters[i].data.size
        owners += owner
    return owners


# --- how many? --------------------------------------------------------------------------------------------------------


def team_of(wanted: int | None, batch_size: int, device: str) -> Team:
    """The team of so many processes; None: as many as divide the batch, have a core each, and have enough memory.

    Where only one process is possible, the team is that one; if more are wanted, a line says why. Raises ValueError for
    more processes than items in a batch.
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
