"""The author's proof: every stub fails, every reference passes, and planted mistakes are rejected with a diagnosis."""

import pytest

from scripts.course.checker import judging
from tests.exercises import planting
from tests.exercises.mistakes import MISTAKES

NAMES = list(planting.PATHS)


def mistakes_of(name):
    """Edits of an exercise's solution, each with words of its diagnosis: a slip that the exercise lists, the mistakes
    that it does not list, and its other slips.
    """
    slips = planting.exercise_named(name).slips
    return [*slips[:1], *(edit for owner, *edit in MISTAKES if owner == name), *slips[1:]]


# `make test` plants one in each exercise: a slip that it lists in every second one, a mistake that it does not in the
# others. `make test-all` plants them all.
CASES = [
    pytest.param(name, *edit, marks=[] if number == place % 2 else [pytest.mark.slow])
    for place, name in enumerate(NAMES)
    for number, edit in enumerate(mistakes_of(name))
]


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


@pytest.mark.parametrize("name, old, new, words", CASES)
def test_every_mistake_is_rejected_with_the_right_diagnosis(name, old, new, words):
    verdict = planting.verdict_on_edit(name, old, new)
    assert verdict.status in ("wrong", "error") and words.lower() in verdict.diagnosis.lower(), verdict


def test_every_exercise_has_three_mistakes():
    assert {owner for owner, *_ in MISTAKES} <= set(NAMES) and min(len(mistakes_of(name)) for name in NAMES) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_every_slip_is_an_edit_of_the_solution(name):
    exercise = planting.exercise_named(name)
    for old, new, _ in exercise.slips:
        assert old in exercise.blanks and compile(exercise.completed(old, new), name, "exec")
