"""Pictures of a training run."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from .run_log import read_log


def plot_run(folder: str | os.PathLike[str], baselines: dict[str, float] | None = None, name: str = "loss.png") -> Path | None:
    """Draw the losses in `folder`/log.jsonl into a picture there, with `baselines` as lines; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = read_log(Path(folder) / "log.jsonl")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    _curve(axes, rows, "loss", color="0.6", linewidth=1, label="training (each batch)")
    _curve(axes, rows, "val_loss", color="black", marker="o", markersize=4, linewidth=1.5, label="validation")
    right = max((row["step"] for row in rows), default=1)
    for label, loss in (baselines or {}).items():
        axes.axhline(loss, color="0.35", linestyle=":", linewidth=1)
        axes.annotate(f"{label} {loss:.2f}", (right, loss), ha="right", va="bottom", fontsize=8, color="0.25")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Learning to predict the next token")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
    path = Path(folder) / name
    figure.savefig(path, dpi=120)
    return path


def _curve(axes: Any, rows: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
