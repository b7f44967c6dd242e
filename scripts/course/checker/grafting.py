"""Which line of the learner's file would be right with a value of a right solution?

Where no small change of the file helps (repairing.py), what one statement computes is replaced by the value of one step
of a right solution, in every round of a loop. If the result is right then, also in other cases in which it was wrong,
this is the line, and the step's formula is what belongs there:

    h = policy_chosen - policy_rejected         with the values of  h = (policy_chosen - reference_chosen) - ...  right
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from minigrad.gradcheck.mutations import target_of

from .comparing import same
from .repairing import Repairs
from .steps import Runs, by_place, computing, words
from .trial import bare


class Graft(NamedTuple):
    """With the values of a right solution's step, `said` in its line `right`, the learner's `line` is right."""

    line: int
    right: int
    said: str


def graft(repairs: Repairs, all_runs: list[Runs]) -> Graft | None:
    """A line of the learner's in whose place the values of a right step help; None if there is none.

    Of several it is the first in the wrong method whose own values are wrong. What a line uses must be right. all_runs:
    of the case that is looked at, and of others that fail.
    """
    runs, trial = repairs.runs, repairs.trial
    computes = computing(trial.reference.text)
    # not "return =" of a number: it stands for other values as well
    told = by_place([step for step in runs.right_steps if step[1] != "return =" or step[2].ndim])
    right = [step for step in told if not step[1].endswith("=") or step[0] in computes]
    right.sort(key=lambda step: not step[1].endswith("="))  # those with a name first
    tree = ast.parse(trial.text)
    order = {step[:2]: i for i, step in reversed([*enumerate(runs.steps)])}
    places = []
    for statement in [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]:
        value = getattr(statement, "value", None)
        for part in value.elts if isinstance(value, ast.Tuple) else [value]:
            place = statement.lineno, ast.unparse(part) if isinstance(part, ast.AST) else ""
            if place in order and not words(place[1]) & unsure(runs, tree, order[place]):
                # not a count, which the right run may have by chance
                keeps = all(
                    step[2].dtype.kind == "f" and runs.is_right(step) for step in runs.steps if step[:2] == place
                )
                places.append((repairs.is_elsewhere(tree, place[0]), keeps, order[place], place, target_of(statement)))
    for *_, place, target in sorted(places):
        for step in right:
            if all(helps(repairs, each, place, target, step) for each in all_runs):
                return Graft(place[0], *step)
    return None


def helps(repairs: Repairs, runs: Runs, place: tuple[int, str], target: str, step: tuple[int, str]) -> bool:
    """Whether the result of a case is right with the values of a right step in the place of the learner's."""
    mine, values = by_place(runs.steps).get(place, []), by_place(runs.right_steps).get(step, [])
    values = values * len(mine) if len(values) == 1 else values
    alike = [a.shape == b.shape or target == bare(step[1]) for a, b in zip(mine, values, strict=False)]
    if len(mine) != len(values) or not alike or not all(alike) or same(mine, values):
        return False
    given: Any = [*place, values]
    return repairs.is_right(runs, runs.trial.recorded(runs.trial.text, runs.case, runs.douts, 0, given)[0])


def unsure(runs: Runs, tree: ast.Module, begun: int) -> set[str]:
    """The names whose values are not known to be right before a step: where one is used, the mistake may be earlier."""
    last = {bare(step[1]): step for step in runs.steps[:begun] if step[1].endswith("=")}
    nodes, lines = list(ast.walk(tree)), computing(runs.trial.text)
    computed = {bare(target_of(node)) for node in nodes if isinstance(node, ast.stmt) and node.lineno in lines}
    apart = {name for name, step in last.items() if step[2].dtype.kind == "f" and not runs.is_right(step)}
    inputs = {node.arg for node in nodes if isinstance(node, ast.arg)}
    found = computed - last.keys() - inputs | apart
    loops = [node for node in nodes if isinstance(node, ast.For) and words(ast.unparse(node.iter)) & found]
    return found.union(*(words(ast.unparse(node.target)) for node in loops))
