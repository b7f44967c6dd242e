"""What a graph costs in memory: the arrays that forward saves, and that live until backward has used them.

This is why training needs far more memory than inference, and what flash attention, recomputation and smaller batches
are about: naive attention keeps a T x T array per head, dropout a mask as large as its input, a GELU its input and its
tanh.

Every buffer is counted once, however many ops or views hold it, and for the op that saved it first. Not counted are
the arrays of leaves (parameters and data, which live without the graph), and so whatever reaches the ops of the block
from outside.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import switches
from ..backend import Array
from .observers import arrays_of, buffer_of, human, saved_arrays, watching


@dataclass
class HeldRow:
    """What one op keeps under one name (`ctx.probs` of Softmax is op "Softmax", saved "probs"), in bytes."""

    op: str
    saved: str
    at_peak: int
    current: int


@dataclass
class _Buffer:
    nbytes: int
    key: tuple[str, str]  # (op, name) that it counts for
    holders: int = 0


class MemoryReport(switches.Observer):
    """What `memory()` found, in bytes: `current`, `peak`, `rows`; as a table, `print(report)`."""

    def __init__(self) -> None:
        self.peak = 0
        self._current = 0
        self._held: dict[tuple[str, str], int] = {}  # (op, name) -> bytes
        self._at_peak: dict[tuple[str, str], int] = {}
        self._buffers: dict[int, _Buffer] = {}  # by the id of the array that owns the memory, which a node keeps alive
        self._nodes: weakref.WeakKeyDictionary[Any, weakref.finalize] = weakref.WeakKeyDictionary()
        self._made: dict[int, weakref.ref[Array]] = {}  # the results of ops; other arrays come from outside

    @property
    def current(self) -> int:
        """Bytes held now; after the block too. What backward has freed, or nobody holds any more, does not count."""
        self._forget_released()
        return self._current

    @property
    def rows(self) -> list[HeldRow]:
        """One per op and name, the largest at the peak first."""
        self._forget_released()
        keys = self._at_peak | self._held
        rows = [HeldRow(*key, self._at_peak.get(key, 0), self._held.get(key, 0)) for key in keys]
        return sorted((row for row in rows if row.at_peak or row.current), key=lambda row: (-row.at_peak, -row.current))

    # --- watching ---

    def after(self, phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> None:
        if phase == "backward" or True not in ctx.needs_grad:
            return
        outside = {id(buffer_of(x)) for x in arrays_of(arrays) if not self._was_made(buffer_of(x))}
        for array in arrays_of(results):
            if id(buffer_of(array)) not in outside:  # else a view of a leaf
                self._remember_made(buffer_of(array))
        self._hold(ctx, outside)

    def released(self, ctx: Any) -> None:
        finalizer = self._nodes.pop(ctx, None)
        if finalizer is not None:
            finalizer()

    def _was_made(self, buffer: Array) -> bool:
        made = self._made.get(id(buffer))
        return made is not None and made() is buffer

    def _remember_made(self, buffer: Array) -> None:
        key, made = id(buffer), self._made  # not self: an array shall not keep the report alive
        made[key] = weakref.ref(buffer, lambda reference: made.pop(key, None) if made.get(key) is reference else None)

    def _hold(self, ctx: Any, outside: set[int]) -> None:
        keys = []
        for name, array in saved_arrays(ctx):
            owner = buffer_of(array)
            key = id(owner)
            if key in outside or key in keys:
                continue
            keys.append(key)
            if key not in self._buffers:
                self._buffers[key] = _Buffer(owner.nbytes, (ctx.function.__name__, name.partition("[")[0]))
                self._add(self._buffers[key].key, owner.nbytes)
            self._buffers[key].holders += 1
        self._nodes[ctx] = weakref.finalize(ctx, self._let_go, keys)
        self._nodes[ctx].atexit = False
        if self._current > self.peak:
            self.peak, self._at_peak = self._current, dict(self._held)

    def _let_go(self, keys: list[int]) -> None:
        for key in keys:
            buffer = self._buffers[key]
            buffer.holders -= 1
            if buffer.holders == 0:
                del self._buffers[key]
                self._add(buffer.key, -buffer.nbytes)

    def _add(self, key: tuple[str, str], nbytes: int) -> None:
        self._current += nbytes
        self._held[key] = self._held.get(key, 0) + nbytes

    def _forget_released(self) -> None:
        """After the block nobody tells us what backward frees: look."""
        for ctx in [ctx for ctx in self._nodes if ctx.released]:
            self.released(ctx)

    # --- showing ---

    def table(self) -> str:
        """Per op and saved name: bytes at the peak, their share of it, bytes now."""
        rows = self.rows
        names = [f"{row.op}.{row.saved}" for row in rows]
        width = max([20, *(len(name) for name in names)])
        header = f"{'held for backward':{width}} {'at peak':>10} {'%':>6} {'now':>10}"
        lines = [header, "-" * len(header)]
        for name, row in zip(names, rows, strict=True):
            share = 100 * row.at_peak / (self.peak or 1)
            lines.append(f"{name:{width}} {_bytes(row.at_peak):>10} {share:6.1f} {_bytes(row.current):>10}")
        lines += ["-" * len(header), f"{'all':{width}} {_bytes(self.peak):>10} {'':6} {_bytes(self._current):>10}"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


@contextlib.contextmanager
def memory() -> Iterator[MemoryReport]:
    """Account for what the graph that is built in the block holds for backward: in bytes, now and at its peak.

        with memory() as report:
            loss = model.loss(ids, targets)
            print(report)           # now everything is held
            loss.backward()
        report.current              # 0: backward has freed it

    Not in it: parameters, optimiser state, the gradients that backward makes, and what an op needs only while it runs.
    """
    report = MemoryReport()
    with watching(report):
        yield report


def _bytes(number: int) -> str:
    return f"{human(number)}{'' if number >= 1000 else ' '}B"
