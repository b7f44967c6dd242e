"""From a learner's definitions to a verdict: cases, a diagnosis that holds in all of them, the smallest that fails.

Right is what the exercise's completed stub gives, forward and backward. Where a learner's result differs,
diagnosing.py looks for the reason. Hypothesis looks for the smallest case that fails, because three numbers are easier
to follow by hand than thirty. The search is bounded by counts and never by the clock: the same file gets the same
verdict everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase

from minigrad.autograd import Function

from . import comparing, diagnosing, source
from .answering import Answer, answer, douts_for
from .checks import Case, Check, OpCheck, Verdict

SHRINKS = 80  # cases tried to make a failing one smaller
EXTREME = 100  # a case with numbers of this size counts for the part "extremes", and for no other
QUIET: Any = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
WITNESSES = 24  # cases, besides the telling and the smallest one, in which a diagnosis must hold


def judge(checks: Sequence[Check], definitions: Mapping[str, Any], text: str, path: str, seed: int = 0) -> Verdict:
    """The verdict on a learner's `definitions`, which came from the program `text` in the file `path`."""
    started, cases = time.perf_counter(), 0
    for check in checks:
        verdict = Trial(check, definitions, text, path).verdict(seed)
        cases += verdict.cases
        if not verdict.passed:
            break
    verdict.cases, verdict.seconds = cases, round(time.perf_counter() - started, 3)
    return verdict


def parts(checks: Sequence[Check], definitions: Mapping[str, Any], seed: int, passed: bool) -> dict[str, bool]:
    """Which parts are right, each judged without the others: backward also where forward is wrong, for one."""
    right: dict[str, bool] = {}
    for check in checks:
        trial = Trial(check, definitions, "", "")
        for case in (check.telling, *drawn(check.cases, check.examples, seed)):
            for part, test in trial.parts(case).items():
                right[part] = passed or (right.get(part, True) and test())
    return right


@functools.cache
def drawn(strategy: Any, count: int, seed: int) -> list[Case]:
    """The cases that a check draws, nothing failing."""
    cases: list[Case] = []
    search = hypothesis.given(strategy)(lambda case: cases.append(case))
    hypothesis.seed(seed)(hypothesis.settings(max_examples=count, phases=[Phase.generate], **QUIET)(search))()
    return cases


def run_once(check: Check, case: Case, definitions: Mapping[str, Any]) -> None:
    """Forward and backward of one case, or a call: for what they print, and to step through."""
    trial = Trial(check, definitions, "", "")
    trial.run(case, trial.douts(case))


@dataclasses.dataclass
class Finding:
    """That one case is wrong. kind: in what way, for programs. sentence: what would repair the numbers, if something
    simple does; plain: what they are. number: of several results the one that is wrong; gradient: its name in backward.
    """

    kind: str
    where: str
    sentence: str
    answer: Answer
    shown: dict[str, Any]
    number: int = 0
    gradient: str = ""
    plain: str = ""
    wrong: Any = None  # which elements


