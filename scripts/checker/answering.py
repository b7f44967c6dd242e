"""The answer of a learner's code, or of a right solution, to one case, as plain values.

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
from .worker import call_read_only


@dataclasses.dataclass
class Answer:
    """`value`: what forward or the function returned, or backward's gradients; or what was `raised`, and in which line
    of the learner's file (None: not in it).
    """

    value: Any = None
    raised: Exception | None = None
    line: int | None = None

    @property
    def error(self) -> str:
        return f"{type(self.raised).__name__}: {self.raised}" if self.raised is not None else ""


def answer(written: Any, path: str, check: Check, case: Case, douts: Sequence[Any] | None = None) -> Answer:
    """Run a function, or the forward of an op, and with `douts` also its backward, on inputs that are read-only."""
    arguments, options = [_frozen(a) for a in case.arguments], copy.deepcopy(case.options)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(check, OpCheck):
                ctx = Context()
                value = call_read_only(written.forward, (ctx, *arguments), options)
                if douts is not None:
                    value = written.backward(ctx, *[_frozen(dout) for dout in douts])
            elif check.call:
                value = call_read_only(check.call, (written, *arguments), options)
            else:
                value = call_read_only(written, arguments, options)
    except Exception as error:
        return Answer(raised=error, line=getattr(error, "line", None) or source.line_of(error, path))
    return Answer(value)


def _frozen(value: Any) -> Any:
    """A copy, whose arrays cannot be written to."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
        return value
    if isinstance(value, list | tuple):
        return type(value)(_frozen(part) for part in value)
    return copy.deepcopy(value)


def douts_for(out: Any) -> list[np.ndarray]:
    """A gradient that arrives for each output of forward: one decimal each, both signs, never 0."""
    douts, rng = [], np.random.default_rng(1)
    for output in out if isinstance(out, tuple) else (out,):
        dout = np.round(rng.uniform(-2, 2, np.shape(output)), 1)
        douts.append(np.asarray(np.where(dout == 0, 0.7, dout), np.asarray(output).dtype))
    return douts
