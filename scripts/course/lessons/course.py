"""The course: its chapters, and the exercises of each lesson; and what is done."""

from __future__ import annotations

import re
from pathlib import Path

from gpt.files import read_text
from scripts.course.lessons.cells import lessons
from scripts.course.lessons.concepts import ROOT

DONE = "done.txt"  # in a lesson's folder once it was read to its end in a terminal
MODULES = {"0": "0 Before the course", "41": "4.1 Language modeling", "42": "4.2 Attention and the transformer"}
MODULES |= {"43": "4.3 Building and training a GPT", "44": "4.4 Beyond pretraining", "45": "After the course"}


def number(lesson: Path) -> str:
    """The number in the name of a lesson's file: "421", "443b"."""
    return lesson.stem.partition("_")[0]


def module(lesson: Path) -> str:
    """The chapter that a lesson belongs to, a key of MODULES."""
    return number(lesson).rstrip("b")[:-1]


def exercises(lesson: Path) -> list[str]:
    """The exercises of a lesson, as its "What next" names them: `python scripts/exercise.py start sgd`, adam, adamw."""
    found = re.search(r"exercise\.py start (\w+`(?:, \w+)*)", read_text(lesson))
    return re.findall(r"\w+", found[1]) if found else []


def lessons_of(exercise: str) -> list[Path]:
    """The lessons that an exercise belongs to, in their order."""
    return [lesson for lesson in lessons() if exercise in exercises(lesson)]


def passed_exercises() -> set[str]:
    """The exercises that are noted as passed in the default workspace of scripts/exercise.py."""
    record = ROOT / "my_exercises" / "progress.json"
    if not record.exists():
        return set()
    from scripts.course.checker.workspace import read_progress  # needs Hypothesis, which lessons do not

    return set(read_progress(record)["passed"])
