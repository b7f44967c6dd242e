"""Pictures of training runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import StrPath
from .log import read_log

BASELINES = {  # what is known of a text: see `evaluation.baseline_losses`
    "uniform": "knowing nothing (ln V)",
    "unigram": "knowing token frequencies",
    "bigram": "knowing the token before",
}
STYLES = [("-", "black"), ("--", "0.45"), (":", "black"), ("-.", "0.45")]  # of runs in one picture: line and color


def plot_run(
    folder: StrPath,
    title: str,
    unit: str = "token",
    shares: Sequence[str] = (),
    baselines: Mapping[str, float] | None = None,
) -> Path | None:
    """Draw the losses in log.jsonl into loss.png beside it, with `baselines` as lines; None without matplotlib.

    unit: what the losses are means over. shares: keys of numbers from 0 to 1 that get a panel of their own.
    """
    figure = new_figure(9, 7.5 if shares else 4.5)
    if figure is None:
        return None
    rows = read_log(Path(folder) / "log.jsonl")
    axes, *more = figure.subplots(2 if shares else 1, sharex=True, squeeze=False)[:, 0]
    _curve(axes, rows, "loss", color="0.6", linewidth=1, label="training loss, of a batch")
    _curve(axes, rows, "val_loss", color="black", marker="o", markersize=4, linewidth=1.5, label="validation loss")
    baselines = baselines or {}
    for loss in baselines.values():
        axes.axhline(loss, color="0.35", linestyle=":", linewidth=1)
    bottom, top = axes.get_ylim()
    heights = _spread(list(baselines.values()), least=0.05 * (top - bottom))
    for (key, loss), height in zip(baselines.items(), heights, strict=True):
        place = (1.01, (height - bottom) / (top - bottom))
        text = f"{loss:.2f}  {BASELINES.get(key, key)}"
        axes.annotate(text, place, xycoords="axes fraction", va="center", fontsize=9)
    axes.set_ylim(bottom, top)
    axes.set(xlabel="" if more else "step", ylabel=f"loss (nats per {unit})")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25)
    if rows:
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
    for below in more:
        _draw_shares(below, rows, shares)
    path = Path(folder) / "loss.png"
    figure.savefig(path, dpi=120)
    return path


def plot_runs(
    runs: Mapping[str, StrPath], panels: Mapping[str, str], title: str, path: StrPath, rows_with: str = "loss"
) -> Path | None:
    """Draw the logs of up to four runs, {label: folder}, into one picture: a panel for each quantity, a line for each
    run; None without matplotlib.

    panels: {key in the log: name}; a key that no log has gets no panel. rows_with: draw only the rows that have this
    key, "loss" for training, "val_loss" for evaluations.
    """
    logs = {label: read_log(Path(folder) / "log.jsonl") for label, folder in runs.items()}
    drawn = {key: name for key, name in panels.items() if any(key in row for rows in logs.values() for row in rows)}
    figure = new_figure(8, 1 + 2.4 * len(drawn))
    if figure is None:
        return None
    all_axes = figure.subplots(max(len(drawn), 1), sharex=True, squeeze=False)[:, 0]
    for axes, (key, name) in zip(all_axes, drawn.items()):
        for (label, rows), (line, color) in zip(logs.items(), STYLES):
            _curve(axes, [row for row in rows if rows_with in row], key, linestyle=line, color=color, label=label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    all_axes[0].set_title(title, loc="left")
    all_axes[-1].set_xlabel("step of the optimizer")
    if any(runs):
        all_axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    return Path(path)


def new_figure(width: float, height: float) -> Any:
    """An empty picture of this size in inches, or None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def _draw_shares(axes: Any, rows: list[dict[str, Any]], keys: Sequence[str]) -> None:
    for key, line, marker in zip(keys, ("-", "--", ":"), "os^"):
        label = key.replace("_", " ")
        measured = [row for row in rows if "val_loss" in row]
        _curve(axes, measured, key, color="black", linestyle=line, marker=marker, markersize=4, label=label)
    axes.set(xlabel="step", ylabel="share, held-out data", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _curve(axes: Any, rows: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _spread(heights: list[float], least: float) -> list[float]:
    """Heights moved apart, so that labels at them do not overlap; the highest stays.

    >>> _spread([7.0, 6.9, 4.0], least=0.5)
    [7.0, 6.5, 4.0]
    """
    moved: dict[float, float] = {}
    ceiling = math.inf
    for height in sorted(heights, reverse=True):
        moved[height] = min(height, ceiling)
        ceiling = moved[height] - least
    return [moved[height] for height in heights]
