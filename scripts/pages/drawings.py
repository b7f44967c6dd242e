"""Drawings of the course that are not curves, each from numbers that the lesson has computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt import GPT
from gpt.interpretability.activations import hooked
from scripts.pages.pictures import BLUE, ORANGE, blues


def generation_loop(axes: Any, steps: Sequence[tuple[str, dict[str, float], str]], shown: int = 4) -> None:
    """The autoregressive loop. A row for each step: the text so far, the most likely next tokens, the one drawn."""
    for row, (text, probabilities, drawn) in enumerate(steps):
        axes.text(0, row, repr(text), va="center", family="monospace")
        axes.annotate("", (3.2, row), (2.5, row), arrowprops={"arrowstyle": "->"})
        best = sorted(probabilities, key=lambda token: -probabilities[token])[:shown]
        for place, token in enumerate(best if drawn in best else [*best[:-1], drawn]):
            x, is_drawn = 3.4 + 1.5 * place, token == drawn
            axes.barh(row, 1.4 * probabilities[token], left=x, height=0.7, color=BLUE, alpha=0.65 if is_drawn else 0.25)
            label = f"{token!r} {probabilities[token]:.0%}"
            axes.text(x + 0.05, row, label, va="center", weight="bold" if is_drawn else "normal", fontsize=9)
    axes.text(0, -0.8, "text so far")
    axes.text(3.4, -0.8, "the model's probabilities; bold: the token that was drawn, and appended")
    axes.set(xlim=(-0.1, 3.4 + 1.5 * shown), ylim=(len(steps) - 0.4, -1.2))
    axes.axis("off")


def tokens_computed(model: GPT, prompt: list[int], new: int, use_cache: bool) -> list[int]:
    """How many tokens' queries, keys and values the first block computes at each step of generation."""
    counts: list[int] = []
    count = {"transformer.h.0.attn.c_attn": lambda module, given, output: counts.append(output.shape[1])}
    with hooked(model, count):
        model.generate([prompt], new, temperature=0, use_cache=use_cache)
    return counts


def cache_filling(axes: Any, computed: Sequence[int], prompt: int, title: str) -> None:
    """A row for each step of generation, a square for each token: strong, computed now; light, taken from the cache."""
    for step, count in enumerate(computed):
        known = prompt + step
        grid = np.full((1, prompt + len(computed) - 1), np.nan)
        grid[0, :known] = 0.25
        grid[0, known - count : known] = 0.8
        place = (-0.5, grid.shape[1] - 0.5, step + 0.45, step - 0.45)
        axes.imshow(grid, cmap=blues(), vmin=0, vmax=1, extent=place, aspect="auto", interpolation="nearest")
    axes.set(xlim=(-0.5, prompt + len(computed) - 1.5), ylim=(len(computed) - 0.5, -0.5))
    axes.set(xlabel="token", ylabel="step", title=f"{title}: {sum(computed)} computed")


def quantization_grid(axes: Any, rows: dict[str, tuple[np.ndarray, np.ndarray, float]]) -> None:
    """Where rounding to 4 bits, a grid of 15 levels, moves weights. rows: name -> (weights, after rounding, step)."""
    limit = 1.15 * max(np.abs(weights).max() for weights, _, _ in rows.values())
    for row, (name, (weights, after, step)) in enumerate(rows.items()):
        y = -2.2 * row
        axes.vlines(np.arange(-7, 8) * step, y - 0.25, y + 0.05, color="0.75", linewidth=0.8)
        axes.plot(weights, np.full(weights.size, y + 1), "o", color=BLUE, markersize=4)
        axes.plot(after, np.full(after.size, y), "s", color=ORANGE, markersize=4)
        axes.plot(np.stack([weights, after]), np.stack([np.full(weights.size, y + 1.0), np.full(after.size, y)]),
                  color="0.6", linewidth=0.6)  # fmt: skip
        axes.text(-limit, y + 1.25, f"{name}: steps of {step:.3f}, {len(np.unique(after))} of 15 levels used")
    axes.set(xlim=(-1.05 * limit, 1.05 * limit), ylim=(0.8 - 2.2 * len(rows) + 0.9, 1.8), yticks=[], xlabel="weight")


def rank_error(axes: Any, changes: Sequence[np.ndarray], size: int) -> None:
    """How well a matrix of each rank can be the change of full fine-tuning. changes: squared singular values (n)."""
    noise = np.linalg.svd(np.random.default_rng(0).standard_normal((size, size)), compute_uv=False) ** 2
    ranks = range(1, size + 1)
    for spectra, line, name in ((changes, "-", "change of full fine-tuning"), ([noise], ":", "random numbers")):
        errors = np.mean([np.sqrt(np.maximum(1 - s[:size].cumsum() / s.sum(), 0)) for s in spectra], axis=0)
        axes.plot(ranks, 100 * errors, line, label=name)
    axes.set(xlabel="rank", ylabel="best possible error (%)", xscale="log", ylim=(0, 105))
    axes.set_xticks([1, 2, 4, 8, 16, 32, size], ["1", "2", "4", "8", "16", "32", str(size)])
    axes.minorticks_off()
