"""The time that a step spends in each op, and whether the op waits for arithmetic or for memory.

An op that does F FLOPs on B bytes has the arithmetic intensity F / B. A machine does so many FLOPs in the time that it
moves one byte: an A100 156 (312 TFLOP/s over 2 TB/s), a laptop core about 10. An op below its machine's number is
memory-bound (adding, softmax, layer norm: below 1), one above it compute-bound (large matrix products). This is the
roofline model: Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore
architectures".

The bytes are those of the arrays that go in (in backward: the gradients that arrive, and what forward had saved) and
of those that come out, each once, as if everything in between stayed in the cache. A result that is a view of an input,
as in reshape, moves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from .. import functional, graph_checks, switches
from ..backend import buffer_of, device_of, is_array
from ..notebook import NotebookReport
from . import flops
from .observers import arrays_of, human, saved_arrays, watching

_OPS = functional.__name__ + "."


@dataclass
class OpProfile:
    """All calls of one op in one phase. `flops` is None where a formula or a size is not known."""

    op: str
    phase: str  # "forward", "backward"; "" for the total
    calls: int = 0
    nanoseconds: int = 0
    flops: int | None = 0
    bytes: int = 0

    @property
    def seconds(self) -> float:
        return self.nanoseconds / 1e9

    @property
    def intensity(self) -> float | None:
        """FLOP per byte; None if not known, or if nothing was moved."""
        return None if self.flops is None or not self.bytes else self.flops / self.bytes

    @property
    def gflops_per_second(self) -> float | None:
        return None if self.flops is None or not self.nanoseconds else self.flops / self.nanoseconds


class Profile(switches.Observer, NotebookReport):
    """The result of `profile()`: `rows`, `total`, `seconds`; as a table, `print(report)`."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], OpProfile] = {}
        self._start = 0  # of the op that is running, or the end of the last one that it ran itself
        self._begin = perf_counter_ns()
        self.end: int | None = None

    @property
    def rows(self) -> list[OpProfile]:
        """One per op and phase, the slowest first."""
        return sorted(self._rows.values(), key=lambda row: -row.nanoseconds)

    @property
    def total(self) -> OpProfile:
        """All ops together. `flops` and `bytes` leave out ops whose FLOPs are unknown."""
        rows = self._rows.values()
        known = [(row.flops, row.bytes) for row in rows if row.flops is not None]
        calls, nanoseconds = sum(row.calls for row in rows), sum(row.nanoseconds for row in rows)
        return OpProfile("all ops", "", calls, nanoseconds, sum(flops for flops, _ in known), sum(b for _, b in known))

    @property
    def seconds(self) -> float:
        """Wall time of the block, or the time so far if it has not ended."""
        return ((self.end or perf_counter_ns()) - self._begin) / 1e9

    # --- watching ---

    def before(self, phase: str, ctx: Any, arrays: list[Any]) -> None:
        _wait_for_device(arrays)
        self._start = perf_counter_ns()

    def after(self, phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> None:
        _wait_for_device(results)
        elapsed = perf_counter_ns() - self._start
        name = ctx.function.__name__
        row = self._rows.setdefault((name, phase), OpProfile(name, phase))
        row.calls += 1
        row.nanoseconds += elapsed
        row.bytes += _bytes_moved(phase, ctx, arrays, results)
        op = _textbook_op(ctx.function, arrays)
        count = flops.count(op, phase, _call(phase, ctx, arrays, results)) if op else None
        row.flops = None if count is None or row.flops is None else row.flops + count
        self._start = perf_counter_ns()

    # --- showing ---

    def __str__(self) -> str:
        """A table of the rows, the total, and the time spent outside ops."""
        width = max([12, *(len(row.op) for row in self._rows.values())])
        header = f"{'op':{width}}  {'phase':8} {'calls':>6} {'ms':>10} {'%':>5} "
        header += f"{'FLOP':>8} {'bytes':>8} {'FLOP/byte':>9} {'GFLOP/s':>8}"
        wall, total = self.seconds, self.total
        lines = [header, "-" * len(header)]
        lines += [_line(row, width, wall) for row in self.rows]
        lines += ["-" * len(header), _line(total, width, wall)]
        outside = OpProfile("outside ops", "", 0, round(wall * 1e9) - total.nanoseconds)
        lines.append(_line(outside, width, wall)[: width + 34] + "  Python: the graph, data, optimizer, printing")
        lines.append(f"{'wall':{width}}  {'':8} {'':6} {wall * 1e3:10.2f}")
        unknown = sorted({row.op for row in self._rows.values() if row.flops is None})
        if unknown:
            lines.append(f"not in the sums of FLOP and bytes, as their FLOPs are not known: {', '.join(unknown)}")
        return "\n".join(lines)


@contextlib.contextmanager
def profile() -> Iterator[Profile]:
    """Measure each op in the block: calls, seconds, FLOPs, bytes moved, arithmetic intensity, GFLOP/s.

        with profile() as report:
            loss = model.loss(ids, targets)
            loss.backward()
        print(report)

    FLOPs are counted by the rules of inspection/flops.py. If `F` composes an op of other ops, these appear instead. On
    a GPU the profiler waits for each op in order to time it, so the whole step takes longer. If you use several
    observers, enter `profile` last: it also measures the observers that are entered inside its block.
    """
    with watching(Profile()) as report:
        try:
            yield report
        finally:
            report.end = perf_counter_ns()


def _textbook_op(function: type, arrays: list[Any]) -> str:
    """The op of `minigrad.functional` that a Function is, derives from or replaces; "" if there is none."""
    on_gpu = any(is_array(array) and device_of(array) != "cpu" for array in arrays)
    kernels = switches.cuda_kernels() if on_gpu else switches.kernels
    replaced = [op for op, kernel in kernels.items() if kernel in function.__mro__]
    known = [c for c in (*function.__mro__, *replaced) if c.__module__.startswith(_OPS)]
    return known[0].__name__ if known else ""


def _call(phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> flops.Call:
    needs_grad = list(ctx.needs_grad)
    if phase == "forward":
        shapes = [tuple(x.shape) if is_array(x) else None for x in arrays]
        return flops.Call(shapes, [getattr(out, "shape", ()) for out in results], needs_grad, ctx.saved())
    known = [None if edge is None else graph_checks.shape_and_dtype(edge)[0] for edge in ctx.edges]
    return flops.Call(known, [shape for shape, _ in ctx.outputs], needs_grad, ctx.saved())


def _bytes_moved(phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> int:
    read = arrays_of(arrays if phase == "forward" else [*arrays, *(array for _, array in saved_arrays(ctx))])
    buffers = {id(buffer_of(array)) for array in read}
    written = [array for array in arrays_of(results) if id(buffer_of(array)) not in buffers]
    return sum(array.nbytes for array in read + written) if written else 0


def _wait_for_device(values: Any) -> None:
    """A GPU computes asynchronously: wait until it has finished."""
    for value in values:
        if is_array(value) and device_of(value) != "cpu":
            value.device.synchronize()


def _line(row: OpProfile, width: int, wall: float) -> str:
    rate = "-" if row.gflops_per_second is None else f"{row.gflops_per_second:.2f}"
    intensity = "-" if row.intensity is None else f"{row.intensity:.2f}"
    percent = 100 * row.seconds / wall if wall else 0.0
    calls = row.calls or ""
    return (
        f"{row.op:{width}}  {row.phase:8} {calls:>6} {row.seconds * 1e3:10.2f} {percent:5.1f} {human(row.flops):>8} "
        f"{human(row.bytes):>8} {intensity:>9} {rate:>8}"
    )
