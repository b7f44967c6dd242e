"""Which change of the learner's own file makes it right?

One expression is changed at a time (minigrad/gradcheck/mutations.py), first in the statements where the learner's
values part from the right ones, then anywhere, loops and conditions included. The change names the learner's own line,
in the learner's own names, whatever way they went. It is believed only if it makes every case right that is wrong, and
leaves the others as they are. Where no change does, two may: the first one makes right what was wrong first.
"""

import ast
import copy
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from minigrad.gradcheck.mutations import CONDITION, OFF_BY_ONE, SEVERAL_LINES, STATEMENT, Change, mutants

from .checks import Case
from .searching import same
from .steps import Runs
from .trial import Answer, Finding, bare

MOST_PLACES = 4  # statements that are apart, in which rare mistakes are looked for as well
MOST_RUNS = 300  # of changed files
MOST_SECOND = 100  # runs in search of a second change
MOST_FIRST = 2  # changes that make right what was wrong first, for which a second one is looked for


class Other(NamedTuple):
    """Another case: the learner's answer, the right one, and whether something is wrong in it."""

    case: Case
    douts: Any
    answer: Answer
    goal: Answer
    fails: bool


class Changed(NamedTuple):
    """A change of a file, the changed file, and whether the change is in another method than the one that is wrong."""

    change: Change
    program: str
    is_elsewhere: bool


class Repairs:
    """Changes of the learner's file, after which what was `found` may be right."""

    def __init__(self, runs: Runs, found: Finding, witnesses: list[Case]):
        self.runs, self.found, self.witnesses, self.trial = runs, found, witnesses, runs.trial

    @functools.cached_property
    def others(self) -> list[Other]:
        """Other cases: in those that are right, a change must leave them so."""
        trial, others = self.trial, list[Other]()
        for case in self.witnesses:
            found = trial.test(case)
            if case is not self.runs.case and (found is None or found.where == self.found.where):
                douts = None if self.runs.douts is None else trial.douts(case)
                goal = trial.reference.run(case, douts)
                others.append(Other(case, douts, trial.run(case, douts), goal, found is not None))
        return others

    def other_runs(self, fails: bool) -> Iterator[Runs]:
        """The runs of the other cases that fail, or of those that are right."""
        for other in self.others:
            if other.fails is fails:
                yield Runs(self.trial, other.case, self.runs.douts is not None)

    def is_right_at_first(self) -> bool:
        """Whether the file is right when it runs for the first time."""
        return self.runs.answer.raised is None and self.is_right(self.runs, self.runs.answer)

    def helps(self, program: str, each: Any, given: Any = None) -> bool:
        """Whether a changed file is right in a case. given: see Recording."""
        return self.is_right(each, self.trial.recorded(program, each.case, each.douts, 0, given)[0])

    def is_right(self, each: Any, answer: Answer) -> bool:
        """Whether the result that was wrong is right in an answer; the others must be, too, or as they were before."""
        if answer.raised is not None:
            return False
        got, goal, before = (results(one.value) for one in (answer, each.goal, each.answer))
        tolerance = self.trial.check.tolerance
        wanted = self.wanted()
        if wanted not in goal or got.keys() != goal.keys():
            return same(answer.value, each.goal.value, tolerance)
        right = {key for key in goal if same(got[key], goal[key], tolerance)}
        return wanted in right and all(same(got[key], before.get(key), tolerance) for key in goal.keys() - right)

    def wanted(self) -> Any:
        """Of several results the number or the key of the one that is wrong."""
        found = self.found
        path = () if found.difference is None else found.difference.path
        return found.number if found.gradient else path[0] if len(path) == 1 else None

    def is_elsewhere(self, tree: ast.AST, line: int) -> bool:
        """Whether a line stands in another method than the one that is wrong."""
        part = self.found.where.partition(" of ")[0]
        others = [
            n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in {"forward", "backward"} - {part}
        ]
        return any(node.lineno <= line <= (node.end_lineno or 0) for node in others)

    def change(self, runs: Runs, most: int = MOST_RUNS) -> Change | None:
        """The most usual change after which a program is right; None if there is none. runs: the program's."""
        places = {place.line for place in runs.yours[:MOST_PLACES]}
        for is_apart in (True, False):  # first where values part, then anywhere
            tried = itertools.islice(self.possible(runs, places, is_apart), most)
            fits = [one for one in tried if self.helps(one.program, self.runs)]
            for change, program, _ in sorted(fits, key=lambda one: (one.is_elsewhere, one.change.rank)):
                if all(self.helps(program, other) for other in self.others) and self.keeps_forward(program):
                    return change
        return None

    def keeps_forward(self, program: str) -> bool:
        """Whether forward stays right, where backward is what is wrong: both may call the function that changed."""
        if self.runs.douts is None:
            return True
        case, tolerance = self.runs.case, self.trial.check.tolerance
        answer = self.trial.recorded(program, case, None, 0)[0]
        return answer.raised is None and same(answer.value, self.trial.reference.run(case).value, tolerance)

    def two_changes(self) -> list[Change]:
        """Two changes after which the file is right: after the first, what was wrong first is right; [] for none."""
        runs = self.runs
        tried = itertools.islice(self.possible(runs, {place.line for place in runs.yours[:1]}, True), MOST_RUNS)
        helping = (one for one in tried if one.change.kind != CONDITION and self.mends_first(one.program))
        for first, program, _ in itertools.islice(helping, MOST_FIRST):
            trial = copy.copy(self.trial)
            trial.text = program
            if second := self.change(Runs(trial, runs.case, runs.douts is not None), MOST_SECOND):
                # the program's own lines are others: it has no comments
                lines = dict(zip(lines_of(program), lines_of(self.trial.text), strict=True))
                return [first, second._replace(line=lines[second.line])]
        return []

    def mends_first(self, program: str) -> bool:
        """Whether the step that is wrong first is right in a changed file."""
        steps = self.trial.recorded(program, self.runs.case, self.runs.douts)[1]
        mine = [step for step in steps if step[1].endswith("=") and bare(step[1]) == self.runs.yours[0].name]
        return mine != [] and all(map(self.runs.is_right, mine))

    def possible(self, runs: Runs, places: set[int], is_apart: bool) -> Iterator[Changed]:
        """The small changes of a program in the lines `places`, or fewer ones in all others."""
        tree = ast.parse(runs.trial.text)
        for change in mutants(tree):
            most = 4 if is_apart else 3 if change.kind.startswith(OFF_BY_ONE) else 2
            is_here = (change.line in places) is is_apart and change.line not in runs.known
            is_small = change.rank < most and change.kind not in (STATEMENT, SEVERAL_LINES)
            is_odd = any(odd in change.new for odd in ("//", "+ 1 - 1", "- 1 + 1")) or "twice" in change.sentence
            is_odd |= change.old == f"`float({change.new[1:-1]})`"
            if is_here and is_small and not is_odd and change.old not in self.trial.booleans:
                yield Changed(change, ast.unparse(tree), self.is_elsewhere(tree, change.line))


def lines_of(program: str) -> list[int]:
    """The line of each statement."""
    return [node.lineno for node in ast.walk(ast.parse(program)) if isinstance(node, ast.stmt)]


def results(value: Any) -> dict[Any, Any]:
    """The results in a value, by their keys or numbers."""
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, tuple | list) else {None: value}
