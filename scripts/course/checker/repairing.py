"""Which change of the learner's own file makes it right?

One expression is changed at a time (minigrad/gradcheck/mutations.py), first in the statements where the learner's
values part from the right ones, then anywhere, loops and conditions included. The change names the learner's own line,
in the learner's own names, whatever way they went.
"""

from __future__ import annotations

import ast
from typing import Any

from minigrad.gradcheck.mutations import OFF_BY_ONE, SEVERAL_LINES, STATEMENT, Change, mutants

from .checks import Case
from .searching import same
from .steps import Runs
from .trial import Answer, Finding

MOST_PLACES = 4  # statements that are apart, in which rare mistakes are looked for as well
MOST_RUNS = 300  # of changed files
WITNESSES = 12  # cases, besides the one that is looked at, in which a repair must hold


def repair(runs: Runs, found: Finding, witnesses: list[Case]) -> Change | None:
    """The most usual change of the learner's file after which what was found is right; None if there is none."""
    if runs.answer.raised is None and is_right(runs, found, runs.answer):
        return None  # it is right where it runs for the first time
    places = [place.line for place in runs.yours[:MOST_PLACES]]
    for is_apart in (True, False):  # first where values part, then anywhere
        tree = ast.parse(runs.trial.text)
        tried = 0
        fits: list[tuple[int, int, Change, str]] = []
        for change in mutants(tree):
            most = 4 if is_apart else 3 if change.kind.startswith(OFF_BY_ONE) else 2
            is_here = (change.line in places) is is_apart and change.line not in runs.known
            if is_here and change.rank < most and change.kind not in (STATEMENT, SEVERAL_LINES) and tried < MOST_RUNS:
                tried += 1
                program = ast.unparse(tree)
                if is_right(runs, found, runs.trial.recorded(program, runs.case, runs.douts, 0)[0]):
                    fits.append((change.rank, len(fits), change, program))
        for _, _, change, program in sorted(fits, key=lambda fit: fit[:2]):
            if holds(runs, found, witnesses, program):
                return change
    return None


def is_right(runs: Runs, found: Finding, answer: Answer) -> bool:
    """Whether the result that was wrong is right in an answer, and what was right still is."""
    if answer.raised is not None:
        return False
    got, goal, before = (results(each.value) for each in (answer, runs.goal, runs.answer))
    tolerance = runs.trial.check.tolerance
    wanted = wanted_of(found)
    if wanted not in goal or got.keys() != goal.keys():
        return same(answer.value, runs.goal.value, tolerance)
    was_right = [key for key in goal if key in before and same(before[key], goal[key], tolerance)]
    return all(same(got[key], goal[key], tolerance) for key in [wanted, *was_right])


def holds(runs: Runs, found: Finding, witnesses: list[Case], program: str) -> bool:
    """Whether a changed file is right in most other cases in which the learner's is wrong, and in the telling one."""
    trial = runs.trial
    wanted = wanted_of(found)
    right = list[bool]()
    for case in witnesses:
        other = trial.test(case) if len(right) < WITNESSES else None
        if other is not None and other.where == found.where:
            douts = None if runs.douts is None else trial.douts(case)
            got = results(trial.recorded(program, case, douts, 0)[0].value)
            goal = results(trial.reference.run(case, douts).value)
            right.append(wanted in got and same(got[wanted], goal.get(wanted), trial.check.tolerance))
            if case is trial.check.telling and not right[-1]:
                return False
    return sum(right) >= 0.9 * len(right)


def wanted_of(found: Finding) -> Any:
    """Of several results the number or the key of the one that is wrong."""
    if found.gradient:
        return found.number
    return found.difference.path[0] if found.difference is not None and found.difference.path else None


def results(value: Any) -> dict[Any, Any]:
    """The results in a value, by their keys or numbers."""
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, tuple | list) else {None: value}
