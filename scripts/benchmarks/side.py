"""One side of a comparison: takes a step when told to, and reports. A process of its own, it has its own memory.

Reads lines on standard input, and answers each with one line of JSON: "step" with {"seconds"}, "report", the last one,
with what `report` returns. The parent (sides.py) lets two of these take turns, so both see the same machine.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt.memory_check import peak_memory
from minigrad.kernels.cpu import threads
from scripts.benchmarks import jobs
from scripts.benchmarks.sides import PAUSE

# side -> the module with its jobs; all other sides are ours
OPPONENTS = {
    "torch": "torch_jobs",
    "torch.compile": "torch_jobs",
    "torch bfloat16": "torch_jobs",
    "llama.cpp": "llama_cpp_jobs",
}


def is_ours(side: str) -> bool:
    """Whether a side trains or generates with the fast kernels, in one process or in several."""
    return side in ("fast", "float32") or side.endswith(" processes")


def job(side: str, kind: str, arguments: list[str]) -> Any:
    """The job of that kind on `side`: one of OPPONENTS, "N processes", or what `jobs.select_kernels` takes."""
    values: list[Any] = [int(text) if text.isdigit() else text for text in arguments]
    if side in OPPONENTS:
        opponent: Any = importlib.import_module(f"scripts.benchmarks.{OPPONENTS[side]}")
        if OPPONENTS[side] == "torch_jobs":
            opponent.COMPILE = side == "torch.compile"
        # Mixed precision: products in bfloat16, weights in float32.
        return opponent.JOBS[kind](*values, **({"precision": "bfloat16"} if side == "torch bfloat16" else {}))
    jobs.select_kernels(side)
    if side.endswith(" processes"):
        return jobs.SharedTraining(int(side.split()[0]), *values)
    return jobs.JOBS[kind](*values, **({"side": side} if kind in ("quantized", "smollm2") else {}))


def product_rate(side: str, n: int = 2048) -> float:
    """Floating-point operations per second of an n x n product, in float32 or in the side's bfloat16."""
    a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    if side.startswith("torch"):
        import torch

        if side == "torch bfloat16" and n > 256:
            rate = product_rate(side, 256)
            if rate < 2e9:  # without instructions for bfloat16: a larger product would take minutes
                return rate
        x = torch.from_numpy(a).to(torch.bfloat16 if side == "torch bfloat16" else torch.float32)
        return 2 * n**3 / median_seconds(lambda: x @ x)
    return 2 * n**3 / median_seconds(lambda: threads.matmul(a, a))


def library(side: str) -> str:
    """The library that multiplies matrices on this side, its version, and the instructions that it may use.

    On AMD, MKL does not use AVX-512 although PyTorch's own loops do: the rate of products shows it.
    """
    if side.startswith("torch"):
        import torch

        name, called = ("oneDNN", "MKL-DNN v") if side == "torch bfloat16" else ("MKL", "Math Kernel Library Version ")
        version = re.search(rf"{called}([\d.]+)", torch.__config__.show())
        instructions, processor = torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo")
        if side == "torch bfloat16" and processor.exists() and "amx_bf16" in processor.read_text(encoding="utf-8"):
            instructions = "AMX"
        return f"{name} {version[1]}, {instructions}" if version else f"its own library, {instructions}"
    if side in OPPONENTS:
        return "ggml"
    from threadpoolctl import threadpool_info

    return ", ".join(f"{blas['internal_api']} {blas['version']}, {blas.get('architecture')}"
                     for blas in threadpool_info() if blas["user_api"] == "blas")  # fmt: skip


def read_rate(size: int = 2**26) -> float:
    """Bytes per second at which matrix-vector products read memory."""
    matrix, vector = np.ones((size // 1024, 1024), np.float32), np.ones((1024, 1), np.float32)
    return matrix.nbytes / median_seconds(lambda: threads.matmul(matrix, vector))


def median_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of `work`, over a few seconds: one busy moment of the machine must not decide."""

    def begin() -> None:
        time.sleep(PAUSE)
        work()

    return float(np.median(timeit.repeat(work, begin, number=3, repeat=repeats))) / 3


def resident_memory() -> int:
    """The memory that this process has now, in bytes; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory()
    return int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(side: str, work: Any, at_first: int) -> dict[str, Any]:
    """The memory of the job, of which `at_first` bytes were there before the first step; the machine's rates.

    Of several processes, it is that of the first, and what the others have for themselves.
    """
    peak, resident = peak_memory(), resident_memory()  # before the rates, whose measurement needs memory too
    others = work.end() if side.endswith(" processes") else 0
    memory = {"peak_bytes": peak + others, "resident_bytes": resident + others, "job_bytes": peak + others - at_first}
    rates: dict[str, Any] = {"library": library(side), "product_flops": product_rate(side)}
    if side not in OPPONENTS:
        rates["read_bytes_per_second"] = read_rate()
    return memory | rates


def main() -> None:
    side, kind, *arguments = sys.argv[1:]
    work = job(side, kind, arguments)
    at_first = peak_memory()
    for line in sys.stdin:
        if line.strip() == "step":
            started = time.perf_counter()
            work.step()
            answer = {"seconds": time.perf_counter() - started}
        else:
            answer = report(side, work, at_first)
        print(json.dumps(answer), flush=True)
    os._exit(0)  # no waiting for threads


if __name__ == "__main__":
    main()
