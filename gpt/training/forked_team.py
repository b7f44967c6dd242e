"""A core for each process: training on one machine in several processes that share weights, gradients and moments.

One process loads the data and the model. When training begins it is forked, so each further process starts as a copy
of it. They train on shares of each batch (data_parallel.py), each on a core of its own, and end with the training: what
comes before and after is the work of one process. Threads would also use all cores, but they wait for each other in
every op, and Python runs one of them at a time. Processes meet three times in a step.

Weights, gradients and moments lie in one piece of memory that all processes see. Three rules keep it in order:

1. *A gradient is added up on its way.* When backward has computed the gradient of a parameter, it adds it to the sum in
   shared memory and drops it, so no process holds all gradients of its own. First the one of process 0, then that of
   process 1, and so on: the same order gives the same bits.
2. *Each parameter has an owner*, one of the processes. It updates the parameter, and it alone has its moments. A
   gradient that is not one's own is None, so optimizer and clipping pass over it. (Rajbhandari et al. 2020, ZeRO, whose
   stage 1 divides the moments, and stage 2 the gradients.)
3. *Nobody reads the weights before all owners have updated theirs*: the processes meet after each step.

A process that dies ends the run: process 0 finds the end of its pipe, and ends the others. Should process 0 die, the
system ends them. Only it writes files, so the last checkpoint stays, as with a run of one process.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from minigrad import nn, optim, switches
from minigrad.backend import Array, is_array, usable_cores
from minigrad.kernels import accumulation
from minigrad.kernels.accumulation import ProductGradient, SparseGradient, add_in_place
from minigrad.kernels.cpu import threads

from ..console import show, silenced
from ..memory_check import machine_memory, private_memory
from .data_parallel import ALONE, Team
from .signals import ASKING_TO_STOP
from .training_step import LossFunction, Sums, divide_gradients, sum_gradients

T = TypeVar("T")
MEMORY_EACH = 10**9  # bytes: `auto` takes no more processes than the machine has memory for
IN_PARTS = 2**17  # numbers; a gradient of so many is added in parts
DONE = -1  # in place of a parameter's number: no more gradients in this step


def team_of(wanted: int | None, batch_size: int, device: str) -> Team:
    """The team of so many processes. None: the largest number that divides the batch, of at most one for each core and
    for each gigabyte of memory.

    Where there can be one process only, it is one, and if more are wanted, a line says why.
    """
    reason = _why_alone(device)
    if wanted is None:
        most = 1 if reason else min(usable_cores(), machine_memory() // MEMORY_EACH, batch_size)
        wanted = max(n for n in range(1, max(most, 1) + 1) if batch_size % n == 0)
    if wanted > 1 and reason:
        show(f"one process instead of {wanted}: {reason}")
    return ALONE if wanted == 1 or reason else ForkedTeam(wanted)


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


class ForkedTeam(Team):
    """`processes` processes of this program. Outside the block `at_work` there is one; it is number 0 inside.

    All of them must compute gradients of the same parameters in each step. The models of the stages do.
    """

    def __init__(self, processes: int):
        self.processes = processes
        self._links: list[Any] = []  # of process 0: to each other one; of the others: to process 0
        self._arrived: dict[int, Any] = {}  # values for the next `gather`, by rank
        self._children: list[int] = []
        self._inboxes: list[tuple[int, int]] = []  # a pipe for each process; see `_tell`
        self.more_memory = 0  # bytes that the others had for themselves, once they have ended

    @contextlib.contextmanager
    def at_work(self, optimizer: optim.Optimizer, batch_size: int) -> Iterator[None]:
        # One process still, which prepares the memory that all will see.
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._owned = list(range(len(self._parameters)))  # the places of those that this process updates: still all
        self._share_memory(optimizer)
        owners = owners_of(optimizer.param_groups, self.processes)
        usual = switches.kernels, switches.accumulate
        threads.end_threads()
        sys.stdout.flush()
        with contextlib.suppress(OSError, AttributeError):  # a fork would copy free memory, too
            ctypes.CDLL(None).malloc_trim(0)
        try:
            # From here on there are several, each with its share of parameters and cores.
            self._fork()
            self._owned = [place for place, owner in enumerate(owners) if owner == self.rank]
            self._cores = max(1, usable_cores() // self.size)
            threads.use_workers(self._cores)
            self._begin_step()
            with silenced() if self.rank > 0 else contextlib.nullcontext(), super().at_work(optimizer, batch_size):
                (switches.kernels, switches.accumulate), accumulation.products_later = self._switches(), True
                yield
                self.more_memory = sum(self.gather(private_memory())[1:])
        except BaseException as error:
            if self.rank > 0:
                self._send_failure(error)
            raise
        finally:
            # All others end here, whatever has happened.
            if self.rank > 0:
                os._exit(0)
            self._end_others()
            (switches.kernels, switches.accumulate), accumulation.products_later = usual, False
            for p in self._parameters:
                p.grad = None
            threads.use_workers(usable_cores())

    # --- shared memory ------------------------------------------------------------------------------------------------

    def _share_memory(self, optimizer: optim.Optimizer) -> None:
        """Move the parameters, and the moments that a resumed run has, into memory that forked processes will share."""
        self._places = {id(p): place for place, p in enumerate(self._parameters)}
        self._moments: dict[tuple[int, str], Array] = {}
        # A page of memory that nobody has written to takes no room: there is enough for two moments of each parameter.
        self._memory = mmap.mmap(-1, sum(4 * (p.data.nbytes + 64) for p in self._parameters))  # shared, without a file
        self._used = 0
        self._gradients = [self._allocate(p.data) for p in self._parameters]
        for p in self._parameters:
            shared = self._allocate(p.data)
            shared[...] = p.data
            p.data = shared
        self.share_state(optimizer)

    def _allocate(self, like: Array) -> Array:
        """A shared array of the shape and dtype of another. All processes must call it in the same order."""
        array = np.frombuffer(self._memory, like.dtype, like.size, self._used).reshape(like.shape)
        self._used += -(-like.nbytes // 64) * 64  # whole cache lines
        return array

    def share_state(self, optimizer: optim.Optimizer) -> None:
        """Let every process see the whole state: its arrays move into shared memory, and its numbers are sent."""
        state = optimizer.state
        mine = {place: state[place] for place in self._owned if place in state}
        described = {p: {k: None if is_array(v) else v for k, v in values.items()} for p, values in mine.items()}
        for place, values in (item for theirs in self.gather(described) for item in theirs.items()):
            for name, value in values.items():
                if value is None:  # an array
                    if (place, name) not in self._moments:
                        self._moments[place, name] = self._allocate(self._gradients[place])
                        if place in mine:
                            self._moments[place, name][...] = mine[place][name]
                    value = self._moments[place, name]
                state[place][name] = value
        self.gather(None)  # all have moved theirs

    # --- gradients ----------------------------------------------------------------------------------------------------

    def _switches(self) -> tuple[Any, Any]:
        """What makes backward give the gradients of parameters to `_take`, and clipping find the norm of all."""
        kernels, accumulate = dict(switches.kernels), switches.accumulate or add_in_place
        add_squares = kernels.get(optim.sum_of_squares, optim.sum_of_squares)

        def take(sums: dict[Any, Any], edges: Sequence[Any], gradients: list[Any]) -> None:
            for i, edge in enumerate(edges):
                place = None if edge is None else self._places.get(id(edge[0]))
                if place is not None and gradients[i] is not None:
                    self._take(place, gradients[i])
                    gradients[i] = None
            accumulate(sums, edges, gradients)

        kernels[optim.sum_of_squares] = lambda arrays: sum(self.gather(add_squares(arrays)))
        return kernels, take

    def _begin_step(self) -> None:
        # What each process has added to each gradient in this step, in parts; and which ones have added all.
        self._added = [[0] * len(self._gradients) for _ in range(self.size)]
        self._done: set[int] = set()

    def _take(self, place: int, gradient: Any) -> None:
        """Add a gradient to the shared sum, when it is this process's turn: first that of process 0, then that of 1.

        A large one is added in as many parts as there are processes, and each begins with another part: nobody waits.
        A parameter that is used twice, as a tied head is, gets two. The second ones come after all first ones.
        """
        total, n = self._gradients[place], self.size
        in_parts = total.size >= IN_PARTS and (is_array(gradient) or isinstance(gradient, ProductGradient))
        before = self._added[self.rank][place]
        for step in range(n if in_parts else 1):
            part = (self.rank + step) % n
            # Wait for those whose turn comes before ours. What they have added is counted in n-ths of a gradient.
            for rank, added in enumerate(self._added):
                at = (part - rank) % n  # the step in which that process is at this part
                turns = (at + 1) * (at < step) if in_parts else n * (rank < self.rank)
                while added[place] < before + turns and rank not in self._done:
                    self._listen()
            is_first = all(added[place] <= (part - rank) % n * in_parts for rank, added in enumerate(self._added))
            rows: Any = slice(part * len(total) // n, (part + 1) * len(total) // n) if in_parts else ...
            _add(gradient[rows] if in_parts else gradient, total[rows], is_first)
            self._added[self.rank][place] += 1 if in_parts else n
            self._tell(place, 1 if in_parts else n)

    def gradients(self, model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction) -> tuple[Sums, int]:
        sums, count = sum_gradients(model, batches, loss_fn)  # its backward calls `_take`
        self._tell(DONE, 0)
        sums, count = self.add_up(sums, count)  # all are done
        while len(self._done) < self.size - 1:
            self._listen()
        for place in self._owned:
            if any(added[place] for added in self._added):
                self._parameters[place].grad = self._gradients[place]
        divide_gradients(model, count)
        self._begin_step()  # of the next one
        return sums, count

    # --- processes ----------------------------------------------------------------------------------------------------

    def _fork(self) -> None:
        """Start the other processes."""
        import signal  # here, because a browser has neither
        from multiprocessing.connection import Pipe

        self._inboxes = [os.pipe() for _ in range(self.processes)]
        parent = os.getpid()
        for rank in range(1, self.processes):
            ours, theirs = Pipe()
            child = os.fork()
            if child == 0:
                self.rank = rank
                end_with_parent = 1  # PR_SET_PDEATHSIG in linux/prctl.h
                ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
                if os.getppid() != parent:  # it has ended already
                    os._exit(1)
                for name in ASKING_TO_STOP:  # which may reach all; process 0 decides
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
                warnings.simplefilter("ignore")
                self._links, self._children = [theirs], []
                break
            theirs.close()  # only the child has it now, so process 0 will notice if the child ends
            self._links.append(ours)
            self._children.append(child)
        self.size = self.processes

    def gather(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        if self.rank > 0:
            self._links[0].send(value)
            return self._links[0].recv()
        while len(self._arrived) < self.size - 1:
            self._receive()
        values = [value, *(self._arrived.pop(rank) for rank in range(1, self.size))]
        for rank, link in enumerate(self._links, start=1):
            with self._noticing_the_end_of(rank):
                link.send(values)
        return values

    def once(self, function: Callable[[], T]) -> T:
        """The result of `function()`, for which process 0 has all cores while the others wait."""
        if self.size == 1:
            return function()
        self.gather(None)  # all have updated their parameters
        result: Any = None
        if self.rank == 0:
            threads.use_workers(usable_cores())
            result = function()
            threads.use_workers(self._cores)
        return self.gather(result)[0]

    def _tell(self, place: int, parts: int) -> None:
        """Tell the others that parts of a gradient have been added, or that all gradients are DONE."""
        for rank, (_, inbox) in enumerate(self._inboxes):
            if rank != self.rank:
                os.write(inbox, np.array([self.rank, place, parts], np.int32).tobytes())

    def _listen(self) -> None:
        """Wait for what the others tell."""
        inbox, _ = self._inboxes[self.rank]
        if self.rank == 0 and not self._receive(inbox):  # process 0 also notices if one of the others fails
            return
        for rank, place, parts in np.frombuffer(os.read(inbox, 12 * 300), np.int32).reshape(-1, 3).tolist():
            if place == DONE:
                self._done.add(rank)
            else:
                self._added[rank][place] += parts

    def _receive(self, *others: int) -> bool:
        """Wait for values of other processes, and keep them for `gather`. Returns whether one of `others` is ready.

        Raises the exception of a process that has failed, RuntimeError for one that has died.
        """
        from multiprocessing.connection import wait

        waiting = {link: rank for rank, link in enumerate(self._links, start=1) if rank not in self._arrived}
        ready = wait([*waiting, *others])
        for link, rank in waiting.items():
            if link in ready:
                with self._noticing_the_end_of(rank):
                    self._arrived[rank] = link.recv()
                if isinstance(self._arrived[rank], BaseException):
                    raise self._arrived[rank]
        return any(other in ready for other in others)

    @contextlib.contextmanager
    def _noticing_the_end_of(self, rank: int) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            child, self._children[rank - 1] = self._children[rank - 1], 0
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            import signal

            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            words = f"process {child}, one of {self.processes} that train together, has ended early ({how})"
            raise RuntimeError(f"{words}: resume the run from its last checkpoint") from None

    def _send_failure(self, error: BaseException) -> None:
        error.add_note("".join(traceback.format_exception(error)))  # shown if it is a bug
        with contextlib.suppress(OSError):
            try:
                self._links[0].send(error)
            except Exception:  # it cannot be sent as it is
                self._links[0].send(RuntimeError(f"{type(error).__name__}: {error}"))

    def _end_others(self) -> None:
        import signal

        self.size = 1
        for child in filter(None, self._children):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for link in self._links:
            link.close()
        for descriptor in (end for pipe in self._inboxes for end in pipe):
            os.close(descriptor)


def _add(gradient: Any, total: Array, is_first: bool) -> None:
    if isinstance(gradient, SparseGradient):  # or one that is yet to be computed
        (gradient.write_to if is_first else gradient.add_to)(total)
    elif is_first:
        total[...] = gradient
    else:
        total += gradient


def owners_of(groups: Sequence[dict[str, Any]], processes: int) -> list[int]:
    """The rank of the owner of each parameter, so that all have about as much to update in each group.

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
