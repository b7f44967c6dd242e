"""Step through a training step, or through something smaller, in a page: line by line, forward and back in time."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from gpt.files import read_text, write_text
from minigrad.inspection.line_recorder import record_lines
from scripts.pages.debugger_data import PACKAGES, debugger_data
from scripts.pages.web_page import POLICY, page_of_data
from scripts.shared import command_line

EXAMPLES = """examples:
  python scripts/step.py                          the step itself, for a debugger
  python scripts/step.py --html                   as a page: every line, forward and back in time
  python scripts/step.py --html attention         another script: {names}
"""
SCRIPTS = Path(__file__).resolve().parents[1]
OTHERS = ["softmax", "cross_entropy", "layer_norm", "attention", "kv_cache", "merge", "lora", "gptq", "dpo", "ppo"]
STEPS = {"step": SCRIPTS / "step.py"} | {name: SCRIPTS / "course" / "steps" / f"{name}.py" for name in OTHERS}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES.format(names=", ".join(STEPS)))
    text = "what to step through"
    parser.add_argument("name", nargs="?", default="step", choices=list(STEPS), metavar="NAME", help=text)
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


def step_page(name: str, policy: str = POLICY, before: str = "", ops: str = "") -> tuple[str, int]:
    """The page of a script, and how many lines ran. ops: the address of the page that shows the same step op by op."""
    recording = record_lines(STEPS[name], packages=PACKAGES)
    data = debugger_data(recording) | {"title": title_of(name), "name": name, "ops": ops}
    return page_of_data("debugger", data["title"], data, policy, before=before), len(data["moments"])
