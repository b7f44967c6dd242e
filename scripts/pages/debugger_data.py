"""A recording of lines as data for its page: everything that debugger.js shows, in a form that JSON can hold."""

from __future__ import annotations

import re
from typing import Any

from minigrad.inspection.line_recorder import LineRecorder
from scripts.pages.explain_data import ROOT, shown_path
from scripts.pages.markup import python_to_html
from scripts.pages.web_page import packed

PACKAGES = [ROOT / name for name in ("minigrad", "gpt", "finetune")]  # whose lines are recorded
# What a reader can leave out: the ops with their NumPy lines, and the engine that calls the ops.
OPS = re.compile(r"minigrad/(functional/(?!argument_checks)|kernels/|optim|muon)")
ENGINE = re.compile(r"minigrad/(?!nn/layers)")


def debugger_data(recording: LineRecorder) -> dict[str, Any]:
    """The whole data of a page but its title."""
    files = [path for path in recording.sources if any(call["file"] == path for call in recording.calls)]
    top = [(i, moment[1]) for i, moment in enumerate(recording.moments) if moment[0] == 0]
    first = {number: next((i for i, line in top if line > number), None) for number in recording.marks}
    return {
        "calls": [{**call, "file": files.index(call["file"]), "part": part(call)} for call in recording.calls],
        "moments": recording.moments,
        "printed": recording.printed,
        "values": recording.values,
        "arrays": [{**array, "data": packed(array["data"])} for array in recording.arrays],
        "marks": [[recording.marks[number], moment] for number, moment in first.items() if moment is not None],
        "files": [
            {"path": shown_path(path), "lines": python_to_html(recording.sources[path]).split("\n")} for path in files
        ],
    }


def part(call: dict[str, Any]) -> str:
    """What a call belongs to, if a reader can leave it out."""
    path, name = shown_path(call["file"]), call["name"].rpartition(".")[2].lstrip("_")
    if OPS.match(path) and not name.startswith("check"):
        return "op"
    return "engine" if ENGINE.match(path) else ""
