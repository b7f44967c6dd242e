"""A lesson as a Jupyter notebook, to work in."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gpt.files import read_json, write_text
from scripts.course.lessons.cells import ANSWER, Cell
from scripts.course.lessons.concepts import ROOT

KEY = "minigrad"  # in the notebook's metadata: what it was like when it was written


def write_notebook(cells: list[Cell], path: Path) -> None:
    """Write the cells as a notebook that can be run from top to bottom.

    Raises FileExistsError for a notebook that has been changed or run since it was written, RuntimeError without
    nbformat.
    """
    try:
        from nbformat import v4
    except ImportError:
        raise RuntimeError("notebooks need nbformat: pip install nbformat") from None
    if path.exists() and _worked_in(path):
        raise FileExistsError(f"{path.as_posix()} has been edited and is kept: rename it, or choose another --out-dir")
    start = f"import os, sys\n\nos.chdir({str(ROOT)!r})  # pictures and models go to its runs\nsys.path[:0] = ['.']"
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(cells[0].text), v4.new_code_cell(start)])
    for cell in cells[1:]:
        if cell.kind == "prose":
            notebook.cells.append(v4.new_markdown_cell("\n\n".join(map(_folded, cell.paragraphs()))))
        else:
            notebook.cells.append(v4.new_code_cell(cell.text))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata[KEY] = _fingerprint(notebook)
    write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _folded(paragraph: str) -> str:
    """An answer is hidden until the reader opens it."""
    text = paragraph.removeprefix(ANSWER)
    folded = f"<details><summary>Show the answer</summary>\n\n{text.strip()}\n\n</details>"
    return paragraph if text == paragraph else folded


def _worked_in(path: Path) -> bool:
    """Whether somebody has changed or run the notebook since it was written, or something else is there."""
    try:
        notebook = read_json(path)
        return notebook["metadata"][KEY] != _fingerprint(notebook)
    except (ValueError, KeyError, TypeError):
        return True


def _fingerprint(notebook: Any) -> str:
    """A hash of all that a reader can change: texts and outputs."""
    cells = [[cell["cell_type"], "".join(cell["source"]), cell.get("outputs", [])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
