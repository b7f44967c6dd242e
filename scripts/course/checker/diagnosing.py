"""Why a result is wrong: the explanations in the order in which they are believed.

First come slips that an exercise names, then every small change of the right solution (searching.py), then changes of
the learner's file (repairing.py), then gradcheck, then the first step at which the learner's values and the right ones
part (steps.py): a vague diagnosis is better than a wrong one. What is found is data; words.py says it.
"""

from __future__ import annotations

import ast
import copy
import inspect
from typing import Any, NamedTuple

from minigrad import Tensor
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.gradcheck.diagnosis import Diagnosis

from .checks import Case
from .repairing import is_right, repair
from .searching import Search
from .steps import Apart, Runs
from .trial import Finding, Trial

SURE = {"cut off", "upstream"}  # kinds of gradcheck's diagnoses that come before all changes
VAGUE = {"", "partial", "incomplete", "unknown", "source", "shape", "factor"}  # not said by it alone


class Reason(NamedTuple):
    """Why a result is wrong. case: in which it is shown. line: of the learner's file.

    kind and fact: "random"; "remembers", something between two calls; "remark" and "slip", a sentence; "changes", of
    the right solution; "repair", of the learner's file; "gradcheck", the gradient's name and a Diagnosis; "finding",
    what was found says it. step: the first right one that the learner lacks.
    """

    kind: str
    case: Case
    fact: Any = None
    line: int | None = None
    step: Apart | None = None


def reason(trial: Trial, found: Finding, case: Case, first: Finding | None, witnesses: list[Case]) -> Reason:
    """The reason of what was found in `case`; `first` was found in the telling one."""
    if any("random" in vars(node).values() for node in ast.walk(ast.parse(trial.text))):
        return Reason("random", case)
    right, difference, telling = found.shown.get("right"), found.difference, trial.check.telling
    if isinstance(right, list) and right and right[-1] is None and found.answer.value[-1]:
        return Reason("remark", case, found.answer.value[-1])
    search = Search(trial, found, witnesses if first is not None else [case, *witnesses], first is not None)
    seen, of = case, found  # where steps are compared: in the telling case, if it shows the same
    if first is not None and (first.where, first.kind) == (found.where, found.kind):
        seen, of = telling, first
    runs = Runs(trial, seen, search.is_backward)
    line, step = runs.line_of(of.gradient), runs.lacking(of.gradient)

    # Slips that the exercise names, and what gradcheck knows for certain.
    slip, gradient, by_gradcheck, shown = search.slip(), "", Diagnosis("", ""), telling
    if slip is None and first is not None and first.where.startswith("backward"):
        gradient, by_gradcheck = ask_gradcheck(trial, first, telling)
        if ask_gradcheck(trial, found, case)[1].kind == by_gradcheck.kind:
            shown = case
        if by_gradcheck.kind in SURE:
            return Reason("gradcheck", shown, (gradient, by_gradcheck))
    # Changes of the right solution, and of the learner's file; those that people rarely make come last.
    changes = search.changes(usual=True) if slip is None else slip
    if changes is None and isinstance(right, list) and right and isinstance(right[found.number], str):
        return Reason("remark", case, found.answer.value[found.number])  # what a check's `call` says about it
    repaired = repair(runs, of, witnesses)
    if changes is None and repaired is None:
        changes = search.changes(usual=False)
    if changes is not None:
        name = "" if isinstance(changes, str) else changes[0].target
        line = repaired.line if repaired is not None else runs.line_of(name, search.program)
        shown = case if search.agreement(search.written, case) else telling
        return Reason("slip" if isinstance(changes, str) else "changes", shown, changes, line)
    if repaired is not None:
        return Reason("repair", case, repaired, repaired.line, step)
    # What is left says where the numbers differ, and how.
    if runs.answer.raised is None and is_right(runs, of, runs.answer):
        return Reason("remembers", case)
    if by_gradcheck.kind not in VAGUE and found.kind != "error":
        return Reason("gradcheck", shown, (gradient, by_gradcheck), line)
    return Reason("finding", case, None, line, None if difference is not None and difference.says_what else step)


def ask_gradcheck(trial: Trial, first: Finding, case: Case) -> tuple[str, Diagnosis]:
    """The gradient that gradcheck finds wrong in a case, and its diagnosis; of the kind "" if it finds nothing."""
    wanted = [gradient is not None for gradient in trial.reference.run(case, trial.douts(case)).value]

    def fn(*tensors: Any) -> Any:
        return trial.written.apply(*tensors, **copy.deepcopy(case.options))

    names = trial.names[: len(case.arguments)]
    fn.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names])  # type: ignore[attr-defined]
    inputs = [Tensor(a, requires_grad=True) if wanted[i] else a for i, a in enumerate(case.arguments)]
    try:
        gradcheck(fn, inputs)
    except GradcheckError as error:
        gradient = first.gradient if error.input_index is None else f"d{names[error.input_index]}"
        return gradient, error.diagnosis
    except Exception:
        return "", Diagnosis("", "")  # what the learner's code raised has been reported already
    return "", Diagnosis("", "")
