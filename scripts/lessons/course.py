"""The course: its chapters, and the exercises of each lesson; and what is done."""

from __future__ import annotations

from pathlib import Path

from scripts.lessons.concepts import ROOT, concepts

DONE = "done.txt"  # in a lesson's folder once it was read to its end in a terminal
MODULES = {"0": "0 Before the course", "41": "4.1 Language modeling", "42": "4.2 Attention and the transformer"}
MODULES |= {"43": "4.3 Building and training a GPT", "44": "4.4 Beyond pretraining", "45": "After the course"}
# Exercises on what a lesson builds on, without a row of their own in the concept table.
MORE_EXERCISES = {
    "00_gradients.py": ["mul", "tanh", "walk", "sum", "mean", "unbroadcast"],
    "01_learning.py": ["softmax", "log_softmax", "cross_entropy", "sgd", "adam"],
    "414_context.py": ["matmul"],
    "425_block.py": ["relu", "rms_norm", "dropout"],
    "432_pretraining.py": ["sgd", "adam", "adamw"],
}


def number(lesson: Path) -> str:
    """The number in the name of a lesson's file: "421", "443b"."""
    return lesson.stem.partition("_")[0]


def module(lesson: Path) -> str:
    """The chapter that a lesson belongs to, a key of MODULES."""
    return number(lesson).rstrip("b")[:-1]


def exercises(lesson: Path) -> list[str]:
    """The exercises that belong to a lesson."""
    of_rows = [row.exercise for row in concepts() if row.lesson == lesson.name and row.exercise]
    return list(dict.fromkeys(MORE_EXERCISES.get(lesson.name, []) + of_rows))


def passed_exercises() -> set[str]:
    """The exercises that are noted as passed in the default workspace of scripts/exercise.py."""
    record = ROOT / "my_exercises" / "progress.json"
    if not record.exists():
        return set()
    from scripts.checker.workspace import read_progress  # needs Hypothesis, which lessons do not

    return set(read_progress(record).get("passed", {}))
