"""What the page of an exercise (exercise.js) asks of Python: to check an answer, and to pack and unpack the work."""

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from gpt.files import write_text
from scripts.course.checker import catalogue, showing
from scripts.course.checker.workspace import Workspace
from scripts.pages.exercise_steps import exercise_page

WORKSPACE = Path("my_exercises")


def ready() -> dict[str, Any]:
    """Say nothing: what a check needs is loaded now."""
    return {}


def ask(command: str, name: str, text: str, state: dict[str, Any]) -> dict[str, Any]:
    """What `exercise.py check`, `hint` or `solution` say about a learner's text. state: of progress.json.

    "steps": the page of `check --html`, as "html".
    """
    html = ""
    workspace = workspace_of({catalogue.paths()[name].name: text}, state)
    try:
        if command == "steps":
            verdict, file = workspace.check(name), workspace.file(name)
            withheld = workspace.withheld(name)
            html = exercise_page(workspace.exercise(name), verdict, file, not withheld)
            said = f"Your code, line by line, is in a new tab (allow pop-ups if there is none).\n{withheld}"
        elif command == "check":
            said = showing.verdict_text(name, workspace.check(name), workspace)
        elif command == "hint":
            said = "hint {} of 3: {}".format(*workspace.hint(name))
        else:
            said = workspace.withheld(name) or workspace.exercise(name).solution()
    except ValueError as error:
        said = str(error)
    return {"said": said, "html": html, "state": workspace.state}


def workspace_of(files: dict[str, str], state: dict[str, Any]) -> Workspace:
    """A learner's folder with these files. state: of progress.json."""
    for name, text in {**files, "progress.json": json.dumps(state)}.items():
        write_text(WORKSPACE / name, text)
    return Workspace(WORKSPACE, catalogue.paths())


def whole(kind: str, model: str, text: str, files: dict[str, str], state: dict[str, Any]) -> None:
    """Build the learner's "GPT" or "Llama" as `exercise.py capstone` does, with the weights of the model NAME. text:
    what it continues or answers.

    What is compared and written is printed as it comes. Raises ValueError with what is wrong.
    """
    from scripts.course.checker import capstone  # which needs much: no other page of an exercise waits for it

    from . import smollm2

    capstone.build(workspace_of(files, state), kind, Path(), [(f"/models/{model}", text)], smollm2.load)


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
