"""One check of one file: it compares the learner's answer to a case with that of the completed stub.

The completed stub is right by definition, forward and backward. The learner's ops and functions are stand-ins here
(processes.py): the learner's own code runs in a process of its own.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.autograd import Context
from minigrad.gradcheck.mutations import Change, compiled, mutants
from minigrad.gradcheck.shape_diagnosis import numpy_in_words

from . import comparing, source
from .checks import Case, Check, OpCheck
from .worker import Step, call_read_only, recorded

DOUT_FACTORS = (-1, 1000, -1000, 0.001)
ASK = "ask the process"  # among a file's definitions: asks the process in which it runs
EXTREME = 100  # a case with numbers of this size counts for the part "extremes", and for no other


class Reference:
    """The completed stub: it gives the right answer, and its small changes give answers to compare mistakes with."""

    def __init__(self, check: Check):
        self.text, call = check.reference
        self.check = dataclasses.replace(check, call=call)
        self.statement = (ast.get_docstring(ast.parse(self.text)) or "").partition("\nExample")[0]
        self.comments = dict(enumerate((line.partition("  # ")[2].strip() for line in self.text.splitlines()), 1))
        self.namespace = compiled(ast.parse(self.text), {"np": np, "math": math})
        self.node = next(n for n in ast.parse(self.text).body if getattr(n, "name", "") == check.name)
        written, is_op = self.namespace[check.name], isinstance(check, OpCheck)
        signature = inspect.signature(written.forward if is_op else call or written)
        self.names = [*signature.parameters][is_op or call is not None :]  # of the inputs, as the stub calls them

    def run(self, case: Case, douts: Sequence[Any] | None = None) -> Answer:
        right = answer(self.namespace[self.check.name], "", self.check, case, douts)
        if right.raised is not None:
            raise right.raised  # a mistake of ours: it must not be taken for the learner's
        return right

    def steps(self, case: Case, douts: Sequence[Any] | None) -> list[Step]:
        """What the expressions of the completed stub give, one after the other."""
        steps: list[Step] = []
        answer(recorded(self.text, "", steps)[self.check.name], "", self.check, case, douts)
        last = self.node.end_lineno or 0
        return [step for step in steps if self.node.lineno < step[0] <= last]  # not in other functions of the stub

    def last_line(self, where: str) -> int:
        """The last line of the function, or of the op's method, in which something is wrong."""
        methods = {node.name: node for node in ast.walk(self.node) if isinstance(node, ast.FunctionDef)}
        return methods.get(where.partition(" of ")[0], self.node).end_lineno or 0

    def mutants(self, part: str, is_possible: Callable[[Change], bool]) -> Iterator[tuple[Any, Change]]:
        """The op or function after each possible small change (of the method `part`, for an op), and the change."""
        methods = [n for n in ast.walk(self.node) if isinstance(n, ast.FunctionDef) and n.name == part]
        for change in filter(is_possible, mutants(methods[0] if methods else self.node)):
            with contextlib.suppress(SyntaxError, ValueError, TypeError):
                yield compiled(ast.Module([self.node], []), self.namespace)[self.check.name], change


@dataclasses.dataclass
class Finding:
    """A case that is wrong. kind: in what way, for programs. sentence: what would repair the numbers, if something
    simple does; plain: how they differ. number: of several results the one that is wrong; gradient: its name in
    backward; douts: what arrived there, if it is not `Trial.douts`; pair: the wrong result and the right one.
    """

    kind: str
    where: str
    sentence: str
    answer: Answer
    shown: dict[str, Any]
    number: int = 0
    gradient: str = ""
    plain: str = ""
    douts: list[np.ndarray] | None = None
    pair: tuple[Any, Any] = ((), ())


