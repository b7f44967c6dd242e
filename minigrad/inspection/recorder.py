"""Record a training step: what every op got and made, forward and backward, and what the optimizer did with it.

    with record() as recording:
        loss = model.loss(ids, targets)
        loss.backward()
    recording.update(optimizer, model, max_norm=1.0)    # clips the gradients, takes the step, records both
    recording.calls[0].outputs[0].array

Arrays are copied, because optimizers write to parameters in place. A recording holds at most `budget` bytes of them,
and none of more than `largest` numbers: of the others only the shape, the statistics and the first numbers are kept,
and `Value.array` is None.

For a small op, the whole Jacobian is recorded as well, row by row: backward of a gradient that is 1 for one output
number and 0 for the others. This needs nothing but the op's own backward, so it works for every op. Each of these runs
gets a copy of what forward saved, because a backward may overwrite it: the step itself computes what it would compute
without a recording.
"""

from __future__ import annotations

import copy
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .. import backend, switches
from ..autograd import Context, Function
from ..backend import is_array, to_numpy
from ..dtypes import is_floating
from ..kernels.accumulation import SparseGradient
from ..nn import Module
from ..optim import Optimizer, clip_grad_norm_
from .observers import ENGINE, input_names, watching

BUDGET = 256 * 2**20  # bytes of arrays in a recording
LARGEST = 2**20  # numbers of an array that is kept
JACOBIAN = 20_000  # numbers: the Jacobian of a larger op is not recorded
CORNER = 8  # of an array that is not kept, the first rows and columns


@dataclass(eq=False)
class Value:
    """An array at the time when it was seen.

    made_by: (number of the call, number of its output); None for a leaf.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    array: np.ndarray | None  # None if it was too large, or did not fit into the budget
    corner: np.ndarray  # the first rows and columns of the first matrix
    statistics: dict[str, float]  # min, max, mean, norm
    name: str = ""
    made_by: tuple[int, int] | None = None


class Place(NamedTuple):
    """A line of code that was running."""

    path: str
    line: int
    function: str


@dataclass(eq=False)
class Call:
    """One op: a call of `function.forward`, and later of `function.backward`. An input that was None is None here.

    where: the lines outside minigrad that led to the call, the innermost first. jacobian: by input, d output / d input
    of shape (numbers in all outputs, numbers in the input); None for a large op and for one without a gradient.
    order: the place of backward among all of them, from 0; None if it did not run. douts, dinputs: what backward got
    and returned.
    """

    number: int
    function: Any
    names: list[str]
    inputs: list[Value | None]
    outputs: list[Value]
    options: dict[str, Any]
    needs_grad: list[bool]
    where: list[Place]
    jacobian: dict[int, np.ndarray] | None
    order: int | None = None
    douts: list[Value | None] = field(default_factory=list)
    dinputs: list[Value | None] = field(default_factory=list)


@dataclass(eq=False)
class Update:
    """One parameter in the optimizer's step: before and after, its gradient before and after clipping, the state."""

    name: str
    before: Value
    gradient: Value
    clipped: Value
    after: Value
    state: dict[str, Any]  # a Value for an array, such as exp_avg; otherwise a number, such as step
    settings: dict[str, Any]  # of its group: lr, betas, eps, ...


