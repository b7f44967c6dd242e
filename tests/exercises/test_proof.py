"""The author's proof: every stub fails, every reference passes, and planted mistakes are rejected with a diagnosis."""

from pathlib import Path

import pytest

from scripts.exercises import processes
from tests.exercises import planting
from tests.exercises.mistakes import MISTAKES

NAMES = list(planting.PATHS)
CASES = [(name, number) for name in NAMES for number in range(len(MISTAKES.get(name, [])))]


@pytest.mark.parametrize("name", NAMES)
def test_every_stub_fails(name):
    exercise = planting.exercise_named(name)
    verdict = processes.judge(exercise, exercise.stub.encode(), Path(exercise.path.name))
    assert verdict.status == ("wrong" if name == "mul" else "unfinished"), verdict
    assert verdict.line


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_passes(name):
    exercise = planting.exercise_named(name)
    for seed in (0, 1):
        verdict = planting.verdict_on_definitions(exercise, planting.reference(exercise), "", seed)
        assert verdict.passed, verdict


@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_mistake_is_rejected_with_the_right_diagnosis(name, number):
    exercise, mistake = planting.exercise_named(name), MISTAKES[name][number]
    definitions, text = planting.planted(exercise, mistake)
    verdict = planting.verdict_on_definitions(exercise, definitions, text)
    assert verdict.status in ("wrong", "error"), (mistake, verdict)
    assert mistake.word.lower() in verdict.diagnosis.lower()


SLIPS = [(name, number) for name in NAMES for number in range(len(planting.exercise_named(name).slips))]


@pytest.mark.parametrize(("name", "number"), SLIPS)
def test_every_slip_is_an_edit_of_the_solution(name, number):
    exercise = planting.exercise_named(name)
    old, new, _ = exercise.slips[number]
    assert old in exercise.blanks and compile(exercise.completed(old, new), name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), SLIPS)
def test_whoever_makes_a_slip_is_told_its_sentence(name, number):
    exercise = planting.exercise_named(name)
    old, new, sentence = exercise.slips[number]
    text = exercise.completed(old, new)
    verdict = planting.verdict_on_definitions(exercise, planting.defined(text), text)
    assert not verdict.passed and sentence in verdict.diagnosis, verdict


def test_every_exercise_has_three_mistakes():
    assert {name for name in NAMES if len(MISTAKES.get(name, [])) < 3} == set()