class Trial:
    """One check of one file: `test` tries one case."""

    def __init__(self, check: Check, definitions: Mapping[str, Any], text: str = "", path: str = ""):
        self.check, self.text, self.path = check, text, path
        self.is_op = isinstance(check, OpCheck)
        self.written: Any = definitions.get(check.name)
        self.ask: Any = definitions.get(ASK)
        self.reference = Reference(check)
        self.names = self.reference.names

    def run(self, case: Case, douts: Sequence[Any] | None = None) -> Answer:
        return answer(self.written, self.path, self.check, case, douts)

    def steps(self, case: Case, douts: Sequence[Any] | None) -> list[Step]:
        """The learner's steps, as far as they come; none where the file does not run in a process of its own."""
        with contextlib.suppress(Exception):
            self.ask("record")
            self.run(case, douts)
            return list(self.ask("taken"))
        return []

    def right_names(self, case: Case, douts: Sequence[Any] | None) -> set[str]:
        """The names in those expressions of the completed stub's last `return` whose values the learner has, too."""
        got, right = self.run(case, douts).value, self.reference.run(case, douts).value
        returns = [n.value for n in ast.walk(self.reference.node) if isinstance(n, ast.Return)]
        if not isinstance(got, tuple) or not isinstance(returns[-1], ast.Tuple) or len(got) != len(right):
            return set()
        triples = zip(returns[-1].elts, got, right, strict=False)
        return {n.id for e, g, r in triples if comparing.same(g, r) for n in ast.walk(e) if isinstance(n, ast.Name)}

    def douts(self, case: Case) -> list[np.ndarray] | None:
        """The gradients that arrive at an op; None for a function."""
        return douts_for(self.reference.run(case).value) if self.is_op else None

    def test(self, case: Case) -> Finding | None:
        """Find out whether the learner's result is wrong in this case; None if it is right."""
        where = "forward of " + self.check.name if self.is_op else self.check.name
        got, right = self.run(case), self.reference.run(case)
        if (finding := self._failed(got, where, {})) is not None:
            return finding
        if (sentence := comparing.difference(got.value, right.value, self.check.tolerance)) is not None:
            shown = {"yours": got.value, "right": right.value}
            finding = Finding(_kind_of(got.value, right.value), where, sentence, got, shown)
            return self._described(finding, got.value, right.value, "the result")
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
        error = got.raised
        if error is None:
            return None
        if isinstance(error, ValueError) and "read-only" in str(error):
            what = "dout or another array" if where.startswith("backward") else "its input"
            sentence = f"it writes to {what}, which belongs to somebody else: compute into a new array, or copy first"
            return Finding("changed", where, sentence, got, shown)
        kind, sentence = source.kind_of(error)
        return Finding(kind, where, in_plain_words(got, self.names) if kind == "error" else sentence, got, shown)

    def _test_backward(self, case: Case, out: Any) -> Finding | None:
        """Find out whether backward is wrong. It must be linear in dout, so multiples of dout are tried as well."""
        douts = douts_for(out)
        if (finding := self._test_dout(case, douts)) is not None:
            return finding
        for factor in DOUT_FACTORS:
            multiples = [np.asarray(factor * dout) for dout in douts]
            if (finding := self._test_dout(case, multiples, max(1, abs(factor)))) is not None:
                reason = finding.sentence if finding.kind == "error" else "is there an abs, a maximum, a power, an if?"
                sentence = "backward is not linear in dout: right for one dout, and wrong for "
                sentence += f"{factor:g} times that dout ({reason})"
                return dataclasses.replace(finding, kind="not linear", sentence=sentence, douts=multiples)
        return self._in_float32(case) if self.check.in_float32 else None

    def _test_dout(self, case: Case, douts: list[np.ndarray], size: float = 1) -> Finding | None:
        """Compare the gradients for these douts. size: how much larger than usual they are, and so their rounding."""
        where, names = "backward of " + self.check.name, self.names
        got, right = self.run(case, douts), self.reference.run(case, douts)
        shown: dict[str, Any] = {"dout": douts if len(douts) > 1 else douts[0]}
        if (finding := self._failed(got, where, shown)) is not None:
            return finding
        if not isinstance(got.value, tuple) or len(got.value) != len(right.value):
            refusal = f"backward must return a tuple of {len(right.value)}, one gradient per input of forward"
            advice = ": `return (dx,)` where there is one" if len(right.value) == 1 else ", None where there is none"
            return Finding("shape", where, refusal + advice, got, shown)
        for i, (g, r) in enumerate(zip(got.value, right.value, strict=True)):
            name = f"d{names[i] if i < len(names) else i}"
            if r is None and g is not None:
                refusal = f"the gradient of {name[1:]} must be None: by the stub it gets no gradient"
                return Finding("not None", where, refusal, got, shown)
            if r is None:
                continue
            g = np.asarray(g) if isinstance(g, np.generic | int | float) else g
            sentence = comparing.difference(g, np.asarray(r), size * self.check.tolerance, name)
            if sentence is not None:
                if g is None:
                    sentence = f"{name} is None: no gradient reaches {name[1:]}"
                shown |= {f"your {name}": g, f"right {name}": r}
                return self._described(Finding(_kind_of(g, r), where, sentence, got, shown, i, name), g, r, name)
        return None

    def _described(self, finding: Finding, got: Any, right: Any, what: str) -> Finding:
        finding.plain = comparing.difference(got, right, self.check.tolerance, what, guess=False) or ""
        if isinstance(got, tuple | list) and isinstance(right, tuple | list) and len(got) == len(right):
            pairs = enumerate(zip(got, right, strict=True))
            finding.number = next(i for i, (g, r) in pairs if not comparing.same(g, r, self.check.tolerance))
            got, right = got[finding.number], right[finding.number]
        if isinstance(got, Mapping) and isinstance(right, Mapping) and got.keys() == right.keys():
            name = next(name for name in right if not comparing.same(got[name], right[name], self.check.tolerance))
            got, right = got[name], right[name]
        finding.pair = got, right
        return finding

    def _in_float32(self, case: Case) -> Finding | None:
        """Models train in float32: where the stub asks for that dtype, a result must not be float64."""
        case = Case(*map(_to_float32, case.arguments), **case.options)
        for where, got in (("forward", self.run(case)), ("backward", self.run(case, self.douts(case)))):
            for array in got.value if isinstance(got.value, tuple) else [got.value]:
                if array is not None and np.asarray(array).dtype == np.float64:
                    sentence = f"{where} makes float64 of float32: the result must have the dtype of the input"
                    advice = "np.zeros(shape) and a mask divided by a number are float64; pass dtype, or astype"
                    return Finding("dtype", f"{where} of {self.check.name}", f"{sentence} ({advice})", got, {})
        return None


