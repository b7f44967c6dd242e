"""Why a result is wrong: slips that an exercise names, then every small change of the right solution, then gradcheck.

The right solution is the completed stub. A change of it (minigrad/gradcheck/mutations.py) that gives exactly the
learner's numbers in every case is what the learner did, in whatever form. Where nothing explains the numbers, the first
step of the right solution that is not among the learner's is named: a vague diagnosis is better than a wrong one.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minigrad import Tensor
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.gradcheck.mutations import Change, compiled, in_words

from . import comparing
from .checks import Case
from .trial import Answer, Finding, Trial, answer, arrays
from .worker import Step

MOST_LINES = 5000  # that a changed solution may run in one case
SURE = {"cut off", "upstream", "sign", "missing sum", "missing repeat", "shape"}  # kinds of gradcheck's diagnoses
VAGUE = {"partial", "incomplete", "unknown", "source"}  # kinds that say no more than where the numbers differ
OF_SEVERAL_LINES = ("the order of the steps", "it stops after one round")  # changes in which a line stays as it was
UNEXPLAINED = "no single slip explains it"
COMPUTES = re.compile(r"[(+*/@<>=]").search  # whether a line does more than take what is there


def reason(trial: Trial, found: Finding, case: Case, first: Finding | None, witnesses: list[Case]) -> tuple[str, Case]:
    """The diagnosis, and the case to show with it, in which it holds: `case` if possible, else the telling one."""
    telling = trial.check.telling
    if any("random" in vars(node).values() for node in ast.walk(ast.parse(trial.text))):
        return "it draws random numbers: the same arguments must give the same result (keep the mask of forward)", case
    right = found.shown.get("right")
    if isinstance(right, list) and right and right[-1] is None and found.answer.value[-1]:
        return str(found.answer.value[-1]), case
    search = Search(trial, found, witnesses if first is not None else [case, *witnesses], first is not None)
    sentence = search.slip()
    kind, by_gradcheck, shown = "", "", telling
    if sentence is None and found.kind == "shape" and first is not None and "right" in first.sentence:
        same = found.sentence.partition(": ")[2] == first.sentence.partition(": ")[2]
        return (found.sentence, case) if same else (first.sentence, telling)
    if sentence is None and first is not None and first.where.startswith("backward"):
        kind, by_gradcheck = ask_gradcheck(trial, first, telling)
        if kind and (in_small := ask_gradcheck(trial, found, case))[0] == kind:
            by_gradcheck, shown = in_small[1], case
        if "but even" in by_gradcheck:  # a guess, which does not make the numbers right
            kind = "unknown"
        if kind in SURE:
            return by_gradcheck, shown
    sentence = sentence or search.change()
    said = f" ({found.sentence})" if found.kind == "error" else ""
    if sentence is not None:
        return sentence + said, case if search.agreement(case) else telling
    if found.kind == "error":
        return found.sentence, case
    in_all = search.in_all_cases()
    if by_gradcheck and kind not in VAGUE and (kind != "factor" or in_all):
        return by_gradcheck, shown
    if isinstance(right, list) and right and isinstance(right[found.number], str):  # what a `call` says about it
        return f"{found.answer.value[found.number]}", case
    if in_all:
        return in_all, case
    is_about_shape = "has shape" in found.plain
    if ": " in found.sentence if is_about_shape else not re.search("values: |numbers belong", found.plain):
        remarks = [remark for remark in trial.reference.comments.values() if remark not in ("", "TODO")]
        return found.sentence + (f" ({'; '.join(remarks)})" if "is cut" in found.plain else ""), case
    tells = first is not None and (first.where, first.kind) == (found.where, found.kind)
    step = first_step(trial, found, telling if tells else case)
    return f"{found.plain}; {UNEXPLAINED}{step or ': follow this small case by hand'}", case


def first_step(trial: Trial, found: Finding, case: Case) -> str:
    """The first step of the right solution that the learner's file does not reach, in words; "" if none is known."""
    douts = trial.douts(case) if found.where.startswith("backward") else None
    yours, right = trial.steps(case, douts), trial.reference.steps(case, douts)
    lines = [line.partition(" = ")[2] for line in trial.reference.text.splitlines()]  # the expressions assigned
    before, differs = compare_steps(yours, right, lines, trial.right_names(case, douts))
    so_far = f": your numbers agree with the right ones up to {before}" if before else ""
    if found.kind == "non-finite":
        nan = next((s for s in yours if np.isnan(s[2]).any() and not re.search(r"empty|=$", s[1])), None)
        so_far = (f": the first nan comes from `{nan[1]}` in line {nan[0]}" if nan else "") + so_far
    if differs is None and not before:
        return so_far
    name, line = differs or (found.gradient or "out|loss", trial.reference.last_line(found.where))
    statement, comment = trial.reference.statement, trial.reference.comments.get(line, "")
    pattern = re.escape(name.partition("[")[0].rstrip("s")) if differs else name
    formulas = re.findall(rf"^ *(?:\w+  +)?((?:{pattern})s?(?:\[.*?\])? +=.*?),?(?:   .*)?$", statement, re.MULTILINE)
    same = {other for other, text, _ in right if text.endswith(" =") and _name(text) == name}
    number = sum(other < line and COMPUTES(lines[other - 1]) is not None for other in same)
    formula = formulas[min(number, len(formulas) - 1) :][:1]
    step = f"`{re.sub(' +', ' ', formula[0]) if formula else name}`"
    what = f"the first step of a right solution that is not among yours is {step}"
    if differs is None and not formula:
        what = "what is done with it is not"
    return f"{so_far}{'; ' if so_far else ': '}{what}" + (f" ({comment})" if comment else "")


