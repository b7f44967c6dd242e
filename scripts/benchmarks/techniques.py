"""The contribution of each technique of minigrad/kernels: a training step with all, and without one at a time."""

from __future__ import annotations

from typing import Any

from scripts.benchmarks.jobs import TECHNIQUES
from scripts.benchmarks.models import TRAINING
from scripts.benchmarks.sides import compare

NAMES = ["techniques"]
STEP = "gpt2 4x256"


def measure(name: str, steps: int) -> dict[str, Any]:
    """Seconds and peak bytes of a step, by what is left out; each beside the full set, in turns."""
    rows: dict[str, Any] = {}
    for technique in [*(f"without {name}" for name in TECHNIQUES), "textbook"]:
        sides = compare(["fast", technique], "train", TRAINING[STEP], min(steps, 3), warmup=1)
        fast, less = sides["fast"], sides[technique]
        rows[technique] = {
            "seconds": less["seconds"],
            "peak_bytes": less["peak_bytes"],
            "slower": less["seconds"] / fast["seconds"],
            "more_bytes": less["peak_bytes"] - fast["peak_bytes"],
        }
    return {"step": STEP, "rows": rows}


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print: a table, the largest contribution first."""
    out = [f"training step, {row['step']}"]
    for technique, figures in sorted(row["rows"].items(), key=lambda item: -item[1]["slower"]):
        out.append(
            f"{technique:<26} {figures['seconds'] * 1e3:7.0f} ms, {figures['slower']:5.2f}x the time, "
            f"{figures['more_bytes'] / 2**20:+6.0f} MiB"
        )
    return out
