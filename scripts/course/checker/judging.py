"""From a learner's definitions to a verdict: cases, a diagnosis that holds in all of them, the smallest that fails.

Where a learner's result differs from the right one (trial.py), diagnosing.py looks for the reason. Hypothesis looks for
the smallest case that fails, because three numbers are easier to follow by hand than thirty. The search is bounded by
counts and never by the clock: the same file gets the same verdict everywhere.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase

from minigrad.autograd import Function

from . import diagnosing, source, words
from .checks import Case, Check, Verdict
from .trial import Finding, Trial, arrays

SHRINKS = 200  # cases tried to make a failing one smaller
QUIET: Any = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck),
              "report_multiple_bugs": False}  # fmt: skip
WITNESSES = 48  # cases, besides the telling and the smallest one, in which a diagnosis must hold
EXPLAINED = ("values", "shape", "error", "non-finite")  # kinds of findings whose reason is looked for
STATUSES = ("unfinished", "refused", "error", "memory")  # kinds that are a status; the others are "wrong"


def judge(
    checks: Sequence[Check], definitions: Mapping[str, Any], text: str, path: str, seed: int = 0, explain: bool = True
) -> Verdict:
    """The verdict on a learner's `definitions`, which came from the program `text` in the file `path`.

    explain: look for the reason of a wrong result; otherwise the verdict says only how the numbers differ.
    """
    started = time.perf_counter()
    cases = 0
    for i, check in enumerate(checks):
        trial = Trial(check, definitions, text, path, [other.name for other in checks[:i] if other.name != check.name])
        refusal = missing_definition(trial)
        verdict = verdict_of_check(trial, seed, explain) if refusal is None else Verdict("wrong", check.name, refusal)
        cases += verdict.cases
        if not verdict.passed:
            break
    verdict.cases = cases
    verdict.seconds = round(time.perf_counter() - started, 3)
    return verdict


def parts(checks: Sequence[Check], definitions: Mapping[str, Any], seed: int, passed: bool) -> dict[str, bool]:
    """Whether each part is right, judged without the others: backward may be right where forward is wrong."""
    right: dict[str, bool] = {}
    for check in checks:
        trial = Trial(check, definitions)
        for case in (check.telling, *drawn(check.cases, check.examples, seed)):
            for part, test in trial.parts(case).items():
                right[part] = passed or (right.get(part, True) and test())
    return right


@functools.cache
def drawn(strategy: Any, count: int, seed: int) -> list[Case]:
    """Draw the cases of a check, without testing them."""
    cases: list[Case] = []
    search = hypothesis.given(strategy)(lambda case: cases.append(case))
    hypothesis.seed(seed)(hypothesis.settings(max_examples=count, phases=[Phase.generate], **QUIET)(search))()
    return cases


def run_once(check: Check, case: Case, douts: list[np.ndarray] | None, definitions: Mapping[str, Any]) -> None:
    """Run forward and backward of one case, or call the function: to see what it prints, or to step through it."""
    trial = Trial(check, definitions)
    trial.run(case, douts or trial.douts(case))


def missing_definition(trial: Trial) -> str | None:
    """The sentence for a file without the op or function that is checked; None if the file has it."""
    name, written = trial.check.name, trial.written
    if not callable(written):
        return f"the file defines no {name}: its name must stay as it was in the stub"
    if trial.is_op and not (isinstance(written, type) and issubclass(written, Function)):
        return f"{name} must be a class that is derived from Function, as in the stub"
    return None


def verdict_of_check(trial: Trial, seed: int, explain: bool) -> Verdict:
    """The verdict by one check: the first case that fails, the reason, and the smallest case that shows it."""
    check = trial.check
    found = first = trial.test(check.telling)
    case = check.telling
    diagnosis = ""
    line = None
    tried = list[Case]()
    try:
        smallest, failing, tried = smallest_failing(trial, seed, first)
        found, case = (failing, smallest) if failing is not None else (first, case)
        if found is not None and explain and found.kind in EXPLAINED:
            witnesses = [check.telling, case, *tried[:WITNESSES]]
            if found.difference is not None:
                found.difference = found.difference.confirmed(None if first is None else first.difference)
            reason = diagnosing.reason(trial, found, case, first, witnesses)
            diagnosis = words.of_reason(trial, found, reason)
            line = reason.line
            case = reason.case
            found = trial.test(reason.case) or found
    except Exception as error:  # a mistake of ours: what is known to be wrong stays wrong
        if found is None:
            raise
        diagnosis = f"{words.of_finding(trial, found)}; {source.fault(error)} while it looked for the reason"
    if found is None:
        return Verdict("passed", check.name, cases=len(tried) + 1)
    status = found.kind if found.kind in STATUSES else "wrong"
    diagnosis = diagnosis or words.of_finding(trial, found)
    verdict = Verdict(status, found.where, diagnosis, cases=len(tried) + 1)
    verdict.details = words.of_case(trial, case, found.shown)
    verdict.shown = (check, case, found.douts)
    verdict.line = line or found.answer.line
    verdict.code = source.code_at(trial.text, verdict.line)
    return verdict


def smallest_failing(trial: Trial, seed: int, first: Finding | None) -> tuple[Case, Finding | None, list[Case]]:
    """The smallest failing case of those that Hypothesis tries, what is wrong with it, and the cases drawn."""
    check = trial.check
    cases = drawn(check.cases, check.examples, seed)
    if first is None and all(trial.test(case) is None for case in cases):
        return check.telling, None, cases  # the search below would try the same ones
    failing: list[tuple[Case, Finding]] = []
    wanted = [] if first is None else [(first.kind, first.where)]
    after = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=check.examples, phases=[Phase.generate, Phase.shrink], **QUIET)
    @hypothesis.given(check.cases)
    def search(case: Case) -> None:
        nonlocal after
        after += bool(failing)
        if after > SHRINKS:
            raise _Enough
        found = trial.test(case)
        if found is not None and (found.kind, found.where) in (wanted or [(found.kind, found.where)]):
            wanted.append((found.kind, found.where))
            failing.append((case, found))
            raise AssertionError

    try:
        search()
    except (Exception, _Enough):
        if not failing:
            raise  # a mistake of ours
    drawn_ones = [(case, trial.test(case)) for case in cases]  # one of these may be smaller still
    failing += [(case, found) for case, found in drawn_ones if found and (found.kind, found.where) in wanted]
    return *min(failing, key=lambda pair: _size(*pair), default=(check.telling, None)), cases


class _Enough(BaseException):
    """Ends Hypothesis' search at once: it catches each Exception, and would look for another case."""


def _size(case: Case, found: Finding) -> tuple[float, ...]:
    """A key that orders failing cases by how easy they are to follow: the difference can be seen in the digits that are
    shown, there are few numbers, they are short, and few are 0, which hides what a formula does with them.
    """
    results = [words.shown(value) for name, value in found.shown.items() if name.startswith(("your", "right"))]
    numbers = [np.asarray(n, dtype=float) for a in (*case.arguments, *case.options.values()) for n in arrays(a)]
    return (
        len(results) == 2 and results[0] == results[1],
        sum(n.size for n in numbers),
        sum(len(repr(a)) for a in case.arguments if not isinstance(a, np.ndarray)),
        sum(len(f"{x:.3g}") if x else 4 for n in numbers for x in n.ravel()),
    )
