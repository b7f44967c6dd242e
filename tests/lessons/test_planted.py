"""Lessons notice when their subject breaks."""

import pytest

from tests.lessons.planted import MISTAKES, processes, run

FIRST = {mistake.lesson: mistake for mistake in reversed(MISTAKES)}


def test_what_is_planted_can_be_planted():
    assert all(mistake.text() for mistake in MISTAKES)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", FIRST)
def test_a_lesson_notices_its_first_planted_mistake(lesson):
    with processes(1) as pool:
        said, _ = pool.submit(run, FIRST[lesson]).result()
    assert said.startswith("noticed"), said
