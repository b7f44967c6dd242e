"""All measurements in one picture: our time over that of the library which it is compared with, whose time is 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.benchmarks.side import OPPONENTS, is_ours

BLUE, LIGHT = "#1d4f91", "#a9bfdc"


def draw(rows: dict[str, Any], path: str | Path) -> None:
    """A bar for each of our sides and each further opponent, with least and most; the least favorable row comes first.

    A tick marks the floor where it is known: the time of the matrix products alone, or of reading the weights.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    compared = {name: row for name, row in rows.items() if _opponent(row)}
    if not compared:
        raise ValueError("there is nothing to draw: no measurement was compared with another library")
    by_time = sorted(compared, key=lambda name: -_ours(compared[name])["seconds"] / _theirs(compared[name]))
    figure, axes = plt.subplots(figsize=(9, 1 + 0.5 * len(compared)), layout="constrained")
    place = 0.0
    ticks = {}
    for name in by_time:
        row = compared[name]
        one = _theirs(compared[name])
        bars = {side: figures for side, figures in row["sides"].items() if side != _opponent(row)}
        ticks[place + 0.3 * (len(bars) - 1) / 2] = f"{name.partition(' beside')[0]}, against {_opponent(row)}"
        for side, figures in bars.items():
            times = [seconds / one for seconds in figures["all_seconds"]]
            middle = figures["seconds"] / one
            color = BLUE if is_ours(side) else LIGHT
            spread = [[middle - min(times)], [max(times) - middle]]
            axes.barh(place, middle, 0.28, xerr=spread, color=color, ecolor="0.3", capsize=2)
            axes.annotate(f"{side} {middle:.2f}", (max(times), place), (4, -3), textcoords="offset points", fontsize=8)
            place += 0.3
        if floor := _floor(row):
            axes.vlines(floor / one, place - 0.3 * len(bars) - 0.17, place - 0.13, color="black", linewidth=2)
        place += 0.25
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    axes.set(xlabel="our time; 1 is theirs. Black tick: the matrix products, or reading the weights, alone")
    figure.savefig(path)
    plt.close(figure)


def _opponent(row: dict[str, Any]) -> str | None:
    """The library that a measurement is compared with, or None."""
    return next((side for side in OPPONENTS if side in row.get("sides", {})), None)


def _theirs(row: dict[str, Any]) -> float:
    return float(row["sides"][_opponent(row)]["seconds"])


def _ours(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of the fastest of our sides."""
    return min((row["sides"][side] for side in filter(is_ours, row["sides"])), key=lambda figures: figures["seconds"])


def _floor(row: dict[str, Any]) -> float:
    """The seconds that the machine needs at least, or 0 where nobody knows."""
    return float(row.get("matmul_floor_seconds", _ours(row)["seconds"] * row.get("share_of_bound", 0)))
