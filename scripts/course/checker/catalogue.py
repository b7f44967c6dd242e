"""The exercises: one file each, in scripts/course/exercises or in a teacher's folder.

A file `NN_name.py` with an `EXERCISE` in it is an exercise; the number is its place in the course. Nothing else has to
be changed to add one. The library is the answer key: `answer` names the objects that `solution` prints, that a solution
may not call, and that the author's proof (tests/exercises/) puts in the learner's place.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checks import Exercise

HERE = Path(__file__).resolve().parents[1] / "exercises"
ASSESSMENT = HERE / "assessment"


def load(path: Path) -> Exercise:
    """The exercise in a file. Raises ValueError where it has none."""
    definitions: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_bytes(), str(path), "exec"), definitions)
    exercise = definitions.get("EXERCISE")
    if not isinstance(exercise, Exercise):
        raise ValueError(f"{path} has no EXERCISE (stubs go into --workspace): see scripts/course/exercises/README.md")
    text = exercise.completed()
    slips = tuple((exercise.completed(old, new), sentence) for old, new, sentence in exercise.slips)
    checks = [dataclasses.replace(check, reference=(text, check.call), slips=slips) for check in exercise.checks]
    return dataclasses.replace(exercise, name=name_of(path), path=path, checks=checks)


def name_of(path: Path) -> str:
    """
    >>> name_of(Path("02_tanh.py"))
    'tanh'
    """
    return path.stem.partition("_")[2]


def paths(folder: Path = HERE) -> dict[str, Path]:
    """The files of the exercises in a folder by name, in the order of the course."""
    found = {name_of(path): path for path in sorted(folder.glob("[0-9]*_*.py"))}
    if not found:
        raise ValueError(f"there are no exercises (files named NN_name.py) in {folder}")
    return found


def path_of(name: str, known: Mapping[str, Path]) -> Path:
    """The file of an exercise. Raises ValueError, with the names that are close, where there is none."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        advice = f"did you mean {' or '.join(close)}?" if close else "`list` shows them all"
        raise ValueError(f"there is no exercise {name!r}; {advice}")
    return known[name]


def weeks(known: Mapping[str, Path], most: int) -> list[dict[str, int]]:
    """The exercises in their order, as weeks of at most so many minutes: the minutes of each, by its own estimate.

    An exercise that is longer has a week of its own. Raises ValueError for one that does not say how long it takes.
    """
    found: list[dict[str, int]] = [{}]
    for name, path in known.items():
        minutes = re.match(r"(\d+) min", effort := load(path).effort)
        if minutes is None:
            raise ValueError(f"{path} does not say how many minutes it takes: effort={effort!r}, not '10 min, easy'")
        if found[-1] and sum(found[-1].values()) + int(minutes[1]) > most:
            found.append({})
        found[-1][name] = int(minutes[1])
    return found
