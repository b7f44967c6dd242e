"""The learner's run of a case beside a right one: where do their values part?

A step counts as right if its numbers are among those of the other run, in whatever shape and order of axes: there are
many ways to write a formula. A step that the other run does not have may still be right, in another way of doing it: it
is, if a later step that builds on it is.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import comparing
from .checks import Case
from .trial import Trial, arrays, bare, ends
from .worker import EXPRESSIONS, Step

FEW = 3  # different numbers in a value: fewer may be found elsewhere by chance


class Apart(NamedTuple):
    """A statement whose value the other run does not have, and the name of the last one before it that both have."""

    line: int
    name: str
    before: str = ""


class Runs:
    """The learner's run of a case, `steps` and `answer`, and a right one, `right_steps` and `goal`.

    yours, right: the statements of each whose values the other does not have, in order. theirs: all values of the right
    one. known: the learner's lines that are right.
    """

    def __init__(self, trial: Trial, case: Case, is_backward: bool):
        self.douts = trial.douts(case) if is_backward else None
        self.trial = trial
        self.case = case
        self.known = right_lines(trial)
        self.answer, steps = trial.recorded(trial.text, case, self.douts)
        self.steps = [step for step in steps if step[0] not in self.known]
        self.goal, self.right_steps = self._right(trial.reference.text)
        inputs = arrays([*case.arguments, *case.options.values(), *(self.douts or [])])
        mine = Values([*(value for _, _, value in self.steps), *inputs])
        self.theirs = Values([*(value for _, _, value in self.right_steps), *inputs], looped=True)
        self.yours = apart(self.steps, trial.text, self.theirs.has)
        self.right = apart(self.right_steps, trial.reference.text, mine.has_part) if self.steps else []

    def _right(self, program: str) -> tuple[Any, list[Step]]:
        """The answer of the completed stub, or of a changed one, and the steps in the function that is checked."""
        node = self.trial.reference.node
        got, steps = self.trial.reference.recorded(program, self.case, self.douts)
        return got, [step for step in steps if node.lineno < step[0] <= (node.end_lineno or 0)]

    def lacking(self, gradient: str) -> Apart | None:
        """The first right statement that the learner lacks; if there is none, the one that computes the gradient."""
        telling = [step for step in self.right_steps if gradient and is_telling(step[2])]
        return next(iter([*self.right, *(Apart(line, gradient) for line in ends(telling, gradient))]), None)

    def line_of(self, name: str, program: str = "") -> int | None:
        """The learner's line that is wrong: the first that is apart, or gives this name another value than the right
        solution does; else the first with a value that only a changed solution has, the `program`; else the last.
        """
        last = ends(self.steps, "return")
        right = [value for _, said, value in self.right_steps if bare(said) == name]
        mine = [(line, value) for line, said, value in self.steps if bare(said) == name and right and is_telling(value)]
        places = [line for line, value in mine if not any(comparing.same(value, other) for other in right)][:1]
        places += [place.line for place in self.yours[:1] if [place.line] != last]
        if places:
            return min(places, key=[line for line, _, _ in self.steps].index)
        changed = self._right(program)[1] if program else []
        new = {exactly(value) for _, _, value in changed} - {exactly(value) for _, _, value in self.right_steps}
        return next(iter([*(line for line, _, value in self.steps if exactly(value) in new), *last]), None)


def exactly(value: np.ndarray) -> tuple[Any, ...]:
    """A key of the numbers in this shape and order, up to rounding."""
    return value.shape, np.round(value.astype(float), 6).tobytes()


def right_lines(trial: Trial) -> set[int]:
    """The lines of those of the learner's functions that are known to be right, or as the stub gives them."""
    given = {ast.unparse(node) for node in ast.parse(trial.reference.text).body if isinstance(node, ast.FunctionDef)}
    functions = [node for node in ast.parse(trial.text).body if isinstance(node, ast.FunctionDef)]
    right = [node for node in functions if node.name in trial.right or ast.unparse(node) in given]
    return {line for node in right for line in range(node.lineno, (node.end_lineno or 0) + 1)}