class Recording(switches.Observer):
    """The result of `record()`: `calls` in forward order, and after `update`, `updates` and the gradient's norm."""

    def __init__(self, budget: int, largest: int, jacobian: int, top: Any):
        self.calls: list[Call] = []
        self.updates: list[Update] = []
        self.norm = self.max_norm = float("inf")
        self.optimizer: type[Optimizer] | None = None
        self.bytes = 0
        self._budget, self._largest, self._jacobian, self._top = budget, largest, jacobian, top
        self._numbers: dict[Any, int] = {}  # Context -> the number of its call
        self._leaves: dict[tuple[int, int], tuple[Any, Value]] = {}  # (id, version) -> a leaf; it keeps the id taken
        self._ran_back = 0
        self._thread_in_jacobian: int | None = None

    # --- watching ---

    def before(self, phase: str, ctx: Context, arrays: list[Any]) -> None:
        """Refuse the op if it runs in the backward of another op for the sake of its Jacobian: see `_jacobian_of`."""
        if self._thread_in_jacobian == threading.get_ident():
            raise RuntimeError(f"{ctx} would run, and be recorded, although the step does not run it")

    def after(self, phase: str, ctx: Context, arrays: list[Any], results: tuple[Any, ...]) -> None:
        if phase == "backward":
            if ctx in self._numbers:
                call = self.calls[self._numbers[ctx]]
                call.order = self._ran_back
                self._ran_back += 1
                call.douts, call.dinputs = self._values(arrays), self._values(results)
            return
        number = len(self.calls)
        wanted = [bool(wanted) for wanted in ctx.needs_grad]
        options, where = self._call_site()
        inputs = [self._input(x, edge) for x, edge in zip(arrays, ctx.edges)]
        outputs = [self.value(result) for result in results]
        for i, output in enumerate(outputs):
            output.made_by = number, i
        jacobian = self._jacobian_of(ctx, inputs, outputs, wanted) if any(wanted) else None
        names = input_names(ctx.function, len(arrays))
        self.calls.append(Call(number, ctx.function, names, inputs, outputs, options, wanted, where, jacobian))
        if any(wanted):
            self._numbers[ctx] = number

    def value(self, x: Any) -> Value:
        """A copy of an array, or its summary if it is too large."""
        x = x.dense() if isinstance(x, SparseGradient) else x
        array = to_numpy(x) if is_array(x) else np.asarray(x)
        corner = array[(0,) * max(0, array.ndim - 2) + (slice(CORNER),) * min(array.ndim, 2)] if array.size else array
        kept = np.array(array) if array.size <= self._largest and self._fits(array.nbytes) else None
        return Value(array.shape, array.dtype, kept, np.array(corner), _statistics(array))

    def _values(self, arrays: Any) -> list[Value | None]:
        return [None if x is None else self.value(x) for x in arrays]

    def _fits(self, size: int) -> bool:
        fits = self.bytes + size <= self._budget
        self.bytes += size * fits
        return fits

    def _input(self, x: Any, edge: Any) -> Value | None:
        """An input of an op: an earlier output, a leaf, or something that needs no gradient."""
        if x is None:
            return None
        known: Value | None = None
        if edge is not None and edge[0].is_leaf:
            key = id(edge[0]), edge[0].version
            if key not in self._leaves:
                self._leaves[key] = edge[0], self.value(edge[0].data)
            known = self._leaves[key][1]
        elif edge is not None and edge[0] in self._numbers:
            known = self.calls[self._numbers[edge[0]]].outputs[edge[1]]
        if known is not None and known.dtype == getattr(x, "dtype", None):
            return known
        value = self.value(x)  # a constant, or an input that was cast
        value.made_by = None if known is None else known.made_by
        return value

    def _jacobian_of(self, ctx: Context, inputs: Any, outputs: Any, wanted: list[bool]) -> dict[int, np.ndarray] | None:
        """d outputs / d input by input, one row per output number: vjps of one-hot gradients.

        None for an op that is too large, that runs other ops in its backward (they are recorded one by one when the
        step runs them), or whose backward fails (the step shows the error).
        """
        sizes = [int(np.prod(output.shape)) * is_floating(output.dtype) for output in outputs]
        columns = {i: int(np.prod(x.shape)) for i, x in enumerate(inputs) if wanted[i]}
        numbers = sum(sizes) * sum(columns.values())
        if numbers > self._jacobian or any(output.array is None for output in outputs):
            return None
        if not self._fits(numbers * outputs[0].dtype.itemsize):
            return None
        jacobian = {i: np.zeros((sum(sizes), size), inputs[i].dtype) for i, size in columns.items()}
        places = [(which, place) for which, size in enumerate(sizes) for place in range(size)]
        random = backend.random_state()
        self._thread_in_jacobian = threading.get_ident()
        try:
            for row, (which, place) in enumerate(places):
                douts = [np.zeros_like(output.array) for output in outputs]
                douts[which].flat[place] = 1
                own = copy.copy(ctx)
                vars(own).update(copy.deepcopy(ctx.saved()))
                gradients = ctx.function.backward(own, *douts)
                for i in columns:
                    gradient = gradients[i]
                    if gradient is not None:
                        gradient = gradient.dense() if isinstance(gradient, SparseGradient) else gradient
                        jacobian[i][row] = np.broadcast_to(gradient, inputs[i].shape).reshape(-1)
        except Exception:
            return None
        finally:
            self._thread_in_jacobian = None
            backend.set_random_state(random)
        return jacobian

    def _call_site(self) -> tuple[dict[str, Any], list[Place]]:
        """The options of the call, which only the frame of `Function.apply` knows, and the lines that led to it."""
        options: dict[str, Any] | None = None
        where = []
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if options is None and code is Function.apply.__func__.__code__:  # type: ignore[attr-defined]
                options = dict(frame.f_locals["options"])  # not those of a fused op that is further out
            elif not code.co_filename.startswith(ENGINE):
                where.append(Place(code.co_filename, frame.f_lineno, code.co_qualname))
            if frame is self._top:
                break
            frame = frame.f_back  # type: ignore[assignment]
        return options or {}, where

    # --- after the step ---

    def name(self, module: Module) -> dict[int, str]:
        """Give the recorded parameters the names that they have in a module. Returns the names, by the tensors' ids."""
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for tensor, value in self._leaves.values():
            value.name = names.get(id(tensor), value.name)
        return names

    def leaf_value(self, tensor: Any) -> Value:
        """A leaf as the ops saw it, or as it is now if none did."""
        known = self._leaves.get((id(tensor), tensor.version))
        return known[1] if known else self.value(tensor.data)

    def update(self, optimizer: Optimizer, module: Module, max_norm: float = float("inf")) -> None:
        """Clip the gradients, take the optimizer's step, and record what both did to each parameter."""
        names = self.name(module)
        places = enumerate([(p, group) for group in optimizer.param_groups for p in group["params"]])
        moving = [(place, p, group) for place, (p, group) in places if p.grad is not None]
        before = [(self.leaf_value(p), self.value(p.grad)) for _, p, _ in moving]
        self.optimizer = type(optimizer)
        self.max_norm = max_norm
        self.norm = float(clip_grad_norm_([p for _, p, _ in moving], max_norm))
        clipped = [self.value(p.grad) for _, p, _ in moving]
        optimizer.step()
        for (place, p, group), (old, gradient), scaled in zip(moving, before, clipped):
            state = optimizer.state[place].items()
            kept = {name: self.value(entry) if is_array(entry) else entry for name, entry in state}
            settings = {name: entry for name, entry in group.items() if name != "params"}
            name = names.get(id(p), "")
            self.updates.append(Update(name, old, gradient, scaled, self.value(p.data), kept, settings))


def record(budget: int = BUDGET, largest: int = LARGEST, jacobian: int = JACOBIAN) -> AbstractContextManager[Recording]:
    """Record every op in the block.

    budget: bytes of arrays that are kept. largest: numbers of an array that is kept. jacobian: the largest number of
    derivatives that are recorded for one op.
    """
    return watching(Recording(budget, largest, jacobian, top=sys._getframe(1)))


def _statistics(array: np.ndarray) -> dict[str, float]:
    if not array.size or array.dtype.kind not in "biuf":
        return {}
    numbers = array.astype(np.float64)
    found = {"min": numbers.min(), "max": numbers.max(), "mean": numbers.mean(), "norm": np.sqrt((numbers**2).sum())}
    return {name: float(number) for name, number in found.items()}
