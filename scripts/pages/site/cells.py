"""What the page of a lesson (cells.js) asks of Python: to run its cells."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import Any

from scripts.course.lessons.cells import LESSONS, Cell, Running
from scripts.pages.lesson_page import Body, _value
from scripts.pages.site.in_browser import shown

PICTURES = Path("/tmp/lessons")
lessons: dict[str, Running] = {}


def run(lesson: str, text: str, cell: int) -> dict[str, Any]:
    """Run a cell in its lesson's module. What it prints is said while it runs; the rest comes at the end, as HTML.

    cell: its number on the page, which stands for a file in tracebacks. Its text is kept there for `inspect`, which
    `lesson.measured` asks for the source of functions of this and earlier cells.
    """
    if lesson not in lessons:
        lessons[lesson] = Running(LESSONS / f"{lesson}.py", ["--out-dir", str(PICTURES / lesson)])
    lessons[lesson].path = path = f"cell {cell}"
    linecache.cache[path] = (len(text), None, f"{text.rstrip()}\n".splitlines(True), path)
    try:
        value = lessons[lesson].execute(Cell("code", text, 1))
        return {"html": "".join(_value(value))}
    except (Exception, KeyboardInterrupt) as error:
        return {"error": shown(error, path)}


def show(printed: str) -> dict[str, Any]:
    """What a cell printed, with the pictures and widgets that it names, as HTML."""
    return {"html": "".join(Body(PICTURES)._output(printed))}


def forget(lesson: str) -> dict[str, Any]:
    """Forget what the cells of a lesson have defined."""
    lessons.pop(lesson, None)
    return {}
