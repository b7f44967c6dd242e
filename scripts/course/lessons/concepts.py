"""What the course consists of: chapters, exercises of each lesson, and the tables of concepts and mental models.

The tables are those of README.md: where each idea is taught, written, tested and practiced; what shows a mental model.

python scripts/course/lessons/concepts.py      the mental models, each with the line that shows it
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpt.files import read_text
from scripts.course.lessons.cells import LESSONS, lessons
from scripts.course.progress import read_progress

ROOT = LESSONS.parents[2]
README = LESSONS / "README.md"
_LINK = re.compile(r"\[`?([^`\]]+)`?\]\(([^)]+)\)")
DONE = "done.txt"  # in a lesson's folder once it was read to its end in a terminal
CHAPTERS = {"0": "0 Before the course", "41": "4.1 Language modeling", "42": "4.2 Attention and the transformer"}
CHAPTERS |= {"43": "4.3 Building and training a GPT", "44": "4.4 Beyond pretraining", "45": "After the course"}


def number(lesson: Path) -> str:
    """The number in the name of a lesson's file: "421", "443b"."""
    return lesson.stem.partition("_")[0]


def dotted(lesson: Path) -> str:
    """What the lesson calls itself: "4.2.1", "4.4.3b", "All of it on one page"."""
    return read_text(lesson).removeprefix('"""').removeprefix("Lesson ").partition(":")[0]


def chapter(lesson: Path) -> str:
    """The heading of the chapter that a lesson belongs to."""
    return CHAPTERS[number(lesson).rstrip("b")[:-1]]


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
    return set(read_progress(record)["passed"])


# --- the tables -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A name in a file of the project (path relative to its root)."""

    path: str
    name: str

    def line(self) -> int | None:
        """Where `name` is defined in the file (1 for the file itself); None where it is not."""
        if self.name == Path(self.path).name:
            return 1
        found = self._definition()
        return found and found.lineno

    def source(self) -> str:
        """The text of the definition; "" for a whole file, and for a name that is not there."""
        found = self._definition()
        return "\n".join(read_text(ROOT / self.path).splitlines()[found.lineno - 1 : found.end_lineno]) if found else ""

    def _definition(self) -> ast.stmt | None:
        body, found = _statements(self.path), None
        for part in self.name.split("."):
            found = next((node for node in body if _defines(node, part)), None)
            body = getattr(found, "body", [])
        return found


@functools.cache  # many places are in the same file
def _statements(path: str) -> list[ast.stmt]:
    return ast.parse(read_text(ROOT / path)).body


def _defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name == name
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


class Concept(NamedTuple):
    """A row. lesson: a file name in scripts/course/lessons. exercise: a name for scripts/exercise.py, or ""."""

    name: str
    lesson: str
    code: list[Place]
    tests: list[Place]
    exercise: str


@functools.cache  # every lesson's page asks for them
def concepts() -> list[Concept]:
    """All rows of the table, in their order."""
    return [
        Concept(name, _LINK.findall(lesson)[0][1], _places(code), _places(tests), exercise.strip("`"))
        for _, name, lesson, code, tests, exercise in _rows(6)
    ]


def _places(cell: str) -> list[Place]:
    """The links of a cell: [`name`](path from here)."""
    return [Place((LESSONS / path).resolve().relative_to(ROOT).as_posix(), name) for name, path in _LINK.findall(cell)]


@functools.cache
def abilities() -> dict[str, str]:
    """What one can do after each lesson, by the name of its file."""
    return {_LINK.findall(lesson)[0][1]: text for _, lesson, text in _rows(3)}


class MentalModel(NamedTuple):
    """A sentence of the course. lesson: a file name. shown_by: a line of it, without its comment."""

    sentence: str
    lesson: str
    shown_by: str

    def lines(self) -> list[int]:
        """The numbers of the lines of the lesson that are `shown_by`."""
        lines = read_text(LESSONS / self.lesson).splitlines()
        return [number for number, line in enumerate(lines, 1) if line.partition("  # ")[0].strip() == self.shown_by]


def mental_models() -> list[MentalModel]:
    """All rows of the table of mental models, in their order."""
    return [MentalModel(cells[1], _LINK.findall(cells[2])[0][1], cells[3].strip("`")) for cells in _rows(4)]


def _rows(columns: int) -> Iterator[list[str]]:
    """The numbered rows of the table that has so many columns; a bar inside a cell is written \\|."""
    for line in read_text(README).splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if line.startswith("|") and len(cells) == columns and cells[0].isdigit():
            yield cells


if __name__ == "__main__":
    for i, model in enumerate(mental_models(), 1):
        print(f"{i:2} {model.sentence}\n   scripts/course/lessons/{model.lesson}:{model.lines()[0]}  {model.shown_by}")
