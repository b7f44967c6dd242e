"""The tests that run on a device "cuda", which elsewhere is a stand-in, here on the GPU."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
FILES = (
    "tests/test_device.py",
    "tests/minigrad/test_cuda_attention.py",
    "tests/minigrad/test_cuda_kernels.py",
    "tests/minigrad/test_cuda_products.py",
)


def check(files: tuple[str, ...] = FILES) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and the names of those that failed."""
    command = [sys.executable, "-m", "pytest", "--device=gpu", "-q", *files]
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    done = subprocess.run(command, cwd=ROOT, errors="replace", **output)  # Windows' own encoding may be another
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout[-300:])}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    passed = done.returncode == 0 and counts.get("passed", 0) > 0
    return {"passed": passed, "counts": counts, "failed": failed, "output": "" if passed else done.stdout[-8000:]}


def lines(result: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    counts = ", ".join(f"{n} {what}" for what, n in result["counts"].items()) or "no test ran"
    return [counts, *result["failed"], *result["output"].splitlines()[-30:]]
