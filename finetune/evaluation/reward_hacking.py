"""Reward hacking, made visible: does what the reward model likes still get better where it is really better?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt.files import StrPath
from gpt.training.plots import plot_runs

PANELS = {
    "objective/scores": "learned reward\n(reward model's score)",
    "courteous": "true quality\n(share right and courteous)",
    "objective/kl": "KL from the reference\n(nats per reply)",
}


def plot_reinforcement(runs: Mapping[str, StrPath], path: StrPath) -> Path | None:
    """Draw the logs of up to four runs, {label: folder}: a panel per quantity, a line per run. None without matplotlib.

    Where the reward model's score rises and the true quality falls, the policy has found out what the reward model
    overlooks: reward hacking, or Goodhart's law. Gao et al. 2023, "Scaling laws for reward model overoptimization",
    figure 1.
    """
    return plot_runs(runs, PANELS, "Reinforcement from a reward model", path)
