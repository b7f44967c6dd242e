"""One case, put to what a learner wrote (or to a right solution): what came of it, as plain values.

A learner's ops and functions are stand-ins here (processes.py): the learner's own code runs in a process of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.autograd import Context

from . import source
from .checks import Case, Check, OpCheck


@dataclasses.dataclass
class Answer:
    """`value`: what forward or the function returned, or backward's gradients; or what was `raised`, and in which line
    of the learner's file (None: not in it). changed: the input that was written to.
    """

    value: Any = None
    raised: Exception | None = None
    line: int | None = None
    changed: str = ""

    @property
    def error(self) -> str:
        return f"{type(self.raised).__name__}: {self.raised}" if self.raised is not None else ""


def answer(written: Any, path: str, check: Check, case: Case, douts: Sequence[Any] | None = None) -> Answer:
    """Run a function, or the forward of an op; with `douts` its backward, too. Arrays cannot be written to."""
    arguments, options = [_frozen(a) for a in case.arguments], copy.deepcopy(case.options)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(check, OpCheck):
                ctx = Context()
                value = written.forward(ctx, *arguments, **options)
                if douts is not None:
                    value = written.backward(ctx, *[_frozen(dout) for dout in douts])
            else:
                value = check.call(written, *arguments, **options) if check.call else written(*arguments, **options)
    except Exception as error:
        return Answer(raised=error, line=getattr(error, "line", None) or source.line_of(error, path))
    changed = [i for i, (a, b) in enumerate(zip(arguments, case.arguments, strict=True)) if not _unchanged(a, b)]
    return Answer(value, changed=f"argument {changed[0]}" if changed else "")


def _frozen(value: Any) -> Any:
    """A copy; of arrays one that cannot be written to."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
        return value
    if isinstance(value, list | tuple):
        return type(value)(_frozen(part) for part in value)
    return copy.deepcopy(value)


def _unchanged(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_unchanged(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def douts_for(out: Any) -> list[np.ndarray]:
    """A gradient that arrives for each output of forward: one decimal each, both signs, never 0."""
    douts, rng = [], np.random.default_rng(1)
    for output in out if isinstance(out, tuple) else (out,):
        dout = np.round(rng.uniform(-2, 2, np.shape(output)), 1)
        douts.append(np.asarray(np.where(dout == 0, 0.7, dout), np.asarray(output).dtype))
    return douts
