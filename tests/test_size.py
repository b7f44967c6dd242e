"""The size of the house: lines of code per room, which may grow only by what an issue names as its budget.

A line of code is one with more on it than a comment or a docstring. Data count too: a JSON file counts by its lines, or
more if its lines are long. Not counted are files that a program wrote: golden arrays, measured figures, pins.
"""

import ast
import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"minigrad": 7738, "gpt": 6035, "finetune": 4392, "scripts": 17458, "tests": 25885}
LIMIT_OF_PAGES = 3365  # JavaScript, CSS and HTML, all in scripts/
WRITTEN_BY_A_PROGRAM = ("golden", "measured", "assets.json", "names.json")
HAS_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_lines(source):
    """The number of lines of code.

    >>> python_lines('def f():  # a comment beside code\\n    "What it does."\\n\\n    return 1\\n')
    2
    """
    docstrings, strings = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        elif isinstance(node, ast.Constant | ast.JoinedStr):  # text of several lines counts with its blank lines
            strings |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    code = {number for number, line in lines if line.strip() and not line.lstrip().startswith("#")}
    return len((code | strings) - docstrings)


def other_lines(path):
    """The lines of a file of another kind that are not blank; a long one counts for each 120 characters that it has."""
    return sum(math.ceil(len(line.strip()) / 120) for line in path.read_text(encoding="utf-8").splitlines())


def total(room, *endings):
    paths = sorted(path for ending in endings for path in (ROOT / room).rglob(f"*{ending}"))
    data = [path for path in paths if path.suffix != ".py" and not set(WRITTEN_BY_A_PROGRAM) & set(path.parts)]
    code = [path.read_text(encoding="utf-8") for path in paths if path.suffix == ".py"]
    return sum(map(python_lines, code)) + sum(map(other_lines, data))


@pytest.mark.parametrize("room", LIMITS)
def test_a_room_is_no_larger_than_its_limit(room):
    lines = total(room, ".py", ".json", ".jsonl")
    assert LIMITS[room] / 2 < lines <= LIMITS[room], f"{room} has {lines:,} lines of code: make something smaller"


def test_the_pages_are_no_larger_than_their_limit():
    lines = total("scripts", ".js", ".css", ".html")
    assert LIMIT_OF_PAGES / 2 < lines <= LIMIT_OF_PAGES, f"the pages have {lines:,} lines: make something smaller"


def test_names_of_tests_have_at_most_60_characters():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    assert [name for text in texts for name in re.findall(r"def (test_\w*)", text) if len(name) > 60] == []