class Trial:
    """One check of one file."""

    def __init__(self, check: Check, definitions: Mapping[str, Any], text: str, path: str):
        self.check, self.text, self.path = check, text, path
        self.written: Any = definitions.get(check.name)
        self.reference = diagnosing.Reference(check)

    def verdict(self, seed: int) -> Verdict:
        if (refusal := self._not_there()) is not None:
            return refusal
        first = self.test(self.check.telling)
        smallest, failing, tried = self._smallest_failing(seed, first)
        if first is None and failing is None:
            return Verdict("passed", self.check.name, cases=len(tried) + 1)
        found = failing if failing is not None else first
        assert found is not None
        case = self.check.telling if failing is None else smallest
        assert case is not None
        verdict = Verdict(STATUS.get(found.kind, "wrong"), found.where, found.sentence, cases=len(tried) + 1)
        if found.kind in ("values", "shape", "error", "non-finite"):
            witnesses = [self.check.telling, case, *tried[:WITNESSES]]
            reason, case = diagnosing.reason(self, found, case, first, witnesses)
            found = self.test(case) or found
            verdict.diagnosis = reason
        verdict.details, verdict.shown = self.details(case, found.shown), (self.check, case)
        verdict.line = found.answer.line or self._line(found)
        verdict.code = source.code_at(self.text, verdict.line)
        return verdict

    def _not_there(self) -> Verdict | None:
        name, written = self.check.name, self.written
        if written is None:
            return Verdict("wrong", name, f"the file defines no {name}: its name must stay as it was in the stub")
        if isinstance(self.check, OpCheck):
            if not (isinstance(written, type) and issubclass(written, Function)):
                return Verdict("wrong", name, f"{name} must be a class that is derived from Function, as in the stub")
            if missing := [part for part in ("forward", "backward") if not callable(getattr(written, part, None))]:
                return Verdict("wrong", name, f"{name} has no {missing[0]}: its name must stay as it was in the stub")
        elif not callable(written):
            return Verdict("wrong", name, f"{name} must be a function, as in the stub")
        return None

    # --- one case ---

    def run(self, case: Case, douts: Sequence[Any] | None = None) -> Answer:
        return answer(self.written, self.path, self.check, case, douts)

    def test(self, case: Case) -> Finding | None:
        """What is wrong with this case; None if nothing is."""
        is_op = isinstance(self.check, OpCheck)
        where = "forward of " + self.check.name if is_op else self.check.name
        got, right = self.run(case), self.reference.run(case)
        if (finding := self._failed(got, where, {})) is not None:
            return finding
        if (sentence := comparing.difference(got.value, right.value, self.check.tolerance)) is not None:
            shown = {"yours": got.value, "right": right.value}
            finding = Finding(_kind_of(got.value, right.value), where, sentence, got, shown)
            return self._described(finding, got.value, right.value, "the result")
        return self._test_backward(case, right.value) if is_op else None

    def douts(self, case: Case) -> list[np.ndarray] | None:
        """The gradients that arrive at an op; None for a function."""
        return douts_for(self.reference.run(case).value) if isinstance(self.check, OpCheck) else None

    def parts(self, case: Case) -> dict[str, Callable[[], bool]]:
        """The tests of each part that this case belongs to."""

        def forward() -> bool:
            got, right = self.run(case), self.reference.run(case)
            return got.raised is None and comparing.same(got.value, right.value, self.check.tolerance)

        def backward() -> bool:
            return self._test_backward(case, self.reference.run(case).value) is None

        is_op = isinstance(self.check, OpCheck)
        arrays = [np.asarray(number) for argument in case.arguments for number in _arrays(argument)]
        if any(array.dtype.kind == "f" and (np.abs(array) >= EXTREME).any() for array in arrays):
            return {"extremes": lambda: forward() and (not is_op or backward())}
        return {"forward": forward, "backward": backward} if is_op else {"result": forward}

    def _failed(self, got: Answer, where: str, shown: dict[str, Any]) -> Finding | None:
        """Was something raised, or an input changed?"""
        error = got.raised
        if error is None and not got.changed:
            return None
        if error is None or (isinstance(error, ValueError) and "read-only" in str(error)):
            what = "dout or another array" if where.startswith("backward") else "its input"
            sentence = f"it writes to {what}, which belongs to somebody else: compute into a new array, or copy first"
            return Finding("changed", where, sentence, got, shown)
        if isinstance(error, NotImplementedError):
            return Finding("unfinished", where, f"a TODO is still open: {error}".rstrip(": "), got, shown)
        if isinstance(error, source.UsesLibrary):
            return Finding("refused", where, str(error), got, shown)
        if isinstance(error, MemoryError):
            return Finding("memory", where, "it needs more memory than it may have", got, shown)
        return Finding("error", where, diagnosing.in_plain_words(got, self.names()), got, shown)

    def _test_backward(self, case: Case, out: Any) -> Finding | None:
        where, names = "backward of " + self.check.name, self.names()
        douts = douts_for(out)
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
            sentence = comparing.difference(g, np.asarray(r), self.check.tolerance, name)
            if sentence is not None:
                if g is None:
                    sentence = f"{name} is None: no gradient reaches {name[1:]}"
                shown |= {f"your {name}": g, f"right {name}": r}
                return self._described(Finding(_kind_of(g, r), where, sentence, got, shown, i, name), g, r, name)
        return self._in_float32(case) if isinstance(self.check, OpCheck) and self.check.in_float32 else None

    def _described(self, finding: Finding, got: Any, right: Any, what: str) -> Finding:
        finding.plain = comparing.difference(got, right, self.check.tolerance, what, guess=False) or ""
        if isinstance(got, tuple | list) and isinstance(right, tuple | list) and len(got) == len(right):
            pairs = enumerate(zip(got, right, strict=True))
            finding.number = next(i for i, (g, r) in pairs if not comparing.same(g, r, self.check.tolerance))
        elif np.shape(got) == np.shape(right) and np.asarray(right).dtype.kind == "f":
            finding.wrong = ~np.isclose(got, right, rtol=self.check.tolerance, equal_nan=True)
        return finding

    def _in_float32(self, case: Case) -> Finding | None:
        """Models train in float32: where the stub asks for that dtype, a result must not be float64."""
        case = Case(*[_to_float32(argument) for argument in case.arguments], **case.options)
        out = self.run(case)
        for where, got in (("forward", out), ("backward", self.run(case, douts_for(self.reference.run(case).value)))):
            for array in got.value if isinstance(got.value, tuple) else [got.value]:
                if array is not None and np.asarray(array).dtype == np.float64:
                    sentence = f"{where} makes float64 of float32: the result must have the dtype of the input"
                    advice = "np.zeros(shape) and a mask divided by a number are float64; pass dtype, or astype"
                    return Finding("dtype", f"{where} of {self.check.name}", f"{sentence} ({advice})", got, {})
        return None

    # --- the smallest case ---

    def _smallest_failing(self, seed: int, first: Finding | None) -> tuple[Case | None, Finding | None, list[Case]]:
        """The smallest failing case of those that Hypothesis tries, what is wrong with it, and the cases drawn."""
        cases = drawn(self.check.cases, self.check.examples, seed)
        if first is None and all(self.test(case) is None for case in cases):
            return None, None, cases  # the search below would try the same ones
        failing: list[tuple[Case, Finding]] = []
        wanted = [] if first is None else [(first.kind, first.where)]
        after = 0

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=self.check.examples,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            **QUIET,
        )
        @hypothesis.given(self.check.cases)
        def search(case: Case) -> None:
            nonlocal after
            after += bool(failing)
            if after > SHRINKS:
                return
            found = self.test(case)
            if found is not None and (found.kind, found.where) in (wanted or [(found.kind, found.where)]):
                wanted.append((found.kind, found.where))
                failing.append((case, found))
                raise _Failing

        try:
            search()
        except Exception:
            if not failing:
                raise  # a mistake of ours
        smallest, found = min(failing, key=lambda pair: _size(pair[0]), default=(None, None))
        return smallest, found, cases

    # --- words ---

    def names(self) -> list[str]:
        """Of the inputs, as the stub calls them."""
        return self.reference.names

    def _line(self, finding: Finding) -> int | None:
        """The line that computes what is wrong: `dx = ...`, or the return."""
        line = source.last_assignment(self.text, self.check.name, finding.gradient) if finding.gradient else None
        part, _, name = finding.where.rpartition(" of ")
        return line or source.last_return(self.text, name, part)

    def details(self, case: Case, more: dict[str, Any]) -> str:
        names = list(self.names())
        names += [f"argument {i}" for i in range(len(names), len(case.arguments))]
        rows = {**dict(zip(names, case.arguments, strict=False)), **case.options, **more}
        width = max(map(len, rows), default=0)
        return "\n".join(
            f"{name:{width}} = {comparing.shown(value, ' ' * (width + 3))}" for name, value in rows.items()
        )


