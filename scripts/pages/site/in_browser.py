"""The functions that a page of the site calls in its worker (worker.js). They take and return JSON."""

from __future__ import annotations

import base64
import io
import json
import linecache
import traceback
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from gpt.files import write_text
from scripts.lessons.cells import LESSONS, Cell, Running

PICTURES, WORKSPACE = Path("/tmp/lessons"), Path("my_exercises")
lessons: dict[str, Running] = {}


def run(lesson: str, text: str, line: int) -> dict[str, Any]:
    """Run a cell in its lesson's module. What it prints is said while it runs; the rest comes at the end, as HTML."""
    from scripts.pages.lesson_page import _value

    if lesson not in lessons:
        lessons[lesson] = Running(LESSONS / f"{lesson}.py", ["--out-dir", str(PICTURES / lesson)])
    path = lessons[lesson].path
    linecache.cache[path] = (len(text), None, ["\n"] * (line - 1) + text.splitlines(True), path)  # for the traceback
    try:
        value = lessons[lesson].execute(Cell("code", text, line))
        return {"html": "".join(_value(value))}
    except (Exception, KeyboardInterrupt) as error:
        return {"error": _shown(error, path)}


def show(printed: str) -> dict[str, Any]:
    """What a cell printed, with the pictures and widgets that it names, as HTML."""
    from scripts.pages.lesson_page import Body

    return {"html": "".join(Body(PICTURES)._output(printed))}


def forget(lesson: str) -> dict[str, Any]:
    """Forget what the cells of a lesson have defined."""
    lessons.pop(lesson, None)
    return {}


def exercise(command: str, name: str, text: str, state: dict[str, Any]) -> dict[str, Any]:
    """What `exercise.py check`, `hint` or `solution` say about a learner's text. state: of progress.json."""
    from scripts.checker import catalogue, showing
    from scripts.checker.workspace import Workspace

    write_text(WORKSPACE / "progress.json", json.dumps(state))
    workspace = Workspace(WORKSPACE, catalogue.paths())
    write_text(workspace.file(name), text)
    try:
        if command == "check":
            said = showing.verdict_text(name, workspace.check(name), workspace)
        elif command == "hint":
            said = "hint {} of 3: {}".format(*workspace.hint(name))
        elif not workspace.has_passed(name):
            said = "The library's solution is shown once yours passes the check."
        else:
            found = workspace.exercise(name)
            said = f"# One right answer:\n\n{found.blanks.strip()}\n\n\n# The library's way:\n\n{found.solution()}"
    except ValueError as error:
        said = str(error)
    return {"said": said, "state": workspace.state, "passed": workspace.has_passed(name)}


def folder(files: dict[str, str], state: dict[str, Any]) -> dict[str, Any]:
    """A zip of a learner's files, as a folder that `exercise.py` takes as its --workspace."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**files, "progress.json": json.dumps(state, indent=1)}.items():
            archive.writestr(f"my_exercises/{name}", text)
    return {"base64": base64.b64encode(data.getvalue()).decode("ascii")}


def taken_up(data: str) -> dict[str, Any]:
    """The files and the state in a zip of a folder, given as base64."""
    files, state = {}, {}
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(data))) as archive:
        for entry in archive.infolist():
            name = entry.filename.rpartition("/")[2]
            if name == "progress.json":
                state = json.loads(archive.read(entry))
            elif name.endswith(".py"):
                files[name] = archive.read(entry).decode("utf-8")
    return {"files": files, "state": state}


CALLS = {function.__name__: function for function in (run, show, forget, exercise, folder, taken_up)}


def answer(call: str, given: str) -> str:
    """Call a function with its arguments as JSON; its result as JSON."""
    with redirect_stderr(io.StringIO()):
        return json.dumps(CALLS[call](**json.loads(given)))


def _shown(error: BaseException, path: str) -> str:
    """The traceback from the lesson's cell on; our own frames above it are left out."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    places = traceback.extract_tb(error.__traceback__)
    first = next((i for i, place in enumerate(places) if place.filename == path), 0)
    lines = traceback.format_list(places[first:]) + traceback.format_exception_only(error)
    return "Traceback (most recent call last):\n" + "".join(lines)
