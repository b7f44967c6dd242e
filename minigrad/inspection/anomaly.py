"""Stop at the op that produces a NaN, not a hundred ops later where the loss shows it.

Anomaly mode checks every result of every op, in forward and in backward. Finite inputs must give finite results:

* If all inputs were finite and a result has NaN or infinity, this op produced it: log 0, exp 1000, dout / (2 sqrt 0).
* If an input already had NaN, it came from outside the block (data, a parameter, the gradient passed to backward),
  because no op inside the block may produce one.
* Infinity may pass through. Masks put -inf into scores on purpose (`where` and `masked_fill` get it as an input), and
  softmax turns it into zeros. An op that turns it into NaN (inf - inf, 0 * inf) is stopped.

A checksum of every saved array also finds what a version counter cannot: a write with NumPy into an array that forward
saved for backward. A step in anomaly mode takes several times as long as a normal step.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import weakref
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .. import switches
from ..backend import Array, is_array, module_of, to_numpy
from ..kernels.accumulation import SparseGradient
from .observers import ENGINE, input_names, saved_arrays, watching

_MAY_MAKE_INFINITY = {"Pad"}  # its `value` may be -inf and is not an input


class AnomalyError(RuntimeError):
    """An op produced NaN or infinity, or an array that was saved for backward has changed."""


class _Detector(switches.Observer):
    def __init__(self) -> None:
        # Of each forward call: how a message describes it, and the checksums of what it saved.
        self._forwards: weakref.WeakKeyDictionary[Any, tuple[str, dict[str, int]]] = weakref.WeakKeyDictionary()

    def before(self, phase: str, ctx: Any, arrays: list[Any]) -> None:
        if phase == "backward" and ctx in self._forwards:
            _check_unchanged(ctx, *self._forwards[ctx])

    def after(self, phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> None:
        if phase == "forward":
            names = input_names(ctx.function, len(arrays))
            line, given = _users_line(), dict(zip(names, arrays))
            outputs = _described(("", result) for result in results)
            call = f"{ctx.function.__name__}({_described(given.items())}) -> {outputs}"
            _check_results(phase, ctx, given, _numbered("out", results), f"\n  {call}\n  called at {line}")
            if True in ctx.needs_grad:
                origin = f"\n  {call}\n  whose forward was called at {line}"
                self._forwards[ctx] = origin, {name: _checksum(array) for name, array in saved_arrays(ctx)}
        else:
            names = input_names(ctx.function, len(results))
            arrays_made = [result.values if isinstance(result, SparseGradient) else result for result in results]
            made = {f"d{name}": array for name, array in zip(names, arrays_made)}
            unknown = "\n  forward ran outside of detect_anomaly(), so its line is not known"
            origin, _ = self._forwards.get(ctx, (unknown, {}))
            _check_results(phase, ctx, _numbered("dout", tuple(arrays)), made, origin)


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise AnomalyError at the first NaN or infinity that an op in the block produces, in forward or in backward.

    The message names the op, the phase, the shapes, the place in the array, and the line that called the op (the
    innermost line outside minigrad). For backward this is the line of the forward call, so forward must also run
    inside the block.

        with detect_anomaly():
            loss = model.loss(ids, targets)
            loss.backward()

    Also raises AnomalyError if an array that forward saved was changed before backward used it.
    """
    with watching(_Detector()):
        yield


# --- NaN and infinity ---


def _check_results(phase: str, ctx: Any, given: dict[str, Any], made: dict[str, Any], origin: str) -> None:
    op = ctx.function.__name__
    for name, result in made.items():
        bad = next((kind for kind in ("nan", "inf") if _any(kind, result)), None)
        if bad is None:
            continue
        had = {kind: [n for n, value in given.items() if _any(kind, value)] for kind in ("nan", "inf")}
        if bad == "inf" and phase == "forward" and (had["inf"] or op in _MAY_MAKE_INFINITY):
            continue  # an infinity that passes through, as in a mask
        # Earlier ops were checked when they ran, so a bad number in an input came from outside the block.
        if had[bad]:
            whence = "passed to backward(), or a sum that overflowed" if phase == "backward" else "data? a parameter?"
            culprits = " and ".join(had[bad])
            headline = f"{bad} reached {op} in {phase}: {culprits} had it, and no op of the block made it ({whence})"
        else:
            headline = f"{op} made {bad} in {phase}"
            if had["inf"]:
                headline += f", of the infinity in {' and '.join(had['inf'])}"
        place, where = _first_bad(result)
        lines = [headline, f"  {name} {_described([('', result)])}: {where}"]
        values = _values_at(place, result, given, ctx, phase)
        if values:
            lines.append(f"  there: {values}")
        raise AnomalyError("\n".join(lines) + origin)


def _any(kind: str, value: Any) -> bool:
    """Whether any number in `value` (an array, a Python number, None) is nan ("nan") or infinite ("inf")."""
    array = np.asarray(value) if isinstance(value, float | np.generic) else value
    return is_array(array) and array.dtype.kind in "fc" and bool(getattr(module_of(array), f"is{kind}")(array).any())


def _first_bad(result: Any) -> tuple[tuple[int, ...], str]:
    bad = np.argwhere(~np.isfinite(to_numpy(result) if is_array(result) else np.asarray(result)))
    place = tuple(int(i) for i in bad[0])
    where = f"{len(bad):,} of {result.size:,} elements, the first at {list(place)}" if place else "the number itself"
    return place, where


def _values_at(place: tuple[int, ...], result: Any, given: dict[str, Any], ctx: Any, phase: str) -> str:
    """The numbers that the bad element was computed from: the same place in arrays of the same shape, and scalars."""
    sources = dict(given) | ({f"ctx.{name}": array for name, array in saved_arrays(ctx)} if phase == "backward" else {})
    found = []
    for name, value in sources.items():
        if isinstance(value, int | float) or getattr(value, "size", 0) == 1:
            found.append(f"{name} {value if isinstance(value, int | float) else value.item():.6g}")
        elif is_array(value) and value.shape == result.shape:
            found.append(f"{name} {value[place].item():.6g}")
    return ", ".join(found)


# --- arrays changed between forward and backward ---


def _check_unchanged(ctx: Any, origin: str, checksums: dict[str, int]) -> None:
    for name, array in saved_arrays(ctx):
        if name in checksums and _checksum(array) != checksums[name]:
            raise AnomalyError(
                f"ctx.{name}, {array.shape}, which {ctx.function.__name__} saved for backward, was changed before "
                "backward used it (written to with NumPy, as in x.data[0] = 1 or x.data += 1?). "
                "Change a copy, or run forward again after the change" + origin
            )


def _checksum(array: Array) -> int:
    return zlib.crc32(np.ascontiguousarray(to_numpy(array)).reshape(-1).view(np.uint8).data)


# --- whose line ---


def _users_line() -> str:
    """file:line, function and source of the innermost frame outside minigrad."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(ENGINE) and frame.f_back is not None:
        frame = frame.f_back
    code, line = frame.f_code, frame.f_lineno
    source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    return f"{code.co_filename}:{line}, in {code.co_name}" + (f"\n      {source}" if source else "")


def _described(named: Iterable[tuple[str, Any]]) -> str:
    parts = []
    for name, value in named:
        if value is not None:
            shown = f"{value.shape} {value.dtype}" if hasattr(value, "dtype") else repr(value)[:40]
            parts.append(f"{name} {shown}".strip())
    return ", ".join(parts)


def _numbered(name: str, values: tuple[Any, ...]) -> dict[str, Any]:
    return {name: values[0]} if len(values) == 1 else {f"{name}[{i}]": value for i, value in enumerate(values)}