class Values:
    """All numbers of a run, to be looked up.

    looped: the other run may compute them in a loop, an index of one or two axes at a time. (The stub has few loops.)
    """

    def __init__(self, values: Iterable[Any], looped: bool = False):
        by_size: dict[int, dict[bytes, np.ndarray]] = defaultdict(dict)
        for value in values:
            for part in [np.asarray(value), *(_parts(np.asarray(value)) if looped else ())]:
                for numbers in _orders(part):
                    by_size[numbers.size][numbers.tobytes()] = numbers
        self.by_size = {size: np.stack([*forms.values()]) for size, forms in by_size.items()}

    def has(self, value: np.ndarray) -> bool:
        """Whether there are these numbers, in whatever shape and order of axes."""
        mine, others = np.ravel(value).astype(float), self.by_size.get(value.size)
        return others is not None and bool(np.isclose(others, mine, 1e-6, 1e-9, equal_nan=True).all(axis=1).any())

    def has_part(self, value: np.ndarray) -> bool:
        """Whether there are these numbers, or the first of those that a loop would compute one after the other."""
        firsts = [value.take(0, axis) for axis in range(value.ndim) if value.ndim > 1 and value.shape[axis] > 1]
        return self.has(value) or any(part.size > FEW and self.has_part(part) for part in firsts)


def _parts(value: np.ndarray) -> Iterator[np.ndarray]:
    """What a loop over one or two axes computes at a time, if that is more than a few numbers."""
    for axis in range(value.ndim if value.ndim > 1 else 0):
        for part in np.moveaxis(value, axis, 0) if value.shape[axis] > 1 else ():
            if part.size > FEW:
                yield part
                yield from _parts(part) if axis == 0 else ()


def _orders(value: np.ndarray) -> Iterator[np.ndarray]:
    """An array's numbers in a row, for each order of its axes."""
    orders = itertools.permutations(range(value.ndim)) if 1 < value.ndim < 5 else [tuple(range(value.ndim))]
    for order in orders if value.dtype.kind in "biuf" else ():
        yield np.ravel(value.transpose(order)).astype(float)


def is_telling(value: np.ndarray) -> bool:
    """Whether a value is hardly found elsewhere by chance: several different numbers, or one like 0.7071, not 0.5."""
    if value.ndim == 0:
        return value.dtype.kind == "f" and bool(np.isfinite(value)) and float(value) * 8 % 1 != 0
    return len(np.unique(value)) >= FEW


def apart(steps: Sequence[Step], text: str, has: Callable[[np.ndarray], bool]) -> list[Apart]:
    """The statements of the program `text` whose values the other run has not, and no right step builds on them."""
    built_on, uses, inside = set[str](), computing(text), of_right_calls(steps, has)
    found: list[Apart] = []
    for i in reversed(range(len(steps))):
        line, said, value = steps[i]
        is_statement, name = said.endswith(" ="), bare(said)
        if i in inside or is_statement and line not in uses:
            continue
        is_count = value.ndim == 0 and value.dtype.kind in "iub"  # a length, which other steps have by chance
        is_plain = value.size and len(np.unique(value)) < 2 and np.isin(value, range(-3, 4)).all()  # zeros, ones
        says_much = not is_count and not is_plain and (is_statement or value.ndim > 0)
        if says_much and has(value) or is_statement and name in built_on:
            built_on.discard(name)
            built_on |= uses[line] if is_statement else words(said)
            if is_statement and found and not found[-1].before and name != "return":
                found[-1] = found[-1]._replace(before=name)
        elif is_statement and says_much:
            found.append(Apart(line, name))
    return found[::-1]


def of_right_calls(steps: Sequence[Step], has: Callable[[np.ndarray], bool]) -> set[int]:
    """The numbers of those steps that were made in a function whose result is right."""
    begun = list[int]()
    inside = set[int]()
    is_right = True
    for i, (line, said, value) in enumerate(steps):
        if said == "def":
            begun.append(i)
            inside.add(i)
        elif said == "return =" and begun:
            is_right = is_right and is_telling(value) and has(value)
            if [step[:2] for step in steps[i + 1 : i + 2]] != [(line, said)]:  # else one of several values
                inside |= set(range(begun.pop(), i if is_right else 0))
                is_right = True
    return inside


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
