"""The learner's run of a case beside a right one: where do their values part?

A step counts as right if its numbers are among those of the other run, in whatever shape and order of axes: there are
many ways to write a formula. A step that the other run does not have may still be right, in another way of doing it: it
is, if a later step that builds on it is.
"""

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .checks import Case
from .trial import Trial, arrays, bare
from .worker import EXPRESSIONS, Step


class Apart(NamedTuple):
    """A statement whose value the other run does not have: its line, the name that gets it, and whether it is in a loop
    whose first value the other run has.
    """

    line: int
    name: str
    is_later: bool


class Runs:
    """The learner's run of a case, `steps` and `answer`, and a right one, `right_steps` and `goal`.

    yours, right: the statements of each whose values the other does not have, in order. known: the learner's lines that
    are right.
    """

    def __init__(self, trial: Trial, case: Case, is_backward: bool):
        self.douts = trial.douts(case) if is_backward else None
        self.trial = trial
        self.case = case
        self.known = right_lines(trial)
        self.answer, steps = trial.recorded(trial.text, case, self.douts)
        self.steps = [step for step in steps if step[0] not in self.known]
        node = trial.reference.node
        self.goal, steps = trial.reference.recorded(trial.reference.text, case, self.douts)
        self.right_steps = [step for step in steps if node.lineno < step[0] <= (node.end_lineno or 0)]
        inputs = arrays([*case.arguments, *case.options.values(), *(self.douts or [])])
        my_rounds, right_rounds = rounds(self.steps), rounds(self.right_steps)
        mine = Values([*(value for _, _, value in self.steps), *my_rounds.values(), *inputs])
        theirs = Values([*(value for _, _, value in self.right_steps), *right_rounds.values(), *inputs])

        def is_right(step: Step) -> bool:
            return theirs.has(step[2]) or theirs.has_loop(my_rounds.get(step[:2]))

        def is_mine(step: Step) -> bool:
            return mine.has(step[2]) or mine.has_loop(right_rounds.get(step[:2]))

        self.is_right, self.is_mine = is_right, is_mine
        self.yours = apart(self.steps, trial.text, is_right)
        self.right = apart(self.right_steps, trial.reference.text, is_mine) if self.steps else []

    @property
    def replaced(self) -> set[int]:
        """The lines of right statements for which the learner has another way, before the first step that is lacking:
        their many numbers are not there, and what builds on them is.
        """
        lacking = {step.line for step in self.right}
        before = itertools.takewhile(lambda step: step[0] not in lacking, self.right_steps if lacking else [])
        others = [step for step in before if step[1].endswith(" =") and not self.is_mine(step)]
        return {line for line, _, value in others if len(np.unique(value)) > 2}


def right_lines(trial: Trial) -> set[int]:
    """The lines of those of the learner's functions that are known to be right, or as the stub gives them."""
    given = {ast.unparse(node) for node in ast.parse(trial.reference.text).body if isinstance(node, ast.FunctionDef)}
    functions = [node for node in ast.parse(trial.text).body if isinstance(node, ast.FunctionDef)]
    right = [node for node in functions if node.name in trial.right or ast.unparse(node) in given]
    return {line for node in right for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def stands(trial: Trial, line: int) -> bool:
    """Whether the formula in a line of the right solution stands in the learner's file as well."""
    formula = re.split(r" \W?= ", trial.reference.text.splitlines()[line - 1].partition("  # ")[0])[-1].strip()
    return formula in trial.text.rpartition('"""')[2]


class Values:
    """All numbers of a run, to be looked up."""

    def __init__(self, values: Iterable[Any]):
        by_size: dict[int, dict[bytes, np.ndarray]] = defaultdict(dict)
        for value in values:
            for numbers in _orders(np.asarray(value)):
                by_size[numbers.size][numbers.tobytes()] = numbers
        self.by_size = {size: np.stack([*forms.values()]) for size, forms in by_size.items()}

    def has(self, value: np.ndarray) -> bool:
        """Whether there are these numbers, in whatever shape and order of axes."""
        mine, others = np.ravel(value).astype(float), self.by_size.get(value.size)
        return others is not None and bool(np.isclose(others, mine, 1e-6, 1e-9, equal_nan=True).all(axis=1).any())

    def has_loop(self, value: np.ndarray | None) -> bool:
        """Whether a loop's values, all in one array, are there, or were computed from the last one to the first."""
        return value is not None and (self.has(value) or self.has(value[::-1]))


def _orders(value: np.ndarray) -> Iterator[np.ndarray]:
    """An array's numbers in a row, for each order of its axes."""
    orders = itertools.permutations(range(value.ndim)) if 1 < value.ndim < 5 else [tuple(range(value.ndim))]
    for order in orders if value.dtype.kind in "biuf" else ():
        yield np.ravel(value.transpose(order)).astype(float)


def by_place(steps: list[Step]) -> dict[tuple[int, str], list[np.ndarray]]:
    """The values of each statement and expression, one for each time that it ran."""
    values = defaultdict[tuple[int, str], list[np.ndarray]](list)
    for line, said, value in steps:
        values[line, said].append(value)
    return values


def rounds(steps: list[Step]) -> dict[tuple[int, str], np.ndarray]:
    """What each statement and expression of a loop computes in all its rounds, as one array."""
    several = {place: values for place, values in by_place(steps).items() if len(values) > 1}
    return {place: np.stack(v) for place, v in several.items() if len({value.shape for value in v}) == 1}


def apart(steps: Sequence[Step], text: str, has: Callable[[Step], bool]) -> list[Apart]:
    """The statements of the program `text` whose values the other run has not, and no right step builds on them."""
    built_on, counted, uses = set[str](), set[str](), computing(text)
    found: list[Apart] = []
    for i in reversed(range(len(steps))):
        line, said, value = steps[i]
        is_statement, name = said.endswith(" ="), bare(said)
        if is_statement and line not in uses:
            continue
        is_whole = value.dtype.kind in "iub"  # places, masks: where they are right, other numbers may lead to them
        is_count = value.ndim == 0 and is_whole  # a length, which other steps have by chance
        is_plain = value.size and len(np.unique(value)) < 2 and np.isin(value, range(-3, 4)).all()  # zeros, ones
        says_much = not is_count and not is_plain and (is_statement or value.ndim > 0)
        is_weak = is_whole or re.search(r"\b(max|min)\([^()]*\)$", said)
        is_built_on = name in built_on or is_whole and name in counted
        if says_much and has(steps[i]) or is_statement and is_built_on:
            built_on.discard(name)
            (counted if is_weak else built_on).update(uses[line] if is_statement else words(said))
        elif is_statement and says_much:
            found.append(Apart(line, name, has(next(step for step in steps if step[:2] == (line, said)))))
    return found[::-1]


def computing(text: str) -> dict[int, set[str]]:
    """The names that each statement uses which computes something, by its line; of several values, none."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return) and value is not None:
            changes = isinstance(node, ast.AugAssign) or isinstance(getattr(node, "targets", [0])[0], ast.Subscript)
            used = words(ast.unparse(node if changes else value))
            if (changes or any(isinstance(part, EXPRESSIONS) for part in ast.walk(value))) and "empty" not in used:
                found[node.lineno] = set[str]() if isinstance(value, ast.Tuple) else used
    return found


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))
