"""Verify minigrad on a real GPU, which other machines only emulate, and measure its speed.

suite: the tests for the device "cuda". kernels: each compared with NumPy. training: a small GPT on CPU and GPU, with
equal losses. speed: GPT-2's training step and generation beside PyTorch. The exit code is 1 if a part fails.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from start import command_line

import numpy as np

from gpt.files import write_text
from minigrad.backend import module_of, resolve_device, to_device
from scripts.benchmarks.gpu import kernels, speed, suite, training

PARTS = {"suite": suite, "kernels": kernels, "training": training, "speed": speed}
EXAMPLES = """examples:
  python scripts/verify_gpu.py                       everything, and a report
  python scripts/verify_gpu.py --only kernels
If PyTorch for CUDA and transformers are installed, the speed is compared with theirs.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help="may be repeated")
    parser.add_argument("--out", default="runs/verify_gpu.json", help="file for the report")
    arguments = parser.parse_args(argv)
    resolve_device("cuda")  # raises with the reason where there is no GPU
    report: dict[str, Any] = {"machine": describe_machine(), "parts": {}}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    for name in arguments.only or PARTS:
        print(f"\n{name}", flush=True)
        result = PARTS[name].check()
        print("\n".join(f"  {line}" for line in PARTS[name].lines(result)), flush=True)
        report["parts"][name] = result
        write_text(arguments.out, json.dumps(report, indent=1) + "\n")
    print(f"\nreport in {arguments.out}")
    if wrong := [name for name, result in report["parts"].items() if not result["passed"]]:
        raise ValueError(f"this GPU gives wrong results: see {', '.join(wrong)} above")
    print("verified")
    return 0


def describe_machine() -> dict[str, Any]:
    """The facts that the figures depend on."""
    found = {"CuPy": module_of(to_device(np.zeros(1), "cuda")).__version__, "NumPy": np.__version__}
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, encoding="utf-8").stdout.splitlines()
        found |= {"GPU, driver, memory": answer[0]} if answer else {}
    return found


if __name__ == "__main__":
    command_line.run(main)
