"""From a learner's definitions to a verdict: the telling case first, then whatever Hypothesis draws.

Where a check fails, Hypothesis looks for the smallest case that fails, too, because three numbers are easier to follow
by hand than thirty. The diagnosis comes from the telling case, whose axes all differ in length. The search is bounded
by counts and never by the clock, so that the same file gets the same verdict everywhere.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase

from minigrad import Tensor
from minigrad.autograd import Context, Function
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.gradcheck.comparison import Comparison
from minigrad.gradcheck.jacobian import Subject

from . import comparing, source
from .checks import Case, Check, FunctionCheck, OpCheck, Verdict

SHRINKS = 80  # cases tried to make a failing one smaller
EXTREME = 100  # a case with numbers of this size counts for the part "extremes", and for no other
QUIET: Any = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}


def judge(checks: Sequence[Check], definitions: Mapping[str, Any], text: str, path: str, seed: int = 0) -> Verdict:
    """The verdict on a learner's `definitions`, which came from the program `text` in the file `path`."""
    started, cases = time.perf_counter(), 0
    for check in checks:
        with np.errstate(all="ignore"):
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
    written, arguments = definitions[check.name], [_frozen(argument) for argument in case.arguments]
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        if isinstance(check, FunctionCheck):
            Trial(check, definitions, "", "").run(case)
        else:
            ctx = Context()
            out = written.forward(ctx, *arguments, **case.options)
            written.backward(ctx, *map(np.ones_like, out if isinstance(out, tuple) else [out]))


