"""Step through a training step, or through something smaller, in a page: line by line, forward and back in time."""

import ast
import re
from pathlib import Path
from typing import Any

from gpt.files import read_text, write_text
from minigrad.inspection.line_recorder import LineRecorder, record_lines
from scripts.pages.explain_data import ROOT, shown_path
from scripts.pages.markup import python_to_html
from scripts.shared import command_line
from scripts.shared.web_page import packed, page_of_data

EXAMPLES = """examples:
  python scripts/step.py                          the step itself, for a debugger
  python scripts/step.py --html                   as a page: every line, forward and back in time
  python scripts/step.py --html attention         another script: {names}
"""
FILES = "debugger.html debugger.js"
OTHERS = [
    "one_page",
    "softmax",
    "cross_entropy",
    "layer_norm",
    "attention",
    "kv_cache",
    "merge",
    "lora",
    "gptq",
    "dpo",
    "ppo",
]
STEPS = {"step": ROOT / "scripts/step.py"} | {name: ROOT / f"scripts/course/steps/{name}.py" for name in OTHERS}
PACKAGES = [ROOT / name for name in ("minigrad", "gpt", "finetune", "scripts/one_page.py")]  # whose lines are recorded
# What a reader can leave out: the ops with their NumPy lines, and the engine that calls the ops.
OPS = re.compile(r"minigrad/(functional/(?!argument_checks)|kernels/|optim|muon)")
ENGINE = re.compile(r"minigrad/(?!nn/layers)")


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES.format(names=", ".join(STEPS)))
    parser.add_argument("name", nargs="?", default="step", choices=list(STEPS), metavar="NAME", help="which of these")
    parser.add_argument("--html", action="store_true", required=True, help="write the page")
    parser.add_argument("--out-dir", default="runs/step", help="folder for the page")
    arguments = parser.parse_args(argv)
    path = Path(arguments.out_dir) / f"{arguments.name}.html"
    html, moments = step_page(arguments.name)
    write_text(path, html)
    print(f"page: {path.as_posix()} ({moments:,} lines ran; {len(html) / 1e6:.1f} MB)")
    return 0


def title_of(name: str) -> str:
    """The first sentence of a script."""
    return re.split(r"\.\s", ast.get_docstring(ast.parse(read_text(STEPS[name]))) or "", maxsplit=1)[0].rstrip(".")


def step_page(name: str, address: str = "") -> tuple[str, int]:
    """The page of a script, and how many lines ran. address: on the site, where lines can be changed."""
    data = debugger_data(record_lines(STEPS[name], PACKAGES)) | {"name": name}
    if address and name == "step":
        data["ops"] = "../step/index.html"  # the page that shows the same step op by op
    files = f"{FILES} site/live.js site/editor.html" if address else FILES
    return page_of_data(files, title_of(name), data, address), len(data["moments"])


# --- the data of the page ---------------------------------------------------------------------------------------------


def debugger_data(recording: LineRecorder) -> dict[str, Any]:
    """The whole data of a page."""
    sources = recording.sources
    files = [path for path in sources if any(call["file"] == path for call in recording.calls)]
    top = [(i, moment[1]) for i, moment in enumerate(recording.moments) if moment[0] == 0]
    first = {number: next((i for i, line in top if line > number), None) for number in recording.marks}
    return {
        "calls": [{**call, "file": files.index(call["file"]), "part": part(call)} for call in recording.calls],
        "moments": recording.moments,
        "printed": recording.printed,
        "values": recording.values,
        "arrays": [{**array, "data": packed(array["data"])} for array in recording.arrays],
        "marks": [[recording.marks[number], moment] for number, moment in first.items() if moment is not None],
        "files": [{"path": shown_path(path), "lines": python_to_html(sources[path]).split("\n")} for path in files],
    }


def part(call: dict[str, Any]) -> str:
    """What a call belongs to, if a reader can leave it out."""
    path, name = shown_path(call["file"]), call["name"].rpartition(".")[2].lstrip("_")
    if OPS.match(path) and not name.startswith("check"):
        return "op"
    return "engine" if ENGINE.match(path) else ""
