"""Attention from short to long texts: the textbook's T x T weights against tiles, whose memory grows with T only."""

from __future__ import annotations

from typing import Any

from scripts.benchmarks.sides import compare, opponent

NAMES = ["attention"]
TIMES = [256, 512, 1024, 2048, 4096, 8192]
LONGEST_TEXTBOOK = 4096  # at 8,192 it would need some 20 GB


def measure(name: str, steps: int) -> dict[str, Any]:
    """Seconds of forward and backward, and bytes beside the inputs, by T and side."""
    rows = {}
    for time in TIMES:
        sides = ["fast", *opponent()] + ["textbook"] * (time <= LONGEST_TEXTBOOK)
        figures = compare(sides, "attention", (time,), min(steps, 4), warmup=1)
        rows[time] = {side: {key: figures[side][key] for key in ("seconds", "job_bytes")} for side in sides}
    return {"times": rows}


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print: a table of milliseconds and MiB."""
    out = [f"{'T':>5} | {'fast':>18} | {'PyTorch':>18} | {'textbook':>18}      (forward and backward of one layer)"]
    for time, sides in row["times"].items():
        cells = []
        for side in ("fast", "torch", "textbook"):
            figures = sides.get(side)
            cell = f"{figures['seconds'] * 1e3:7.1f} ms {figures['job_bytes'] / 2**20:4.0f} MiB" if figures else ""
            cells.append(f"{cell:>18}")
        out.append(f"{time:>5} | " + " | ".join(cells))
    return out
