"""Lessons notice when their subject breaks."""

from collections import Counter

import pytest

from scripts.course.lessons.cells import lessons
from scripts.course.lessons.concepts import number
from tests.lessons.planted import MISTAKES, processes, run

FIRST = {mistake.lesson: mistake for mistake in reversed(MISTAKES)}


def test_every_lesson_has_three_mistakes_that_can_be_planted():
    assert all(mistake.text() for mistake in MISTAKES)
    planted = Counter(mistake.lesson for mistake in MISTAKES)
    assert [*planted] == [number(lesson) for lesson in lessons()] and min(planted.values()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("lesson", FIRST)
def test_a_lesson_notices_its_first_planted_mistake(lesson):
    with processes(1) as pool:
        said, _ = pool.submit(run, FIRST[lesson]).result()
    assert said.startswith("noticed"), said
