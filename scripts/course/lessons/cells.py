"""A lesson's `# %%` cells: reading them, and running them one after the other.

    # %% [markdown]        prose: comment lines in Markdown
    # %% Title             code, with a heading before it; a comment directly below the title is prose, too
    # %%                   code
    # --- Title ---        the same as # %% Title: how scripts/one_page.py is cut, which one reads before the lessons

A paragraph of prose that begins with `Predict:` asks the reader a question. The paragraph that begins with `Answer:`
answers it, in the same cell or in a later one. The output of the code between them is part of the answer.
"""

from __future__ import annotations
import __future__

import ast
import functools
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt.files import read_text

LESSONS = Path(__file__).resolve().parent
ONE_PAGE = LESSONS.parents[1] / "one_page.py"
PROSE = "[markdown]"
QUESTION, ANSWER = "Predict:", "Answer:"


def lessons() -> list[Path]:
    """The lessons' files in their order."""
    return sorted(LESSONS.glob("[0-9]*.py"))


def title(lesson: Path) -> str:
    """The first line of its docstring, without the number of the lesson."""
    first = read_text(lesson).removeprefix('"""').partition("\n")[0]
    return first.partition(": ")[2].rstrip('."')


class Cell(NamedTuple):
    """kind: "prose" (text is Markdown) or "code". line: where in the file the text begins."""

    kind: str
    text: str
    line: int

    def paragraphs(self) -> list[str]:
        """The prose, cut at empty lines."""
        return [part.strip("\n") for part in self.text.split("\n\n") if part.strip()]

    def statements(self) -> Iterator[Cell]:
        """The code, cut after each statement; a comment belongs to the statement below it."""
        lines, start = self.text.splitlines(), 0
        ends = [statement.end_lineno or 0 for statement in ast.parse(self.text).body]
        for end in [*ends[:-1], len(lines)]:
            if end > start:
                yield Cell("code", "\n".join(lines[start:end]), self.line + start)
                start = end

    def purpose(self) -> str:
        """What a statement is for: "plot", "check" or "print" if it does nothing else, or else "": the subject."""
        return _purpose(ast.parse(self.text).body)


def _purpose(statements: list[Any]) -> str:
    found = set()
    for statement in statements:
        called = ast.unparse(statement.value.func) if isinstance(getattr(statement, "value", 0), ast.Call) else ""
        if isinstance(statement, ast.Assert):
            found.add("check")
        elif isinstance(statement, ast.With) and "lesson.picture(" in ast.unparse(statement.items[0]):
            found.add("plot")
        elif isinstance(statement, (ast.For, ast.If, ast.With)):
            found.add(_purpose([*statement.body, *getattr(statement, "orelse", [])]))
        elif isinstance(statement, ast.Expr):
            found.add({"print": "print", "lesson.widget": "plot"}.get(called, ""))
        else:
            found.add("")
    return "" if "" in found else next((kind for kind in ("plot", "check", "print") if kind in found), "")


def read_cells(lesson: Path) -> list[Cell]:
    """The cells of a lesson, of which its docstring is the first.

    Raises ValueError for a file without a docstring, prose that is not a comment, and a question without an answer.
    """
    return list(_cells(read_text(lesson), lesson))


@functools.cache  # the site reads every lesson again for each list that it writes
def _cells(text: str, lesson: Path) -> tuple[Cell, ...]:
    source = re.sub(r"^# --- (.+?) -+$", r"# %% \1", text, flags=re.MULTILINE)
    lines, tree = source.splitlines(), ast.parse(source)
    docstring = ast.get_docstring(tree)
    if docstring is None:
        raise ValueError(f"{lesson.name} has no docstring: a lesson begins with its title")
    cells = [Cell("prose", f"# {docstring}", 1)]
    first = tree.body[0].end_lineno or 1
    starts = [i for i in range(first, len(lines)) if lines[i].startswith("# %%")]
    cells += _cell("", lines[first : min(starts, default=len(lines))], first + 1, lesson)
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        cells += _cell(lines[start].removeprefix("# %%").strip(), lines[start + 1 : end], start + 2, lesson)
    if lesson == ONE_PAGE:  # which is not started as a command here; below the last heading it has no code
        cells.insert(-1, Cell("code", "main()", cells[-1].line - 1))
    _check_questions(cells, lesson)
    return tuple(cells)


def _cell(title: str, lines: list[str], line: int, lesson: Path) -> Iterator[Cell]:
    """One marker's cells: the heading, if there is one, and the text, if there is any."""
    if title == PROSE:
        wrong = [i for i, text in enumerate(lines) if text.strip() and not text.startswith("#")]
        if wrong:
            raise ValueError(f"{lesson.name}:{line + wrong[0]}: a {PROSE} cell has comment lines only")
        yield Cell("prose", _uncommented(lines), line)
        return
    if title:
        below = next((i for i, text in enumerate(lines) if not text.startswith("#")), len(lines))
        yield Cell("prose", "\n\n".join([f"## {title}", *[_uncommented(lines[:below])] * (below > 0)]), line - 1)
        lines, line = lines[below:], line + below
    while lines and not lines[0].strip():
        lines, line = lines[1:], line + 1
    if lines:
        yield Cell("code", "\n".join(lines).rstrip(), line)


def _uncommented(lines: list[str]) -> str:
    return "\n".join(text.removeprefix("#").removeprefix(" ") for text in lines).strip("\n")


def _check_questions(cells: list[Cell], lesson: Path) -> None:
    """Questions and answers must alternate."""
    asked = False
    for cell in cells:
        for paragraph in cell.paragraphs() if cell.kind == "prose" else []:
            if paragraph.startswith((QUESTION, ANSWER)):
                if paragraph.startswith(ANSWER) != asked:
                    problem = f"{QUESTION} before the last question was answered" if asked else f"{ANSWER} to nothing"
                    raise ValueError(f"{lesson.name}:{cell.line}: {problem}")
                asked = not asked
    if asked:
        raise ValueError(f"{lesson.name}: the last {QUESTION} has no {ANSWER}")


class Running:
    """A lesson's module while its cells are executed, as if they were one file: the line numbers are the file's."""

    def __init__(self, lesson: Path, arguments: list[str]):
        self.path = str(lesson)
        self.module = types.ModuleType(lesson.stem, ast.get_docstring(ast.parse(read_text(lesson))))
        self.module.__file__ = self.path
        sys.modules[lesson.stem] = self.module  # dataclasses look up their module by name
        sys.argv = [self.path, *arguments]

    def execute(self, cell: Cell) -> Any:
        """Run a code cell; returns the value of its last line if that is an expression, as a notebook does."""
        tree = ast.parse(cell.text, self.path)
        ast.increment_lineno(tree, cell.line - 1)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._run(tree, "exec")
        return None if last is None else self._run(ast.Expression(last.value), "eval")

    def _run(self, tree: Any, mode: str) -> Any:
        flags = __future__.annotations.compiler_flag
        return eval(compile(tree, self.path, mode, flags, dont_inherit=True), vars(self.module))