def compare_steps(
    yours: list[Step], right: list[Step], lines: list[str], built_on: set[str]
) -> tuple[str, tuple[str, int] | None]:
    """The last right step that is among yours, before the first one that is not; and that one's name and line.

    A step that is left out, while one that builds on it is right, was done in another way. lines: the expression that
    is assigned in each line of the right solution. built_on: names whose values are known to be right.
    """
    before, last, differs = "", "", None
    named = {text: value for _, text, value in yours}
    for line, text, value in right[::-1] if yours else []:
        is_named = text.endswith(" =")  # the others are parts of such a step
        is_count = value.ndim == 0 and value.dtype.kind in "iub"  # a length, which other steps have by chance
        if is_count:
            says_nothing = not is_named or text not in named or np.array_equal(named[text], value)
        elif is_named:
            says_nothing = not COMPUTES(lines[line - 1])
        else:
            says_nothing = value.ndim == 0 and text.endswith(")")  # a maximum or a sum, which others have as well
        says_nothing |= not is_count and len(np.unique(value)) < 2 and bool(np.isin(value, range(-3, 4)).all())
        reached = not says_nothing and not is_count and any(_alike(mine, value) for _, _, mine in yours)
        last = last or (in_words(ast.parse(_name(text), mode="eval")) if reached else "")
        if reached or is_named and _name(text).partition("[")[0] in built_on:
            built_on |= set(re.findall(r"\w+", lines[line - 1] if is_named else text))
            before = before or (f"`{_name(text)}`" if reached and is_named else "")
        elif is_named and not says_nothing:
            before, differs = "", (_name(text), line)
    return before if differs else last, differs


def _name(text: str) -> str:
    return text.removesuffix(" =").removeprefix("ctx.")


def _alike(mine: np.ndarray, right: np.ndarray) -> bool:
    """Whether these are the same numbers, in whatever shape or order of axes, with either sign, or upside down."""
    if mine.size != right.size:  # of three axes, one may be gone through by a loop, as the heads often are
        slices = [right.take(0, axis) for axis in range(right.ndim) if right.ndim > 2 and right.shape[axis] > 1]
        return any(mine.size == part.size > 1 and _alike(mine, part) for part in slices)
    with np.errstate(all="ignore"):
        ways = [mine, mine.T, 1 - mine if mine.dtype == bool else -mine, 1 / mine]
    return any(comparing.close(np.ravel(way), np.ravel(right).astype(float), 1e-6) for way in ways)