def in_plain_words(got: Answer, names: list[str]) -> str:
    """The exception as a sentence, with NumPy's messages about shapes in words."""
    message = str(got.raised)
    if got.line is None:  # not in the learner's file: raised where it was called, or where its result was read
        if isinstance(got.raised, TypeError) and "argument" in message:
            return f"it cannot be called with ({', '.join(names)}), as the stub has it: {message}"
        return f"what it returns cannot be read: {got.error}"
    return got.error + numpy_in_words(message)


def _kind_of(got: Any, right: Any) -> str:
    """The kind of a finding. Shapes are looked at before numbers, and both before nan."""
    several = isinstance(got, tuple) and isinstance(right, tuple)
    pairs = list(zip(got, right, strict=False)) if several else [(got, right)]
    with contextlib.suppress(TypeError, ValueError):  # texts, lists of several lengths
        if any(np.shape(g) != np.shape(r) for g, r in pairs):
            return "shape"
        if any((~np.isfinite(g) & np.isfinite(r)).any() for g, r in pairs):
            return "non-finite"
    return "values"


def _to_float32(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


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
    """The gradients that arrive at backward, one for each output of forward: one decimal, both signs, never 0."""
    douts, rng = [], np.random.default_rng(1)
    for output in out if isinstance(out, tuple) else (out,):
        dout = np.round(rng.uniform(-2, 2, np.shape(output)), 1)
        douts.append(np.asarray(np.where(dout == 0, 0.7, dout), np.asarray(output).dtype))
    return douts