class Trial:
    """One check of one file."""

    def __init__(self, check: Check, definitions: Mapping[str, Any], text: str, path: str):
        self.check, self.text, self.path = check, text, path
        self.written: Any = definitions.get(check.name)
        self.tolerance = check.tolerance if isinstance(check, FunctionCheck) else 1e-6

    def verdict(self, seed: int) -> Verdict:
        if (refusal := self._not_there()) is not None:
            return refusal
        first = self.test(self.check.telling)
        if first is not None and first.status != "wrong":
            first.shown = (self.check, self.check.telling)
            return first
        smallest, count = self._smallest_failing(seed, first)
        if first is None and smallest is None:
            return self._in_float32() or Verdict("passed", self.check.name, cases=count + 1)
        case = self.check.telling if smallest is None else smallest
        found = (first if smallest is None else self.test(smallest)) or first
        assert found is not None
        if found.status == "wrong":
            is_backward = found.where.startswith("backward of")
            slip = self._backward_slip() if is_backward else self._slip([self.check.telling, case])
            found.diagnosis = slip or (found if first is None else first).diagnosis
        found.cases, found.shown = count + 1, (self.check, case)
        return found

    def _not_there(self) -> Verdict | None:
        name, written = self.check.name, self.written
        if written is None:
            return Verdict("wrong", name, f"the file defines no {name}: its name must stay as it was in the stub")
        if isinstance(self.check, OpCheck):
            if not (isinstance(written, type) and issubclass(written, Function)):
                return Verdict("wrong", name, f"{name} must be a class that is derived from Function, as in the stub")
        elif not callable(written):
            return Verdict("wrong", name, f"{name} must be a function, as in the stub")
        return None

    # --- one case ---

    def test(self, case: Case) -> Verdict | None:
        """What is wrong with this case; None if nothing is."""
        where = "forward of " + self.check.name if isinstance(self.check, OpCheck) else self.check.name
        try:
            got = self.run(case)
        except Exception as error:
            return self._exception(error, where, case)
        expected = self.expected(case)
        sentence = comparing.difference(got, expected, self.tolerance)
        if sentence is not None:
            details = self._shown(case, {"yours": got, "right": expected})
            return self._located(Verdict("wrong", where, sentence, details))
        return self._test_backward(case) if isinstance(self.check, OpCheck) else None

    def run(self, case: Case) -> Any:
        """What the learner's forward or function gives; it gets arrays that cannot be written to, and copies else."""
        arguments = [_frozen(argument) for argument in case.arguments]
        options = copy.deepcopy(case.options)
        if isinstance(self.check, OpCheck):
            return self.written.forward(Context(), *arguments, **options)
        if self.check.call is not None:
            return self.check.call(self.written, *arguments, **options)
        return self.written(*arguments, **options)

    def expected(self, case: Case) -> Any:
        return self.check.expected(*[_frozen(argument) for argument in case.arguments], **copy.deepcopy(case.options))

    def _test_backward(self, case: Case) -> Verdict | None:
        where = "backward of " + self.check.name
        fn, inputs = self._as_gradcheck_wants(case)
        with contextlib.suppress(Exception):  # gradcheck meets the same exception, and says more about it
            if _passes(fn, inputs):
                return None
        try:
            gradcheck(fn, inputs)
        except GradcheckError as error:
            lines = str(error).split("\n")
            arrays = [line for line in lines[1:] if not line.startswith(("diagnosis", "wrong:"))]
            numbers = lines[0].partition(": ")[2]
            details = "\n".join(filter(None, [self._shown(case, {}), numbers, *arrays]))
            return self._blamed(Verdict("wrong", where, str(error.diagnosis), details), error)
        except Exception as error:
            return self._exception(error, where, case)
        return None

    def _blamed(self, verdict: Verdict, error: GradcheckError) -> Verdict:
        """With the input whose gradient is wrong, and the line that computes it: `dx = ...`, or the return."""
        if error.input_index is None:
            return self._located(verdict)
        names = [*inspect.signature(self.written.forward).parameters][1:]
        gradient = f"d{names[error.input_index]}"
        verdict.diagnosis = f"{gradient}: {verdict.diagnosis}"
        verdict.line = source.last_assignment(self.text, self.check.name, gradient)
        verdict.code = source.code_at(self.text, verdict.line)
        return verdict if verdict.line is not None else self._located(verdict)

    def parts(self, case: Case) -> dict[str, Callable[[], bool]]:
        """The tests of each part that this case belongs to."""

        def forward() -> bool:
            with contextlib.suppress(Exception), np.errstate(all="ignore"):
                return comparing.same(self.run(case), self.expected(case), self.tolerance)
            return False

        def backward() -> bool:
            with contextlib.suppress(Exception), np.errstate(all="ignore"):
                return _passes(*self._as_gradcheck_wants(case))
            return False

        is_op = isinstance(self.check, OpCheck)
        arrays = [np.asarray(number) for argument in case.arguments for number in _arrays(argument)]
        if any(array.dtype.kind == "f" and (np.abs(array) >= EXTREME).any() for array in arrays):
            return {"extremes": lambda: forward() and (not is_op or backward())}
        return {"forward": forward, "backward": backward} if is_op else {"result": forward}

    def _as_gradcheck_wants(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        """The learner's op with the expected forward: differences are then those of the right formula."""
        assert isinstance(self.check, OpCheck)
        written, expected, wanted = self.written, self.check.expected, self.check.differentiate

        class Mixed(Function):
            @staticmethod
            def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
                if any(ctx.needs_grad):  # for backward; its result was compared before
                    written.forward(ctx, *arrays, **copy.deepcopy(options))
                out = expected(*arrays, **options)
                return tuple(map(np.asarray, out)) if isinstance(out, list | tuple) else np.asarray(out)

            backward = staticmethod(written.backward)

        def fn(*tensors: Any) -> Any:
            return Mixed.apply(*tensors, **copy.deepcopy(case.options))

        parameters = list(inspect.signature(written.forward).parameters.values())[1 : len(case.arguments) + 1]
        fn.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # so that gradcheck says "x"
        fn.__name__ = self.check.name
        inputs: list[Any] = list(case.arguments)
        for i, argument in enumerate(inputs):
            if wanted is not None and isinstance(argument, np.ndarray):
                inputs[i] = Tensor(argument, requires_grad=i in wanted)
        return fn, inputs

    def _in_float32(self) -> Verdict | None:
        """Models train in float32: an op must not make float64 of it."""
        if not isinstance(self.check, OpCheck):
            return None
        telling = self.check.telling
        case = Case(*[_to_float32(argument) for argument in telling.arguments], **telling.options)
        got = self.run(case)
        for array in got if isinstance(got, tuple | list) else [got]:
            if np.asarray(array).dtype == np.float64:
                sentence = (
                    "forward makes float64 of float32, and models train in float32: look for a float64 array in it"
                )
                return self._located(Verdict("wrong", f"forward of {self.check.name}", sentence))
        return None

    # --- the smallest case ---

    def _smallest_failing(self, seed: int, first: Verdict | None) -> tuple[Case | None, int]:
        """The smallest failing case of those that Hypothesis tries, and how many it tried."""
        cases = drawn(self.check.cases, self.check.examples, seed)
        if first is None and all(self.test_quickly(case) is None for case in cases):
            return None, len(cases)  # the search below would try the same ones
        failing: list[Case] = []
        where: list[str] = []  # of each failing case, what is wrong with it
        forward = "forward of " + self.check.name
        tried = after = 0

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=self.check.examples,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            **QUIET,
        )
        @hypothesis.given(self.check.cases)
        def search(case: Case) -> None:
            nonlocal tried, after
            tried += 1
            after += bool(failing)
            if after > SHRINKS:
                return
            found = self.test_quickly(case)
            wanted = first.where if first is not None else where[0] if where else found
            if found is not None and found in (wanted, forward):  # a wrong forward is the better thing to show
                where.append(found)
                failing.append(case)
                raise _Failing

        try:
            search()
        except Exception as error:
            if not failing:
                raise
            del error  # the search was cut short, or ended with the case that is in `failing`
        shown = [case for case, place in zip(failing, where, strict=True) if place == forward] or failing
        return min(shown, key=_size, default=None), tried

    def test_quickly(self, case: Case) -> str | None:
        """Where this case fails, without finding out why; None if it passes."""
        if isinstance(self.check, FunctionCheck):
            found = self.test(case)
            return None if found is None else found.where
        where = "forward of " + self.check.name
        with contextlib.suppress(Exception):
            if comparing.same(self.run(case), self.expected(case)):
                where = "backward of " + self.check.name
                if _passes(*self._as_gradcheck_wants(case)):
                    return None
        return where

    # --- words ---

    def _slip(self, cases: list[Case]) -> str | None:
        """The sentence of the well-known slip that gives what the learner's gives, in all cases."""
        for slip in self.check.slips:
            with contextlib.suppress(Exception):
                pairs = [(self.run(case), slip.formula(*case.arguments, **case.options)) for case in cases]
                if all(comparing.same(got, slipped, self.tolerance) for got, slipped in pairs):
                    return slip.sentence
        return None

    def _backward_slip(self) -> str | None:
        """The same for the gradients of the telling case, for some dout."""
        assert isinstance(self.check, OpCheck)
        case, op = self.check.telling, self.written
        for slip in self.check.backward_slips:
            with contextlib.suppress(Exception):
                ctx = Context()
                out = op.forward(ctx, *[_frozen(argument) for argument in case.arguments], **case.options)
                dout = np.random.default_rng(1).standard_normal(np.shape(out))
                wanted = slip.formula(dout, *case.arguments, **case.options)
                got = op.backward(ctx, dout)
                pairs = [(g, w) for g, w in zip(got, wanted, strict=True) if w is not None]
                if all(comparing.same(g, w) for g, w in pairs):
                    return slip.sentence
        return None

    def _exception(self, error: Exception, where: str, case: Case) -> Verdict:
        line = source.line_of(error, self.path)
        if isinstance(error, NotImplementedError):
            verdict = Verdict("unfinished", where, f"a TODO is still open: {error}" if str(error) else "a TODO is open")
        elif isinstance(error, source.UsesLibrary):
            verdict = Verdict("refused", where, str(error))
        elif isinstance(error, MemoryError):
            verdict = Verdict("memory", where, "it needs more memory than it may have", self._shown(case, {}))
        elif isinstance(error, ValueError) and "read-only" in str(error):
            sentence = "it writes to its input, which belongs to somebody else: compute into a new array"
            verdict = Verdict("wrong", where, sentence)
        else:
            sentence = f"{type(error).__name__}: {error}"
            verdict = Verdict("error", where, sentence, self._shown(case, {}))
        verdict.line, verdict.code = line, source.code_at(self.text, line)
        return verdict

    def _located(self, verdict: Verdict) -> Verdict:
        """With the line that returned what is wrong."""
        part, _, name = verdict.where.rpartition(" of ")
        verdict.line = source.last_return(self.text, name, part)
        verdict.code = source.code_at(self.text, verdict.line)
        return verdict

    def _shown(self, case: Case, more: dict[str, Any]) -> str:
        try:
            written: Any = self.written.forward if isinstance(self.check, OpCheck) else self.written
            names = [*inspect.signature(written).parameters][isinstance(self.check, OpCheck) :]
        except (TypeError, ValueError):
            names = []
        if isinstance(self.check, FunctionCheck) and self.check.call is not None:
            names = [*inspect.signature(self.check.call).parameters][1:]
        names += [f"argument {i}" for i in range(len(names), len(case.arguments))]
        rows = {**dict(zip(names, case.arguments, strict=False)), **case.options, **more}
        width = max(map(len, rows), default=0)
        return "\n".join(
            f"{name:{width}} = {comparing.shown(value, ' ' * (width + 3))}" for name, value in rows.items()
        )


class _Failing(Exception):
    pass


def _passes(fn: Callable[..., Any], inputs: list[Any]) -> bool:
    """Whether gradcheck would pass, without its search for a diagnosis."""
    comparison = Comparison(Subject(fn, inputs), None, None, 1e-5)
    comparison.backward()
    comparison.central()
    return not comparison.is_wrong and not list(comparison.not_linear())


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        view = value.copy()
        view.flags.writeable = False
        return view
    if isinstance(value, list | tuple) and any(isinstance(part, np.ndarray) for part in value):
        return type(value)(_frozen(part) for part in value)
    return copy.deepcopy(value)


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