STATUS = {"unfinished": "unfinished", "refused": "refused", "error": "error", "memory": "memory"}


class _Failing(Exception):
    pass


def _kind_of(got: Any, right: Any) -> str:
    """Shapes are looked at before numbers, and both before nan."""
    several = isinstance(got, tuple) and isinstance(right, tuple)
    pairs = list(zip(got, right, strict=False)) if several else [(got, right)]
    try:
        if any(np.shape(g) != np.shape(r) for g, r in pairs):
            return "shape"
        if any((~np.isfinite(g) & np.isfinite(r)).any() for g, r in pairs):
            return "non-finite"
    except (TypeError, ValueError):
        pass  # texts, lists of several lengths
    return "values"


def _to_float32(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def _size(case: Case) -> tuple[float, ...]:
    """How much there is to read: numbers, and how large they are."""
    numbers = [np.asarray(n, dtype=float) for a in (*case.arguments, *case.options.values()) for n in _arrays(a)]
    characters = sum(len(repr(a)) for a in case.arguments if not isinstance(a, np.ndarray))
    return (
        sum(n.size for n in numbers),
        characters,
        float(sum(np.nan_to_num(np.abs(n), posinf=1e9).sum() for n in numbers)),
        float(sum((n < 0).sum() for n in numbers)),
    )


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [found for part in value for found in _arrays(part)]
    return [value] if isinstance(value, np.ndarray | np.generic | int | float) else []