class Search:
    """A search for a program that gives the learner's results in every case, the first one above all.

    in_telling: whether the telling case is wrong as well.
    """

    def __init__(self, trial: Trial, found: Finding, cases: list[Case], in_telling: bool):
        self.trial, self.found, self.cases, self.in_telling = trial, found, cases, in_telling
        self.part = found.where.partition(" of ")[0]
        self.is_backward = found.where.startswith("backward of")
        self.observed: dict[int, Answer] = {}
        self.explanation: Callable[[Case], Answer] | None = None

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

    def fit(self, explanation: Callable[[Case], Answer]) -> tuple[bool, float]:
        """Whether it gives all of the learner's results, and not only the one that is looked at; and the share of cases
        in which it does, the lower one of the cases where the learner is wrong and of the others. The share is 0 if it
        does not in the first and in the telling case.
        """
        self.explanation = explanation
        first = self.agreement(self.cases[0])
        if not first or not self.agreement(self.trial.check.telling):
            return False, 0.0
        agree = [self.agreement(case) >= first for case in self.cases]
        groups = [[a for a, w in zip(agree, self.wrong, strict=True) if w is kind] for kind in (True, False)]
        return first > 1, min(sum(group) / len(group) for group in groups if group)

    def agreement(self, case: Case) -> int:
        """2 if all results are the learner's, 1 if the one that is looked at is, else 0."""
        with contextlib.suppress(Exception):
            assert self.explanation is not None
            got, wanted = self.learner(case), self.explanation(case)
            if got.raised is not None or wanted.raised is not None:
                return 2 * (got.error == wanted.error)
            if _same(got.value, wanted.value, self.trial.check.tolerance):
                return 2
            if not isinstance(got.value, tuple):
                return 0
            g, w = got.value[self.found.number], wanted.value[self.found.number]
            if w is None or not _same(g, w, self.trial.check.tolerance):
                return 0
            right = self.trial.reference.run(case, self.douts(case)).value
            others = zip(got.value, wanted.value, right, strict=True)
            return int(all(_same(w, r, 1e-6) for g, w, r in others if _same(g, r, 1e-6)))  # what is right stays right
        return 0

    def slip(self) -> str | None:
        """The sentence of the well-known slip that gives the learner's results, at least in the telling case: with
        extreme numbers it need not agree. A slip in forward does not explain a wrong backward.
        """
        reference, telling, fits = self.trial.reference, self.trial.check.telling, []
        for program, sentence in reference.check.slips:
            written = compiled(ast.parse(program), {"np": np, "math": math}, "<mutant>")[reference.check.name]
            if self.is_backward and not _same(
                answer(written, "", reference.check, telling).value, reference.run(telling).value, 1e-6
            ):
                continue
            fits.append((self.fit(self.as_answers(written)), sentence, self.explanation))
        (_, share), sentence, self.explanation = max(fits, key=lambda fit: fit[0], default=((False, 0.0), "", None))
        if share < (0.5 if self.in_telling else 0.75):
            return None
        slip = self.explanation
        if share < 1 and (exact := self.change(exact=True)) is not None:
            return exact
        self.explanation = slip
        return sentence

    def in_all_cases(self) -> str | None:
        """How the result differs from the right one, if it is in the same way in all cases: a sign, a factor."""
        found, got, right, sentences = self.found, [], [], [self.found.sentence]
        for other in filter(None, map(self.trial.test, self.cases)):
            is_alike = (other.where, other.number, other.kind) == (found.where, found.number, "values")
            if is_alike and " has " in other.plain:
                sentences.append(other.sentence)
                got += [np.ravel(part).astype(float) for part in arrays([other.pair[0]])]
                right += [np.ravel(part).astype(float) for part in arrays([other.pair[1]])]
        if any(all(words in sentence for sentence in sentences) for words in ("is transposed", "in other places")):
            return found.sentence
        if found.kind != "values" or len(got) < 3 or [g.size for g in got] != [r.size for r in right]:
            return None
        how = comparing.about_values(np.concatenate(got), np.concatenate(right), self.trial.check.tolerance, guess=True)
        return None if "wrong values" in how else f"{found.plain.partition(' has ')[0]} {how}"

    def as_answers(self, written: Any) -> Callable[[Case], Answer]:
        """The answers of a changed solution, case by case."""

        def formula(case: Case) -> Answer:
            with _bounded():
                return answer(written, "", self.trial.reference.check, case, self.douts(case))

        return formula

    def change(self, exact: bool = False) -> str | None:
        """The change of the right solution that gives the learner's results; of several changes the most usual one.
        exact: a usual change, and the results of every case.

        A line that stands in the learner's file as well has not been changed. Of changes that are as usual and agree
        in different lines, two are named; rare ones are not named at all if they agree in more than two.
        """
        reference, fits, value = self.trial.reference, [], self.learner(self.cases[0]).value
        numbers = arrays(value[self.found.number :][:1] if isinstance(value, tuple | list) else [value])
        if numbers and self.in_telling and not any(np.isfinite(part).any() for part in numbers):
            return None  # many changes give nothing but nan
        lines, kept = reference.text.splitlines(), {_code(line) for line in self.trial.text.splitlines()}

        stores = [n for n in ast.walk(reference.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        inputs = {n.arg for n in ast.walk(reference.node) if isinstance(n, ast.arg)}
        stores = [n for n in sorted(stores, key=lambda n: -n.lineno) if n.id not in inputs]
        first = {n.id: n.lineno for n in stores if not self.trial.is_op}

        def is_possible(change: Change, rare: bool) -> bool:
            is_kept = _code(lines[change.line - 1]) in kept and not change.sentence.startswith(OF_SEVERAL_LINES)
            return (change.rank > 1) is rare and not is_kept and first.get(change.new.strip("`"), 0) < change.line

        for rare in (False,) if exact else (False, True):
            for written, change in reference.mutants(self.part, functools.partial(is_possible, rare=rare)):
                whole, share = self.fit(self.as_answers(written))
                if share >= ({} if exact else {0: 0.75, 1: 0.95}).get(change.rank, 1):  # rare ones: in every case
                    fits.append(((not whole, change.rank, -share), change, self.explanation))
            if fits:
                break
        best = min((key for key, _, _ in fits), default=())
        changes = {change.line: (change, explanation) for key, change, explanation in fits[::-1] if key == best}
        if not best or rare and len(changes) > 2:
            return None
        by_line = sorted(changes.values(), key=lambda fit: fit[0].line)
        self.explanation = by_line[0][1]
        return "; or, with the same numbers: ".join(self.in_words(change) for change, _ in by_line[:2])

    def in_words(self, change: Change) -> str:
        """The sentence of a change, with the gradient that is wrong and the place where it is computed."""
        reference = self.trial.reference
        gradient, comment = self.found.gradient, reference.comments.get(change.line, "")
        where = f"where {change.target} is computed, " if change.target not in ("", gradient) else ""
        is_clear = change.target or " = " in change.old or change.old in change.sentence
        inside = "" if is_clear else f", in {change.old.splitlines()[0].rstrip('`')}`"
        sentence = f"{gradient}: " * bool(gradient) + where + change.sentence + inside
        return sentence + (f" ({comment})" if comment else "")


def _code(line: str) -> str:
    return line.partition("  # ")[0].strip()


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """End a changed loop that would never end, after many lines."""
    lines, before = 0, sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != "<mutant>":
            return None
        lines += 1
        if lines > MOST_LINES:
            raise RuntimeError("it does not end")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _same(got: Any, wanted: Any, tolerance: float) -> bool:
    if got is None or wanted is None:
        return got is wanted
    if isinstance(wanted, bool) and isinstance(got, np.ndarray):  # a comparison without effect: true everywhere
        wanted = np.full(got.shape, wanted)
    if isinstance(got, tuple) and isinstance(wanted, tuple) and len(got) == len(wanted):
        return all(w is None or _same(g, w, tolerance) for g, w in zip(got, wanted, strict=True))
    return comparing.same(got, wanted, tolerance)


def ask_gradcheck(trial: Trial, first: Finding, case: Case) -> tuple[str, str]:
    """The diagnosis of gradcheck in a case: its kind and its sentence, empty if it finds nothing."""
    op = trial.written
    wanted = [gradient is not None for gradient in trial.reference.run(case, trial.douts(case)).value]

    def fn(*tensors: Any) -> Any:
        return op.apply(*tensors, **copy.deepcopy(case.options))

    names = trial.names[: len(case.arguments)]
    fn.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names])  # type: ignore[attr-defined]
    inputs = [Tensor(a, requires_grad=True) if wanted[i] else a for i, a in enumerate(case.arguments)]
    try:
        gradcheck(fn, inputs)
    except GradcheckError as error:
        kind = error.diagnosis.kind
        gradient = first.gradient if error.input_index is None else f"d{names[error.input_index]}"
        return kind, "" if kind == "unknown" else f"{gradient}: {error.diagnosis}".removeprefix(": ")
    except Exception:
        return "", ""  # what the learner's code raised has been reported already
    return "", ""
