"""A training step and generation of GPT-2 (124M) beside PyTorch, eager, on the same GPU, in each precision.

Each side is a process of its own, one after the other: both would not fit into a small GPU.
"""

import contextlib
import statistics
from typing import Any

from scripts.benchmarks.turns import Side, is_installed

PRECISIONS = ("float32", "tf32", "bfloat16")
AIM = 1.5  # times PyTorch's time for a step in bfloat16
# name -> job (see benchmarks/ours.py), preset, and batch and time steps; or tokens of the prompt, new ones, texts
JOBS = {"train 4x1024": ("train", ("gpt2", 4, 1024)), "generate": ("generate", ("gpt2", 32, 128, 1))}
WARMUP = 3


def check(steps: int = 10) -> dict[str, Any]:
    """A row per job and precision: the median seconds of each side, and ours over theirs."""
    rows: dict[str, Any] = {}
    for name, (kind, arguments) in JOBS.items():
        for precision in PRECISIONS:
            row: dict[str, Any] = {}
            for side in filter(is_installed, ("fast", "torch")):
                times = _measure(side, kind, [*arguments, "cuda", precision], steps)
                row[side] = {"seconds": statistics.median(times), "all": times}
            if "torch" in row:
                row["over_torch"] = row["fast"]["seconds"] / row["torch"]["seconds"]
            rows[f"{name} {precision}"] = row
    return {"passed": True, "rows": rows}  # a slow machine is not a mistake


def _measure(side: str, kind: str, arguments: list[Any], steps: int) -> list[float]:
    with contextlib.closing(Side(side, kind, arguments)) as worker:
        return [worker.ask("step")["seconds"] for _ in range(WARMUP + steps)][WARMUP:]


def lines(result: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    out = [f"{'':<24} {'minigrad ms':>12} {'PyTorch ms':>12} {'ours/theirs':>12}"]
    for name, row in result["rows"].items():
        theirs = f"{row['torch']['seconds'] * 1e3:12.1f} {row['over_torch']:12.2f}" if "torch" in row else f"{'-':>12}"
        aim = f"  (aim: {AIM})" if name == "train 4x1024 bfloat16" else ""
        out.append(f"{name:<24} {row['fast']['seconds'] * 1e3:12.1f} {theirs}{aim}")
    if not all("torch" in row for row in result["rows"].values()):
        out.append("PyTorch with CUDA and transformers are needed for the comparison: pip install torch transformers")
    return out
