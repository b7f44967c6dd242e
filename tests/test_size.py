"""The size of the house: tokens per room, which may grow only by what an issue names as its budget.

Tokens are those of Python's own tokenizer, without comments, docstrings and line ends. A limit in lines would reward
packing: what stands on fewer lines has as many tokens. Data count too: a JSON file counts by its lines, or more if its
lines are long. Not counted are files that a program wrote: golden arrays, measured figures, pins.
"""

import ast
import io
import itertools
import math
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"minigrad": 86_000, "gpt": 64_600, "finetune": 47_700, "scripts": 214_600, "tests": 303_500}
LIMIT_OF_PAGES = 3480  # lines of JavaScript, CSS and HTML, all in scripts/
WRITTEN_BY_A_PROGRAM = ("golden", "measured", "assets.json", "names.json")
HAS_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
NOT_COUNTED = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}


def python_size(source):
    """The number of tokens, and of lines with one. An f-string is one token, and a long string counts by its length.

    >>> python_size('def f(x):  # beside code\\n    "What it does."\\n\\n    return f"{x}: {x + 1}"\\n')
    (8, 2)
    """
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    begins = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]  # of each line, in characters
    count = 0
    lines = set()
    opened = []  # where the f-strings around a token begin
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        place = begins[token.start[0] - 1] + token.start[1]
        if kind in NOT_COUNTED or token.start[0] in docstrings:
            continue
        lines.add(token.start[0])
        if kind == "FSTRING_START":  # from Python 3.12 on; before it, an f-string is a STRING
            opened.append(place)
            continue
        start = opened.pop() if kind == "FSTRING_END" else place
        if not opened:
            length = begins[token.end[0] - 1] + token.end[1] - start
            count += math.ceil(length / 120) if kind in ("STRING", "FSTRING_END") else 1
    return count, len(lines)


def other_lines(path):
    """The lines of a file of another kind that are not blank; a long one counts for each 120 characters that it has."""
    return sum(math.ceil(len(line.strip()) / 120) for line in path.read_text(encoding="utf-8").splitlines())


def total(room, *endings):
    """The sizes of all files with these endings, added up: tokens (of data: lines), and lines of Python code."""
    paths = sorted(path for ending in endings for path in (ROOT / room).rglob(f"*{ending}"))
    data = [path for path in paths if path.suffix != ".py" and not set(WRITTEN_BY_A_PROGRAM) & set(path.parts)]
    code = [python_size(path.read_text(encoding="utf-8")) for path in paths if path.suffix == ".py"]
    return sum(tokens for tokens, _ in code) + sum(map(other_lines, data)), sum(lines for _, lines in code)


@pytest.mark.parametrize("room", LIMITS)
def test_a_room_is_no_larger_than_its_limit(room):
    tokens, lines = total(room, ".py", ".json", ".jsonl")
    print(f"{room}: {tokens:,} tokens, {tokens / lines:.1f} a line of code")
    assert LIMITS[room] / 2 < tokens <= LIMITS[room], f"{room} has {tokens:,} tokens: make something smaller"


def test_the_pages_are_no_larger_than_their_limit():
    lines, _ = total("scripts", ".js", ".css", ".html")
    assert LIMIT_OF_PAGES / 2 < lines <= LIMIT_OF_PAGES, f"the pages have {lines:,} lines: make something smaller"


def test_names_of_tests_have_at_most_60_characters():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    assert [name for text in texts for name in re.findall(r"def (test_\w*)", text) if len(name) > 60] == []
