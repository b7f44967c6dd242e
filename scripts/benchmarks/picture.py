"""All comparisons in one picture: our time over that of the library which it is compared with, whose time is 1."""

from pathlib import Path

from scripts.benchmarks.turns import OPPONENTS, Figures, is_ours


def draw(rows: Figures, path: str | Path) -> None:
    """A bar for each side, with least and most; the least favorable row comes first.

    A tick marks the floor where it is known: the time of the matrix products alone, or of reading the weights.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    compared = []  # the time of our fastest side over the opponent's, the row, and the opponent
    for name, row in rows.items():
        sides = row.get("sides", {})
        if opponents := [side for side in OPPONENTS if side in sides]:
            fastest = min(sides[side]["seconds"] for side in filter(is_ours, sides))
            compared.append((fastest / sides[opponents[0]]["seconds"], name, opponents[0]))
    if not compared:
        raise ValueError("there is nothing to draw: no measurement was compared with another library")
    figure, axes = plt.subplots(figsize=(9, 1 + 0.5 * len(compared)), layout="constrained")
    for _, name, opponent in sorted(compared, reverse=True):
        one = rows[name]["sides"][opponent]["seconds"]
        for side, figures in rows[name]["sides"].items():
            if side == opponent:
                continue
            label = f"{name.partition(' beside')[0]}, against {opponent}: {side}"
            times = [seconds / one for seconds in figures["all_seconds"]]
            middle = figures["seconds"] / one
            spread = [[middle - min(times)], [max(times) - middle]]
            color = "#1d4f91" if is_ours(side) else "#a9bfdc"
            (bar,) = axes.barh(label, middle, xerr=spread, color=color, ecolor="0.3", capsize=2)
            axes.annotate(f"{middle:.2f}", (max(times), label), (4, -3), textcoords="offset points", fontsize=8)
            if floor := rows[name].get("floor_seconds"):
                axes.vlines(floor / one, bar.get_y(), bar.get_y() + bar.get_height(), color="black", linewidth=2)
    axes.axvline(1, color="0.4", linewidth=1)
    axes.tick_params("y", labelsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    axes.set(xlabel="our time; 1 is theirs. Black tick: the matrix products, or reading the weights, alone")
    figure.savefig(path)
    plt.close(figure)
