"""One check of one file: it compares the learner's answer to a case with that of the completed stub.

The completed stub is right by definition, forward and backward. The learner's ops and functions are stand-ins here
(processes.py): the learner's own code runs in a process of its own.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import functools
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.autograd import Context
from minigrad.gradcheck.mutations import Change, compiled, in_words, mutants, target_of

from . import comparing, source
from .checks import Case, Check, OpCheck
from .worker import MOST_STEPS, Recording, Step, call_read_only

DOUT_FACTORS = (-1, 1000, -1000, 0.001)
ASK = "ask the process"  # among a file's definitions: asks the process in which it runs
MOST_LINES = 5000  # that a changed solution may run in one case
EXTREME = 100  # a case with numbers of this size counts for the part "extremes", and for no other


class Reference:
    """The completed stub: it gives the right answer, and its small changes give answers to compare mistakes with."""

    def __init__(self, check: Check):
        self.text, call = check.reference
        self.check = dataclasses.replace(check, call=call)
        self.comments = dict(enumerate((line.partition("  # ")[2].strip() for line in self.text.splitlines()), 1))
        self.namespace = compiled(ast.parse(self.text), {"np": np, "math": math})
        self.node = next(n for n in ast.parse(self.text).body if getattr(n, "name", "") == check.name)
        written = self.namespace[check.name]
        is_op = isinstance(check, OpCheck)
        signature = inspect.signature(written.forward if is_op else call or written)
        self.names = [*signature.parameters][is_op or call is not None :]  # of the inputs, as the stub calls them

    def run(self, case: Case, douts: Sequence[Any] | None = None) -> Answer:
        right = answer(self.namespace[self.check.name], "", self.check, case, douts)
        if right.raised is not None:
            raise right.raised  # a mistake of ours: it must not be taken for the learner's
        return right

    def recorded(self, text: str, case: Case, douts: Any) -> tuple[Answer, list[Step]]:
        """The answer of the completed stub, or of a changed one, and the steps on its way."""
        recording = Recording(text, "")
        return answer(recording.names[self.check.name], "", self.check, case, douts), recording.steps

    def formula(self, line: int) -> str:
        """The statement in a line, or what it returns."""
        nodes = (n for n in ast.walk(self.node) if isinstance(n, ast.stmt) and n.lineno == line)
        found = (in_words(n.value if isinstance(n, ast.Return) else n) for n in nodes if getattr(n, "value", None))
        return next(found, "")

    @functools.cached_property
    def formulas(self) -> dict[str, str]:
        """What each name of the solution stands for that gets a value once."""
        nodes = [node for node in ast.walk(self.node) if isinstance(node, ast.Assign | ast.AugAssign)]
        targets = [bare(target_of(node)) for node in nodes]
        named = zip(targets, nodes, strict=True)
        return {
            name: in_words(node.value).strip("`")
            for name, node in named
            if targets.count(name) == 1 and f".at({name}," not in self.text
        }

    def mutants(self, part: str, is_possible: Callable[[Change], bool]) -> Iterator[tuple[Any, Change]]:
        """The op or function after each possible small change (of the method `part`, for an op), and the change."""
        methods = [n for n in ast.walk(self.node) if isinstance(n, ast.FunctionDef) and n.name == part]
        for change in filter(is_possible, mutants(methods[0] if methods else self.node)):
            with contextlib.suppress(SyntaxError, ValueError, TypeError):
                yield compiled(ast.Module([self.node], []), self.namespace)[self.check.name], change


@dataclasses.dataclass
class Finding:
    """A case that is wrong; words.py says it in a sentence.

    kind: "values" "shape" "non-finite" for a `difference`, else "changed" (it wrote to an input) "not linear" "count"
    "not None" "dtype", or what source.kind_of says of an exception. shown: what the learner gets to see beside the
    inputs. gradient: its name in backward. number: of several results the one that is wrong. douts: what arrived, if
    it is not `Trial.douts`. fact: the factor of dout with which it is not linear, or the number of gradients.
    """

    kind: str
    where: str
    answer: Answer
    shown: dict[str, Any]
    difference: comparing.Difference | None = None
    gradient: str = ""
    number: int = 0
    douts: list[np.ndarray] | None = None
    fact: Any = None


class Trial:
    """One check of one file: `test` tries one case. right: the functions of the file that are known to be right."""

    def __init__(self, check: Check, definitions: Mapping[str, Any], text: str = "", path: str = "", right: Any = ()):
        self.check, self.text, self.path, self.right = check, text, path, right
        self.is_op = isinstance(check, OpCheck)
        self.written: Any = definitions.get(check.name)
        self.ask: Any = definitions.get(ASK)
        self.reference = Reference(check)
        self.names = self.reference.names
        self.booleans = [f"`{name}`" for name, value in check.telling.options.items() if isinstance(value, bool)]

    def run(self, case: Case, douts: Sequence[Any] | None = None) -> Answer:
        return answer(self.written, self.path, self.check, case, douts)

    def recorded(
        self, text: str, case: Case, douts: Any, most: int = MOST_STEPS, given: Any = None
    ) -> tuple[Answer, list[Step]]:
        """The learner's answer, or that of their changed file, and the steps on its way. given: see Recording."""
        try:
            if self.ask is None:  # the file runs in this process
                recording = Recording(text, self.path, most, given)
                return answer(recording.names[self.check.name], self.path, self.check, case, douts), recording.steps
            self.ask("change", text, most, given)
            return self.run(case, douts), [tuple(step) for step in self.ask("taken")]
        except Exception as error:
            return Answer(raised=error), []

    def douts(self, case: Case) -> list[np.ndarray] | None:
        """The gradients that arrive at an op; None for a function."""
        return douts_for(self.reference.run(case).value) if self.is_op else None

    def test(self, case: Case) -> Finding | None:
        """Find out whether the learner's result is wrong in this case; None if it is right."""
        where = "forward of " + self.check.name if self.is_op else self.check.name
        got, right = self.run(case), self.reference.run(case)
        if (finding := self._failed(got, where, {})) is not None:
            return finding
        if (found := comparing.difference(got.value, right.value, self.check.tolerance)) is not None:
            number = found.path[0] if isinstance(got.value, list | tuple) and found.path else 0
            return Finding(found.status, where, got, {"yours": got.value, "right": right.value}, found, "", number)
        return self._test_backward(case, right.value) if self.is_op else None

    def parts(self, case: Case) -> dict[str, Callable[[], bool]]:
        """The tests of each part that this case belongs to."""

        def forward() -> bool:
            got, right = self.run(case), self.reference.run(case)
            return got.raised is None and comparing.same(got.value, right.value, self.check.tolerance)

        def backward() -> bool:
            return self._test_backward(case, self.reference.run(case).value) is None

        numbers = [np.asarray(number) for argument in case.arguments for number in arrays(argument)]
        if any(array.dtype.kind == "f" and (np.abs(array) >= EXTREME).any() for array in numbers):
            return {"extremes": lambda: forward() and (not self.is_op or backward())}
        return {"forward": forward, "backward": backward} if self.is_op else {"result": forward}

    def _failed(self, got: Answer, where: str, shown: dict[str, Any]) -> Finding | None:
        """The finding where something was raised, also because of an input that was changed; else None."""
        if got.raised is None:
            return None
        writes = isinstance(got.raised, ValueError) and "read-only" in str(got.raised)
        return Finding("changed" if writes else source.kind_of(got.raised)[0], where, got, shown)

    def _test_backward(self, case: Case, out: Any) -> Finding | None:
        """Find out whether backward is wrong. It must be linear in dout, so multiples of dout are tried as well."""
        douts = douts_for(out)
        if (finding := self._test_dout(case, douts)) is not None:
            return finding
        for factor in DOUT_FACTORS:
            multiples = [np.asarray(factor * dout) for dout in douts]
            if (finding := self._test_dout(case, multiples, max(1, abs(factor)))) is not None:
                return dataclasses.replace(finding, kind="not linear", fact=factor, douts=multiples)
        return self._in_float32(case) if self.check.in_float32 else None

    def _test_dout(self, case: Case, douts: list[np.ndarray], size: float = 1) -> Finding | None:
        """Compare the gradients for these douts. size: how much larger than usual they are, and so their rounding."""
        where = "backward of " + self.check.name
        names = self.names
        got, right = self.run(case, douts), self.reference.run(case, douts)
        shown: dict[str, Any] = {"dout": douts if len(douts) > 1 else douts[0]}
        if (finding := self._failed(got, where, shown)) is not None:
            return finding
        if not isinstance(got.value, tuple) or len(got.value) != len(right.value):
            return Finding("count", where, got, shown, fact=len(right.value))
        for i, (g, r) in enumerate(zip(got.value, right.value, strict=True)):
            name = f"d{names[i] if i < len(names) else i}"
            if r is None and g is not None:
                return Finding("not None", where, got, shown, gradient=name)
            if r is None:
                continue
            g = np.asarray(g) if isinstance(g, np.generic | int | float) else g
            found = comparing.difference(g, np.asarray(r), size * self.check.tolerance)
            if found is not None:
                shown |= {f"your {name}": g, f"right {name}": r}
                return Finding(found.status, where, got, shown, found, name, i)
        return None

    def _in_float32(self, case: Case) -> Finding | None:
        """Models train in float32: where the stub asks for that dtype, a result must not be float64."""
        case = Case(*map(_to_float32, case.arguments), **case.options)
        for where, got in (("forward", self.run(case)), ("backward", self.run(case, self.douts(case)))):
            for array in got.value if isinstance(got.value, tuple) else [got.value]:
                if array is not None and np.asarray(array).dtype == np.float64:
                    return Finding("dtype", f"{where} of {self.check.name}", got, {})
        return None


