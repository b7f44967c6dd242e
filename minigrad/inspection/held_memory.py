"""The memory that a graph holds: the arrays that forward saves, which live until backward has used them.

These arrays are the reason why training needs far more memory than inference. Flash attention, recomputation and
smaller batches exist to reduce them: textbook attention saves a T x T array per head, dropout a mask as large as its
input, a GELU its input and its tanh.

Each buffer is counted once, for the op that saved it first, even if several ops or views hold it. The arrays of leaves
(parameters and data) and other arrays from outside the block are not counted, because they live without the graph.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from .. import switches
from ..backend import Array, buffer_of
from ..notebook import NotebookReport
from .observers import arrays_of, human, saved_arrays, watching

Saved: TypeAlias = tuple[tuple[str, str], int]  # (op, name), bytes


@dataclass
class HeldRow:
    """The bytes that one op saves under one name: `ctx.probs` of Softmax is op "Softmax", saved "probs"."""

    op: str
    saved: str
    at_peak: int
    current: int


class MemoryReport(switches.Observer, NotebookReport):
    """The result of `memory()`, in bytes: `current`, `peak`, `rows`. `print(report)` shows a table."""

    def __init__(self) -> None:
        self.peak = 0
        self._at_peak: dict[tuple[str, str], int] = {}  # (op, name) -> bytes
        # Weak references: a report keeps no node or array alive. The id of a buffer is unique while the buffer lives.
        self._nodes: weakref.WeakKeyDictionary[Any, dict[int, Saved]] = weakref.WeakKeyDictionary()
        self._made: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()  # by ops of the block

    @property
    def current(self) -> int:
        """Bytes held now, inside the block or after it. Arrays that backward or Python has freed do not count."""
        return sum(self._held().values())

    @property
    def rows(self) -> list[HeldRow]:
        """One row per op and name, sorted by the bytes at the peak, largest first."""
        held = self._held()
        rows = [HeldRow(*key, self._at_peak.get(key, 0), held.get(key, 0)) for key in self._at_peak | held]
        return sorted(rows, key=lambda row: (-row.at_peak, -row.current))

    def _held(self) -> dict[tuple[str, str], int]:
        """Bytes by op and name. Each buffer counts for the op that saved it first."""
        held: dict[tuple[str, str], int] = {}
        seen = set()
        for ctx, saved in self._nodes.items():
            for buffer, (key, nbytes) in saved.items() if not ctx.released else ():
                if buffer not in seen:
                    seen.add(buffer)
                    held[key] = held.get(key, 0) + nbytes
        return held

    # --- watching ---

    def after(self, phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> None:
        if phase == "backward" or True not in ctx.needs_grad:
            return
        inputs = [buffer_of(array) for array in arrays_of(arrays)]
        outside = {id(buffer) for buffer in inputs if self._made.get(id(buffer)) is not buffer}
        for buffer in map(buffer_of, arrays_of(results)):
            if id(buffer) not in outside:  # otherwise it is a view of a leaf
                self._made[id(buffer)] = buffer
        saved = [(name.partition("[")[0], buffer_of(array)) for name, array in saved_arrays(ctx)]
        op = ctx.function.__name__
        self._nodes[ctx] = {id(b): ((op, name), b.nbytes) for name, b in reversed(saved) if id(b) not in outside}
        held = self._held()
        if sum(held.values()) > self.peak:
            self.peak = sum(held.values())
            self._at_peak = held

    # --- showing ---

    def __str__(self) -> str:
        """A table. Per op and saved name: bytes at the peak, their share of it, bytes now."""
        rows = self.rows
        names = [f"{row.op}.{row.saved}" for row in rows]
        width = max([20, *(len(name) for name in names)])
        header = f"{'held for backward':{width}} {'at peak':>10} {'%':>6} {'now':>10}"
        lines = [header, "-" * len(header)]
        for name, row in zip(names, rows):
            share = 100 * row.at_peak / (self.peak or 1)
            lines.append(f"{name:{width}} {_bytes(row.at_peak):>10} {share:6.1f} {_bytes(row.current):>10}")
        lines += ["-" * len(header), f"{'all':{width}} {_bytes(self.peak):>10} {'':6} {_bytes(self.current):>10}"]
        return "\n".join(lines)


def memory() -> AbstractContextManager[MemoryReport]:
    """Measure the memory that the graph built in the block holds for backward: in bytes, now and at its peak.

        with memory() as report:
            loss = model.loss(ids, targets)
            print(report)           # now everything is held
            loss.backward()
        report.current              # 0: backward has freed it

    Not included: parameters, optimizer state, the gradients that backward computes, and temporary arrays inside an op.
    """
    return watching(MemoryReport())


def _bytes(number: int) -> str:
    return f"{human(number)}{'' if number >= 1000 else ' '}B"
