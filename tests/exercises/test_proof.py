"""The author's proof: every stub fails, every reference passes, and planted mistakes are rejected with a diagnosis."""

import pytest

from scripts.exercises import worker
from tests.exercises import planting
from tests.exercises.mistakes import MISTAKES

NAMES = list(planting.PATHS)
CASES = [(name, number) for name in NAMES for number in range(len(MISTAKES.get(name, [])))]
_outcomes = {}


def outcome(name, number):
    """The verdict on a mistake, computed once."""
    if (name, number) not in _outcomes:
        exercise, mistake = planting.exercise_named(name), MISTAKES[name][number]
        definitions, text = planting.planted(exercise, mistake)
        _outcomes[name, number] = planting.verdict_on_definitions(exercise, definitions, text)
    return _outcomes[name, number]


@pytest.mark.parametrize("name", NAMES)
def test_every_stub_fails(name, tmp_path):
    exercise = planting.exercise_named(name)
    file = tmp_path / exercise.file_name
    file.write_text(exercise.stub, encoding="utf-8")
    verdict = worker.verdict_on(exercise, file, seed=0, guard=False)
    assert verdict.status == ("wrong" if name == "mul" else "unfinished"), verdict
    assert verdict.line


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_passes(name):
    exercise = planting.exercise_named(name)
    for seed in (0, 1):
        verdict = planting.verdict_on_definitions(exercise, planting.reference(exercise), "", seed)
        assert verdict.passed, verdict


@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_mistake_is_rejected(name, number):
    verdict = outcome(name, number)
    assert verdict.status in ("wrong", "error"), (MISTAKES[name][number], verdict)
    assert verdict.diagnosis


def test_every_exercise_has_three_mistakes():
    assert {name for name in NAMES if len(MISTAKES.get(name, [])) < 3} == set()


def test_nine_in_ten_mistakes_get_the_right_diagnosis():
    named = [m for m in CASES if MISTAKES[m[0]][m[1]].word.lower() in outcome(*m).diagnosis.lower()]
    missed = [(m, MISTAKES[m[0]][m[1]].word, outcome(*m).diagnosis) for m in CASES if m not in named]
    assert len(named) >= 0.95 * len(CASES), "\n".join(map(str, missed))
    print(f"{len(named)} of {len(CASES)} planted mistakes have the right diagnosis")
