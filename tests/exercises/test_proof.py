"""The author's proof: every stub fails, every reference passes, and planted mistakes are rejected with a diagnosis."""

from collections import Counter
from itertools import count

import pytest

from scripts.checker import judging
from tests.exercises import planting
from tests.exercises.mistakes import MISTAKES

NAMES = list(planting.PATHS)
NUMBERS = {name: count() for name in NAMES}
FEW = 2  # mistakes of each exercise in `make test`; `make test-all` plants them all
CASES = [
    pytest.param(name, *edit, marks=[pytest.mark.slow] if next(NUMBERS[name]) >= FEW else [])
    for name, *edit in MISTAKES
]
SLIPS = [(name, *slip) for name in NAMES for slip in planting.exercise_named(name).slips]


@pytest.mark.parametrize("name", NAMES)
def test_every_stub_fails(name):
    exercise = planting.exercise_named(name)
    verdict = judging.judge(exercise.checks, planting.defined(exercise.stub), exercise.stub, "planted.py")
    assert verdict.status == ("wrong" if name == "mul" else "unfinished"), verdict
    assert verdict.line


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_every_reference_passes(name, seed):
    exercise = planting.exercise_named(name)
    verdict = judging.judge(exercise.checks, planting.reference(exercise), "", "reference.py", seed)
    assert verdict.passed, verdict


@pytest.mark.parametrize(("name", "old", "new", "word"), CASES)
def test_every_mistake_is_rejected_with_the_right_diagnosis(name, old, new, word):
    verdict = planting.verdict_on_edit(name, old, new)
    assert verdict.status in ("wrong", "error") and word.lower() in verdict.diagnosis.lower(), verdict


def test_every_exercise_has_three_mistakes():
    counts = Counter(name for name, *_ in MISTAKES)
    assert counts.keys() == set(NAMES) and min(counts.values()) >= 3


@pytest.mark.parametrize(("name", "old", "new", "sentence"), SLIPS)
def test_every_slip_is_an_edit_of_the_solution(name, old, new, sentence):
    exercise = planting.exercise_named(name)
    assert old in exercise.blanks and compile(exercise.completed(old, new), name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "old", "new", "sentence"), SLIPS)
def test_whoever_makes_a_slip_is_told_its_sentence(name, old, new, sentence):
    verdict = planting.verdict_on_edit(name, old, new)
    assert not verdict.passed and sentence in verdict.diagnosis, verdict
