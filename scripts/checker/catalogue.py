"""The exercises: one file each, in scripts/exercises or in a teacher's folder.

A file `NN_name.py` with an `EXERCISE` in it is an exercise; the number is its place in the course. Nothing else has to
be changed to add one. The library is the answer key: `answer` names the objects that `solution` prints, that a solution
may not call, and that the author's proof (tests/exercises/) puts in the learner's place.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .checks import Exercise

HERE = Path(__file__).resolve().parents[1] / "exercises"
ASSESSMENT = HERE / "assessment"
_FILE = re.compile(r"(\d+)_(\w+)\.py")


def load(path: Path) -> Exercise:
    """The exercise in a file. Raises ValueError where it has none."""
    spec = importlib.util.spec_from_file_location(f"exercise_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exercise = getattr(module, "EXERCISE", None)
    if not isinstance(exercise, Exercise):
        raise ValueError(f"{path} defines no EXERCISE (a stub goes into --workspace): see scripts/exercises/README.md")
    text = exercise.completed()
    slips = tuple((exercise.completed(old, new), sentence) for old, new, sentence in exercise.slips)
    checks = [dataclasses.replace(check, reference=(text, check.call), slips=slips) for check in exercise.checks]
    return dataclasses.replace(exercise, name=name_of(path), path=path, checks=checks)


def name_of(path: Path) -> str:
    """
    >>> name_of(Path("02_tanh.py"))
    'tanh'
    """
    match = _FILE.fullmatch(path.name)
    return match[2] if match else path.stem


def paths(folders: Iterable[Path] = (HERE,)) -> dict[str, Path]:
    """The files of all exercises by name, in the order of the course; a later folder may replace a name."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder with exercises")
        for path in sorted(folder.glob("*.py")):
            if _FILE.fullmatch(path.name):
                found[name_of(path)] = path
    if not found:
        raise ValueError(f"there are no exercises (files named NN_name.py) in {', '.join(map(str, folders))}")
    return found


def path_of(name: str, known: Mapping[str, Path]) -> Path:
    """The file of an exercise. Raises ValueError, with the names that are close, where there is none."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        advice = f"did you mean {' or '.join(close)}?" if close else "`list` shows them all"
        raise ValueError(f"there is no exercise {name!r}; {advice}")
    return known[name]