def _to_float32(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def bare(name: str) -> str:
    """The name that is assigned in a step, without what it is kept in and the place in it."""
    return name.removesuffix(" =").removeprefix("ctx.").removeprefix("self.").partition("[")[0]


def arrays(value: Any) -> list[Any]:
    """The arrays and numbers in a value."""
    if isinstance(value, list | tuple | dict):
        parts = value.values() if isinstance(value, dict) else value
        return [found for part in parts for found in arrays(part)]
    return [value] if isinstance(value, np.ndarray | np.generic | int | float) else []


# --- the answer to one case -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    """value: the result of forward or of the function, or backward's gradients. raised: the exception in place of a
    value, with its line in the learner's file (None: not in it).
    """

    value: Any = None
    raised: Exception | None = None
    line: int | None = None

    @property
    def error(self) -> str:
        return f"{type(self.raised).__name__}: {self.raised}" if self.raised is not None else ""


def answer(written: Any, path: str, check: Check, case: Case, douts: Sequence[Any] | None = None) -> Answer:
    """Run a function, or the forward of an op, and with `douts` also its backward, on inputs that are read-only."""
    arguments = [_frozen(a) for a in case.arguments]
    options = copy.deepcopy(case.options)
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
        return Answer(raised=error, line=source.line_of(error, path))
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
    """The gradients that arrive at backward, one for each output of forward: one decimal, both signs, never 0."""
    douts = []
    rng = np.random.default_rng(1)
    for output in out if isinstance(out, tuple) else (out,):
        dout = np.round(rng.uniform(-2, 2, np.shape(output)), 1)
        douts.append(np.asarray(np.where(dout == 0, 0.7, dout), np.asarray(output).dtype))
    return douts


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """End a changed solution that would never end, after many lines."""
    lines = 0
    before = sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != "<mutant>":
            return None
        lines += 1
        if lines > MOST_LINES:
            raise RuntimeError("it does not end")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
