"""Reward hacking, made visible: does what the reward model likes still get better where it is really better?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt.files import StrPath
from gpt.training.log import read_log

PANELS = {
    "objective/scores": "learned reward\n(reward model's score)",
    "courteous": "true quality\n(share right and courteous)",
    "objective/kl": "KL from the reference\n(nats per reply)",
}
STYLES = [("-", "black"), ("--", "0.45"), (":", "black"), ("-.", "0.45")]


def plot_reinforcement(runs: Mapping[str, StrPath], path: StrPath) -> Path | None:
    """Draw the logs of up to four runs, {label: folder}: a panel per quantity, a line per run. None without matplotlib.

    Where the reward model's score rises and the true quality falls, the policy has found out what the reward model
    overlooks: reward hacking, or Goodhart's law. Gao et al. 2023, "Scaling laws for reward model overoptimization",
    figure 1.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    logs = {label: read_log(Path(folder) / "log.jsonl") for label, folder in runs.items()}
    drawn = {key: name for key, name in PANELS.items() if any(key in row for rows in logs.values() for row in rows)}
    figure = Figure(figsize=(8, 1 + 2.4 * len(drawn)), layout="constrained")
    panels = figure.subplots(max(len(drawn), 1), sharex=True, squeeze=False)[:, 0]
    for axes, (key, name) in zip(panels, drawn.items()):
        for (label, rows), (line, color) in zip(logs.items(), STYLES):
            points = [(row["step"], row[key]) for row in rows if "loss" in row and row.get(key) is not None]
            axes.plot(*zip(*points), linestyle=line, color=color, label=label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    panels[0].set_title("Reinforcement from a reward model", loc="left")
    panels[-1].set_xlabel("step of the optimizer")
    if any(runs):
        panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    return Path(path)
