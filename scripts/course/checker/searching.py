"""Which small change of the right solution gives a learner's wrong results?

The right solution is the completed stub. The search makes the mistake itself: it changes the right solution in one
place (minigrad/gradcheck/mutations.py), runs it on the same cases, and compares its results with the learner's. A
change that gives exactly the learner's results is what the learner did, in whatever form. One case, the *telling* one,
was chosen by the exercise's author to show mistakes (`check.telling`).

One mistake, from the exercise `sgd`, whose last line is `p = p - lr * velocity`. The learner has written + for -. In a
case with p = 1, grad = 0.5, velocity = 2, lr = 0.1 and momentum = 0.9, the velocity becomes 2.3, and

    the learner's p                            1.23
    the right p                                0.77

    the search changes the right solution into         its p
    a slip that the exercise names: decoupled decay    0.77    no
    p = p                                              1.00    no
    p = lr * velocity                                  0.23    no
    p = p / (lr * velocity)                            4.35    no
    p = p + lr * velocity                              1.23    in all cases: this is what the learner did

>>> from pathlib import Path
>>> from scripts.course.checker import catalogue, processes
>>> sgd = catalogue.load(catalogue.paths(catalogue.HERE)["sgd"])
>>> learners_file = sgd.completed("p - lr * velocity", "p + lr * velocity")
>>> print(processes.judge(sgd, learners_file.encode(), Path("21_sgd.py")).diagnosis)
where p is computed, the sign of `lr * velocity` is flipped: it must be subtracted, in `p - lr * velocity` (downhill,
along the velocity)

The search has three parts. diagnosing.py calls them in this order, and believes the first that finds something:

    slip()                  whole wrong solutions that the exercise itself names, each with a sentence
    changes(usual=True)     changes of one place that people often make
    changes(usual=False)    all other changes of one place
"""

import ast
import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minigrad.gradcheck.mutations import SEVERAL_LINES, Change, compiled

from . import comparing
from .checks import Case
from .steps import words
from .trial import Finding, Trial, answer, arrays, bounded

USUAL_RANKS = 2  # changes of a lower rank are usual
MOST_LINES_FOR_RARE = 2  # rare changes that fit in more lines than these fit by chance

NOT, PARTLY, WHOLLY = range(3)  # how far a program agrees with the learner in one case


class Explanation(NamedTuple):
    """An op or function, `written`, that gives the learner's results.

    said: the sentence of a slip, or changes of the right solution.
    """

    said: str | list[Change]
    written: Any


