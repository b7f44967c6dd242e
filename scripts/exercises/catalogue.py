"""What an exercise is, and which there are: one file each, in this folder or in a teacher's own.

A file `NN_name.py` with an `EXERCISE` in it is an exercise; the number is its place in the course. Nothing else has to
be changed to add one. The library is the answer key: `answer` names the objects that `solution` prints, that a solution
may not call, and that the author's proof (tests/exercises/) puts in the learner's place.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .checks import Check

HERE = Path(__file__).resolve().parent
ASSESSMENT = HERE / "assessment"
_FILE = re.compile(r"(\d+)_(\w+)\.py")

find_object = pkgutil.resolve_name  # "minigrad.optim.SGD.update": a module's function or class, or what is in a class


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One exercise.

    title: half a sentence. group: the part of the GPT that it belongs to. effort: minutes and difficulty, "10 min,
    easy". stub: the file that the learner completes. blanks: what completes it, one block of lines for each TODO that
    raises, with an empty line between two blocks; a comment in it explains a mistake in its line. slips: a part of
    blanks, what stands there in a well-known mistake, and the sentence for it. hints: the idea, the shapes, the line.
    checks: what is tested, in this order. answer: dotted names of library objects. adapt: the library objects, by their
    last names -> what the stub asks for, where names or arguments differ.
    place: how it gets into the GPT (places.py), if it does.
    """

    title: str
    group: str
    stub: str
    blanks: str
    hints: tuple[str, str, str]
    checks: tuple[Check, ...]
    slips: Sequence[tuple[str, str, str]] = ()
    answer: tuple[str, ...] = ()
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict
    effort: str = ""
    place: Any = None
    name: str = ""
    path: Path = Path()

    @property
    def file_name(self) -> str:
        return self.path.name

    def library_objects(self) -> dict[str, Any]:
        return {name.rpartition(".")[2]: find_object(name) for name in self.answer}

    def reference(self) -> dict[str, Any]:
        """What a learner's file that is right defines, made of the library's own objects."""
        return self.adapt(self.library_objects())

    def completed(self, old: str = "", new: str = "") -> str:
        """The stub with its blanks filled: a right solution, in the shape in which a learner writes it; or one in which
        `new` stands where `old` belongs.
        """
        blanks = self.blanks.replace(old, new) if old else self.blanks
        blocks, lines = iter(blanks.strip("\n").split("\n\n")), []
        for line in self.stub.splitlines():
            indent, todo, _ = line.partition("raise NotImplementedError")
            lines.append(textwrap.indent(next(blocks), indent) if todo else line)
        return "\n".join(lines) + "\n" if list(blocks) == [] else blanks

    def solution(self) -> str:
        """The library's source of the answer, with the place where it stands."""
        parts = []
        for name in self.answer:
            found = find_object(name)
            lines, first = inspect.getsourcelines(found)
            file = Path(inspect.getsourcefile(found) or "")
            where = "/".join(file.parts[-3:])
            parts.append(f"# {name}  ({where}, line {first})\n\n{''.join(lines)}")
        return "\n\n".join(parts)


def load(path: Path) -> Exercise:
    """The exercise in a file. Raises ValueError where it has none."""
    spec = importlib.util.spec_from_file_location(f"exercise_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exercise = getattr(module, "EXERCISE", None)
    if not isinstance(exercise, Exercise):
        raise ValueError(f"{path} defines no EXERCISE: see scripts/exercises/README.md")
    text = exercise.completed()
    slips = tuple((exercise.completed(old, new), sentence) for old, new, sentence in exercise.slips)
    made = [dataclasses.replace(c, reference=(text, getattr(c, "call", None)), slips=slips) for c in exercise.checks]
    return dataclasses.replace(exercise, name=name_of(path), path=path, checks=tuple(made))


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
