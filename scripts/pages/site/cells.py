"""What the page of a lesson (cells.js) asks of Python: to run its cells."""

import linecache
from pathlib import Path
from typing import Any

from gpt.files import read_text
from scripts.course.lessons.cells import LESSONS, ONE_PAGE, Cell, Running
from scripts.pages.lesson_page import LessonPage, _value
from scripts.pages.site.in_browser import shown

PICTURES = Path("/tmp/lessons")
FAILED = "Your code ran; only the lesson's check failed."
lessons: dict[str, Running] = {}


def run(lesson: str, text: str, cell: int, changed: bool = False) -> dict[str, Any]:
    """Run a cell in its lesson's module. What it prints is said while it runs; the rest comes at the end, as HTML.

    cell: its number on the page, which stands for a file in tracebacks. Its text is kept there for `inspect`, which
    `lesson.measured` asks for the source of functions of this and earlier cells. changed: it is not the lesson's own
    code, or runs after some that is not; then checks of the lesson that fail are told as well, as "failed".
    """
    file = ONE_PAGE if lesson == ONE_PAGE.stem else LESSONS / f"{lesson}.py"
    if lesson not in lessons:
        lessons[lesson] = Running(file, ["--out-dir", str(PICTURES / lesson)])
    lessons[lesson].path = path = f"cell {cell}"
    linecache.cache[path] = (len(text), None, f"{text.rstrip()}\n".splitlines(True), path)
    try:
        compile(text, path, "exec")  # what cannot be read does not begin
        value = failed = None
        for statement in Cell("code", text, 1).statements():
            try:
                value = lessons[lesson].execute(statement)
            except AssertionError:
                if not changed or (check := statement.text.strip()) not in read_text(file):
                    raise
                value = None
                failed = FAILED
                print(f"\n{FAILED} It is about the original numbers:\n\n{check}\n")
        return {"html": "".join(_value(value)), "failed": failed}
    except (Exception, KeyboardInterrupt) as error:
        return {"error": shown(error, path)}


def show(printed: str) -> dict[str, Any]:
    """What a cell printed, with the pictures and widgets that it names, as HTML."""
    return {"html": "".join(LessonPage(PICTURES)._output(printed))}


def forget(lesson: str) -> dict[str, Any]:
    """Forget what the cells of a lesson have defined."""
    lessons.pop(lesson, None)
    return {}