class Search:
    """A search for a program that gives the learner's results in every case, the first one above all."""

    def __init__(self, trial: Trial, found: Finding, cases: list[Case]):
        self.trial, self.found, self.cases = trial, found, cases
        self.reference = trial.reference
        self.part = found.where.partition(" of ")[0]  # of "backward of Attention", say
        self.is_backward = found.where.startswith("backward of")
        self.learner = functools.cache(lambda case: trial.run(case, self.douts(case)))  # the learner's answer

    # --- the three parts ----------------------------------------------------------------------------------------------

    def slip(self) -> Explanation | None:
        """The slip that gives the learner's results in every case."""
        fits = [(self.fit(slip.written), slip) for slip in self.possible_slips()]
        how_far, best = max(fits, key=lambda fit: fit[0], default=(NOT, None))
        return best if how_far != NOT else None

    def changes(self, usual: bool) -> Explanation | None:
        """The change of the right solution that gives the learner's results; of several changes the most usual one.

        usual: among changes that people often make, or among the others. Ties: those of the first two lines are
        returned. Rare changes that tie in more than two lines: None.
        """
        numbers = arrays(self.learner(self.trial.check.telling).value)
        if numbers and not any(np.isfinite(part).any() for part in numbers):
            return None  # many changes give nothing but nan
        fits = list(self.fitting_changes(usual))
        best = min((key for key, *_ in fits), default=None)
        by_line: dict[int, tuple[Change, Any]] = {}
        for key, change, written in fits:
            if key == best:
                by_line.setdefault(change.line, (change, written))
        if not by_line or (not usual and len(by_line) > MOST_LINES_FOR_RARE):
            return None
        named = [by_line[line] for line in sorted(by_line)[:2]]
        return Explanation([change for change, _ in named], named[0][1])

    # --- what is tried ------------------------------------------------------------------------------------------------

    def possible_slips(self) -> Iterator[Explanation]:
        """The slips of the exercise. One that changes forward does not explain a wrong backward."""
        check, telling = self.reference.check, self.trial.check.telling
        for program, sentence in check.slips:
            written = compiled(ast.parse(program), {"np": np, "math": math}, "<mutant>")[check.name]
            forward = answer(written, "", check, telling).value
            if not self.is_backward or same(forward, self.reference.run(telling).value, 1e-6):
                yield Explanation(sentence, written)

    def fitting_changes(self, usual: bool) -> Iterator[tuple[Any, Change, Any]]:
        """The changes that give the learner's results, each after a key: the lowest is the best explanation."""
        for written, change in self.reference.mutants(self.part, self.possible_changes(usual)):
            how_far = self.fit(written)
            if how_far != NOT:
                yield (-how_far, change.rank), change, written

    def possible_changes(self, usual: bool) -> Callable[[Change], bool]:
        """What says of a change whether the learner may have made it."""
        right, learners = (
            [line.partition("  # ")[0].strip() for line in text.splitlines()]
            for text in (self.reference.text, self.trial.text)
        )

        nodes = list(ast.walk(ast.parse(self.trial.text)))
        read = {node.id for node in nodes if isinstance(node, ast.Name)}
        inputs = {node.arg for node in nodes if isinstance(node, ast.arg)}
        methods = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == self.part]
        products = [words(ast.unparse(n)) for method in methods for n in ast.walk(method) if isinstance(n, ast.BinOp)]

        def is_possible(change: Change) -> bool:
            is_usual = change.rank < USUAL_RANKS
            # A line that stands in the learner's file as well has not been changed.
            is_kept = right[change.line - 1] in learners and change.kind != SEVERAL_LINES
            # Nor does the learner use an input that the file never reads (`inputs - read`).
            is_odd = change.old in self.trial.booleans or words(change.new) & inputs - read
            # Nor is a product missing whose inputs the learner multiplies.
            lost = (words(change.old) - words(change.new)) & inputs if "missing" in change.sentence else set()
            is_there = len(lost) > 1 and any(lost <= product for product in products)
            return is_usual is usual and not is_kept and not is_odd and not is_there

        return is_possible

    # --- does it give the learner's results? --------------------------------------------------------------------------

    def fit(self, written: Any) -> int:
        """How far a changed solution agrees in the first case; NOT if it agrees less in another one."""
        first = self.agreement(written, self.cases[0])
        agrees = first != NOT and all(self.agreement(written, case) >= first for case in self.cases)
        return first if agrees else NOT

    def agreement(self, written: Any, case: Case) -> int:
        """WHOLLY if all results are the learner's, PARTLY if the result that is looked at is, else NOT."""
        with contextlib.suppress(Exception), bounded():
            learners = self.learner(case)
            changed = answer(written, "", self.reference.check, case, self.douts(case))
            if learners.raised is not None or changed.raised is not None:
                return WHOLLY if learners.error == changed.error else NOT
            if same(learners.value, changed.value, self.trial.check.tolerance):
                return WHOLLY
            if isinstance(learners.value, tuple) and self.agrees_partly(learners.value, changed.value, case):
                return PARTLY
        return NOT

    def agrees_partly(self, learners: tuple[Any, ...], changed: Any, case: Case) -> bool:
        """Whether the result that is looked at is the learner's, and what the learner has right stays right."""
        number = self.found.number
        if changed[number] is None or not same(learners[number], changed[number], self.trial.check.tolerance):
            return False
        right = self.reference.run(case, self.douts(case)).value
        results = zip(learners, changed, right, strict=True)
        return all(
            same(changed_one, right_one, 1e-6)
            for learners_one, changed_one, right_one in results
            if same(learners_one, right_one, 1e-6)
        )

    def douts(self, case: Case) -> list[np.ndarray] | None:
        return self.trial.douts(case) if self.is_backward else None


def same(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two answers have the same values; inside a tuple, None in the second one fits everything."""
    if got is None or wanted is None:  # outside a tuple
        return got is wanted
    if isinstance(wanted, bool) and isinstance(got, np.ndarray):  # a comparison without effect: true everywhere
        wanted = np.full(got.shape, wanted)
    if isinstance(got, tuple) and isinstance(wanted, tuple) and len(got) == len(wanted):
        return all(w is None or same(g, w, tolerance) for g, w in zip(got, wanted, strict=True))
    return comparing.same(got, wanted, tolerance)
