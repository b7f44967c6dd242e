"""All measurements in one picture: each side's time over the best that the machine could do, or over PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.benchmarks.side import OPPONENTS

SHADES = {"fast": "0.15", "float32": "0.15", **dict.fromkeys(OPPONENTS, "0.8")}  # our other sides are between


def draw(rows: dict[str, Any], path: str | Path) -> None:
    """Bars of seconds over the floor of matrix products or the bandwidth bound; without either, over PyTorch's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    compared = {name: row for name, row in rows.items() if "sides" in row}
    if not compared:
        raise ValueError("there is nothing to draw: measurements of attention, tokenizers and techniques have no bars")
    figure, axes = plt.subplots(figsize=(9, 1 + 0.8 * len(compared)), layout="constrained")
    place, ticks = 0.0, {}
    for name, row in compared.items():
        best, what = _best(row)
        ticks[place + 0.3 * (len(row["sides"]) - 1) / 2] = f"{name}\n(1 = {what})"
        for side, figures in row["sides"].items():
            times = [seconds / best for seconds in figures["all_seconds"]]
            middle = figures["seconds"] / best
            spread = [[middle - min(times)], [max(times) - middle]]
            axes.barh(place, middle, 0.28, xerr=spread, color=SHADES.get(side, "0.55"), ecolor="0.3", capsize=2)
            axes.annotate(f"{side} {middle:.2f}", (max(times), place), (4, -3), textcoords="offset points", fontsize=8)
            place += 0.3
        place += 0.4
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * axes.get_xlim()[1])
    axes.set(xlabel="time (shorter is better), with the least and the most of all steps")
    figure.savefig(path)
    plt.close(figure)


def _best(row: dict[str, Any]) -> tuple[float, str]:
    """The seconds that count as 1, and what they are."""
    sides = row["sides"]
    ours = next(side for side in ("fast", "float32") if side in sides)
    if "matmul_floor_seconds" in row:
        return row["matmul_floor_seconds"], "the matrix products alone"
    if "share_of_bound" in row:
        return sides[ours]["seconds"] * row["share_of_bound"], "reading float32 weights"
    theirs = next((side for side in OPPONENTS if side in sides), ours)
    return sides[theirs]["seconds"], theirs
