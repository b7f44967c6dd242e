"""Which small change of the right solution gives a learner's wrong results?

The right solution is the completed stub. A change of it (minigrad/gradcheck/mutations.py) that gives exactly the
learner's results in every case is what the learner did, in whatever form.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import math
from typing import Any

import numpy as np

from minigrad.gradcheck.mutations import SEVERAL_LINES, Change, compiled

from . import comparing
from .checks import Case
from .trial import Answer, Finding, Trial, answer, arrays, bounded


class Search:
    """A search for a program that gives the learner's results in every case, the first one above all.

    in_telling: whether the telling case is wrong as well.
    """

    def __init__(self, trial: Trial, found: Finding, cases: list[Case], in_telling: bool):
        self.trial, self.found, self.cases, self.in_telling = trial, found, cases, in_telling
        self.part = found.where.partition(" of ")[0]
        self.is_backward = found.where.startswith("backward of")
        self.observed: dict[int, Answer] = {}
        self.written: Any = None  # the changed op or function that explains the result
        self.program = ""  # its text

    @functools.cached_property
    def wrong(self) -> list[bool]:
        """For each case, whether the learner is wrong. In the others, a change without an effect agrees as well."""
        return [self.trial.test(case) is not None for case in self.cases]

    def douts(self, case: Case) -> list[np.ndarray] | None:
        return self.trial.douts(case) if self.is_backward else None

    def learner(self, case: Case) -> Answer:
        if id(case) not in self.observed:
            self.observed[id(case)] = self.trial.run(case, self.douts(case))
        return self.observed[id(case)]

    def fit(self, written: Any) -> tuple[bool, float]:
        """Whether a changed solution gives all of the learner's results, and not only the one that is looked at; and
        the share of cases in which it does, the lower one of the cases where the learner is wrong and of the others.
        The share is 0 if it does not in the first and in the telling case.
        """
        first = self.agreement(written, self.cases[0])
        if not first or not self.agreement(written, self.trial.check.telling):
            return False, 0.0
        agree = [self.agreement(written, case) >= first for case in self.cases]
        groups = [[a for a, w in zip(agree, self.wrong, strict=True) if w is kind] for kind in (True, False)]
        return first > 1, min(sum(group) / len(group) for group in groups if group)

    def agreement(self, written: Any, case: Case) -> int:
        """2 if all results are the learner's, 1 if the one that is looked at is, else 0."""
        with contextlib.suppress(Exception), bounded():
            got, wanted = self.learner(case), answer(written, "", self.trial.reference.check, case, self.douts(case))
            if got.raised is not None or wanted.raised is not None:
                return 2 * (got.error == wanted.error)
            if same(got.value, wanted.value, self.trial.check.tolerance):
                return 2
            if not isinstance(got.value, tuple):
                return 0
            g, w = got.value[self.found.number], wanted.value[self.found.number]
            if w is None or not same(g, w, self.trial.check.tolerance):
                return 0
            right = self.trial.reference.run(case, self.douts(case)).value
            others = zip(got.value, wanted.value, right, strict=True)
            return int(all(same(w, r, 1e-6) for g, w, r in others if same(g, r, 1e-6)))  # what is right stays right
        return 0

    def slip(self) -> str | list[Change] | None:
        """The sentence of the well-known slip that gives the learner's results, at least in the telling case: with
        extreme numbers it need not agree. A slip in forward does not explain a wrong backward. Changes, if they agree
        in more cases.
        """
        reference, telling, fits = self.trial.reference, self.trial.check.telling, []
        for program, sentence in reference.check.slips:
            written = compiled(ast.parse(program), {"np": np, "math": math}, "<mutant>")[reference.check.name]
            forward = answer(written, "", reference.check, telling).value
            if not self.is_backward or same(forward, reference.run(telling).value, 1e-6):
                fits.append((self.fit(written), sentence, written, program))
        best = max(fits, key=lambda fit: fit[0], default=((False, 0.0), "", None, ""))
        share = best[0][1]
        if share < (0.5 if self.in_telling else 0.75):
            return None
        if share < 1 and (exact := self.changes(usual=True, exact=True)):
            return exact
        _, sentence, self.written, self.program = best
        return sentence

    def changes(self, usual: bool, exact: bool = False) -> list[Change] | None:
        """The change of the right solution that gives the learner's results; of several changes the most usual one.
        usual: among changes that people often make, or among the others. exact: the results of every case.

        A line that stands in the learner's file as well has not been changed. Of changes that are as usual and agree
        in different lines, two are named; rare ones are not named at all if they agree in more than two.
        """
        reference, fits, value = self.trial.reference, [], self.learner(self.cases[0]).value
        numbers = arrays(value[self.found.number :][:1] if isinstance(value, tuple | list) else [value])
        if numbers and self.in_telling and not any(np.isfinite(part).any() for part in numbers):
            return None  # many changes give nothing but nan
        lines, yours = ([line.partition("  # ")[0].strip() for line in text.splitlines()]
                        for text in (reference.text, self.trial.text))  # fmt: skip

        stores = [n for n in ast.walk(reference.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        inputs = {n.arg for n in ast.walk(reference.node) if isinstance(n, ast.arg)}
        stores = [n for n in sorted(stores, key=lambda n: -n.lineno) if n.id not in inputs]
        first = {n.id: n.lineno for n in stores if not self.trial.is_op}

        def is_possible(change: Change) -> bool:
            is_kept = lines[change.line - 1] in yours and change.kind != SEVERAL_LINES
            return (change.rank < 2) is usual and not is_kept and first.get(change.new.strip("`"), 0) < change.line

        for written, change in reference.mutants(self.part, is_possible):
            whole, share = self.fit(written)
            if share >= ({} if exact else {0: 0.75, 1: 0.95}).get(change.rank, 1):  # rare ones: in every case
                fits.append(((not whole, change.rank, -share), change, written, reference.as_text()))
        best = min((key for key, *_ in fits), default=())
        by_line = {change.line: (change, written, text) for key, change, written, text in fits[::-1] if key == best}
        if not best or not usual and len(by_line) > 2:
            return None
        changes = [by_line[line] for line in sorted(by_line)[:2]]
        _, self.written, self.program = changes[0]
        return [change for change, _, _ in changes]


def same(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two answers have the same values; of a tuple, None in the second one fits everything."""
    if got is None or wanted is None:
        return got is wanted
    if isinstance(wanted, bool) and isinstance(got, np.ndarray):  # a comparison without effect: true everywhere
        wanted = np.full(got.shape, wanted)
    if isinstance(got, tuple) and isinstance(wanted, tuple) and len(got) == len(wanted):
        return all(w is None or same(g, w, tolerance) for g, w in zip(got, wanted, strict=True))
    return comparing.same(got, wanted, tolerance)
