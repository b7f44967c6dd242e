"""Verify minigrad on a real GPU, which other machines only emulate, and measure its speed.

suite: the tests for the device "cuda". kernels: each compared with NumPy. training: a small GPT on CPU and GPU, with
equal losses. speed: GPT-2's training step and generation beside PyTorch. The exit code is 1 if a part fails.
"""

import json
import shutil
import subprocess
import traceback
import warnings
from typing import Any

from start import command_line

import numpy as np

from gpt.files import write_text
from minigrad.backend import module_of, resolve_device, to_device
from minigrad.kernels.cuda.launch import KernelWarning
from scripts.benchmarks.gpu import kernels, speed, suite, training

PARTS = {"suite": suite, "kernels": kernels, "training": training, "speed": speed}
EXAMPLES = """examples:
  python scripts/verify_gpu.py                       everything, and a report
  python scripts/verify_gpu.py --only kernels
The report is text to paste into an issue. If PyTorch for CUDA and transformers are installed, the speed is compared
with theirs.
"""
TO_PASTE = """\
```text
{lines}
```

<details><summary>all numbers</summary>

```json
{report}
```

</details>
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help="may be repeated")
    parser.add_argument("--out", default="runs/verify_gpu.md", help="file for the report")
    arguments = parser.parse_args(argv)
    resolve_device("cuda")  # raises with the reason where there is no GPU
    report: dict[str, Any] = {"machine": describe_machine(), "parts": {}}
    lines = [", ".join(f"{name} {value}" for name, value in report["machine"].items())]
    print(lines[0])
    for name in arguments.only or PARTS:
        print(f"\n{name}", flush=True)
        result, part_lines = run_part(name)
        print("\n".join(part_lines), flush=True)
        report["parts"][name] = result
        lines += ["", name, *part_lines]
        write_text(arguments.out, TO_PASTE.format(lines="\n".join(lines), report=json.dumps(report)))
    print(f"\nreport in {arguments.out}: please paste it into an issue, also if all is right")
    if wrong := [name for name, result in report["parts"].items() if not result["passed"]]:
        raise ValueError(f"this GPU gives wrong results: see {', '.join(wrong)} above")
    print("verified")
    return 0


def run_part(name: str) -> tuple[dict[str, Any], list[str]]:
    """The result of a part, and the lines to print. An error in it does not keep the other parts from being run."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            result = PARTS[name].check()
        lines = PARTS[name].lines(result)
    except Exception:
        result = {"passed": False}
        lines = traceback.format_exc().splitlines()
    for warning in caught:
        result["passed"] &= warning.category is not KernelWarning  # plain CuPy has taken a kernel's place
        lines.append(str(warning.message))
    return result, [f"  {line}" for line in lines]


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
