"""An exercise's right solution, and the same with a mistake planted in it."""

import functools
from pathlib import Path

from scripts.course.checker import capstone, judging, source
from scripts.course.checker.catalogue import ASSESSMENT, HERE, load, paths
from tests.exercises import library

REFERENCES = Path(__file__).parent / "references"
PATHS = paths(HERE) | paths(ASSESSMENT)


@functools.cache  # so that all tests of an exercise share the cases that it draws
def exercise_named(name):
    return load(PATHS[name])


def reference_text(name):
    return (REFERENCES / f"{name}.py").read_text(encoding="utf-8")


def reference(exercise):
    """The definitions of a right solution that was not made of the stub.

    The parts of the whole model have only the stub's, which the capstone's tests compare with the library's.
    """
    if exercise.name in {*capstone.PROGRAMS["GPT"], *capstone.PROGRAMS["Llama"]}:
        return defined(exercise.completed())
    return library.definitions(exercise) if exercise.answer else defined(reference_text(exercise.name))


def defined(text):
    definitions, problem = source.define(text, Path("planted.py"))
    assert problem is None, problem
    return definitions


def verdict_on_edit(name, old, new):
    """The verdict on the completed stub in which `new` stands where `old` belongs, in a blank or in the stub itself."""
    exercise = exercise_named(name)
    whole = exercise.completed()
    text = exercise.completed(old, new) if old in exercise.blanks else whole.replace(old, new)
    assert text != whole, f"{name}: {old!r} is not in the solution"
    return judging.judge(exercise.checks, defined(text), text, "planted.py")
