"""The race that people know: nanoGPT's example for a CPU learns Shakespeare letter by letter. Who is there first?

nanoGPT's settings: 4 layers, 128 wide, texts of 64 letters, 12 in a batch, 2,000 steps of AdamW, whose rate rises for
100 steps to 0.001 and then falls along a cosine to a tenth. Its loss at the end is the goal. Our runs have the same
model, text, batches and schedule; two have fewer steps with twice the batch, Muon's with less momentum (lesson 455).

Each side takes the best of three learning rates with the first seed, and runs with three seeds. Runs follow each other,
each in a process of its own. The clock stands still while the loss on the held-out tenth of the text is measured.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig
from gpt.corpora.corpus import load_corpus
from gpt.training.batches import RandomBatches
from gpt.training.evaluation import held_out_loss
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step
from minigrad import manual_seed, use_kernels
from minigrad.optim import WarmupCosine, decay_groups
from scripts.benchmarks.turns import is_installed

LENGTH = 1_115_394  # letters of the text that nanoGPT downloads; of a longer file, the beginning
BLOCK = 64
EVALUATED = 16  # times in a run
SEEDS = 1, 2, 3
THEIRS = "torch"
ADAMW = 1e-3, 4e-3, 8e-3  # the first is nanoGPT's own
MUON = 1e-2, 2e-2, 4e-2
# For each side, the learning rates that it tries, and its settings.
SIDES: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    THEIRS: (ADAMW, {"max_iters": 2000}),
    "AdamW": (ADAMW, {"max_iters": 2000}),
    "AdamW, a short schedule": (ADAMW, {"max_iters": 272, "rows": 24}),
    "Muon": (MUON, {"max_iters": 2000, "optimizer": "muon"}),
    "Muon, a short schedule": (MUON, {"max_iters": 272, "rows": 24, "optimizer": "muon", "momentum": 0.85}),
}
LOOKS = "k-", "C0-", "C0--", "C1-", "C1--"  # of their curves
Curve = list[tuple[float, float]]  # seconds of training, and the loss then
text = "shakespeare"  # a corpus, or a file: benchmark.py sets it


def measure(steps: int) -> dict[str, Any]:
    """By side, its best rate, and a curve for each seed. steps: these runs have their own."""
    corpus = load_corpus(text)  # downloads it, if need be, before anything runs
    race: dict[str, Any] = {}
    for side, (rates, _) in SIDES.items():
        if side != THEIRS or is_installed(THEIRS):
            first = {rate: run(side, rate, SEEDS[0]) for rate in rates}
            rate = min(rates, key=lambda rate: end(first[rate]))
            race[side] = {"rate": rate, "tried": {rate: end(first[rate]) for rate in rates}, "curves": [first[rate]]}
    for seed in SEEDS[1:]:
        for side, found in race.items():
            found["curves"].append(run(side, found["rate"], seed))
    goal = next(iter(race.get(THEIRS, race["AdamW"])["tried"].values()))  # at nanoGPT's own rate
    return {"corpus": str(corpus), "goal": goal, "race": race}


def end(curve: Curve) -> float:
    """The loss at the end of a run."""
    return curve[-1][1]


def run(side: str, rate: float, seed: int) -> Curve:
    """A run in a process of its own."""
    source = os.path.abspath(text) if os.path.exists(text) else text
    command = [sys.executable, "-m", "scripts.benchmarks.race", side, str(rate), str(seed), source]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    curve: Curve = json.loads(done.stdout)
    seconds, loss = curve[-1]
    print(f"  {side}, rate {rate:g}, seed {seed}: {seconds:.0f} s, loss {loss:.3f}", flush=True)
    return curve


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print: where each side ends, and when it is as good as nanoGPT's at the end."""
    printed = [row["corpus"], f"the goal is a loss of {row['goal']:.3f}"]
    for side, found in row["race"].items():
        seconds, loss = np.median([curve[-1] for curve in found["curves"]], axis=0)
        reached = sorted(seconds_to(row["goal"], curve) for curve in found["curves"])
        when = f"after {np.median(reached):4.0f} s ({reached[0]:.0f} to {reached[-1]:.0f})"
        printed.append(
            f"{side:<24} rate {found['rate']:g} | loss {loss:.3f} after {seconds:4.0f} s"
            f" | at the goal {'never' if reached[0] == math.inf else when}"
        )
    return printed


def seconds_to(goal: float, curve: Curve) -> float:
    """When a curve reaches the goal, on straight lines between its points; infinity if it never does."""
    for (before, higher), (after, lower) in zip(curve, curve[1:]):
        if lower <= goal:
            return after - (after - before) * (goal - lower) / (higher - lower)
    return math.inf


def draw(row: dict[str, Any], path: str) -> None:
    """The loss over the seconds of training, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    draw_curves(axes, row)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def draw_curves(axes: Any, row: dict[str, Any]) -> None:
    """A color and kind of line for each side, a line for each seed; the goal is the dotted one."""
    for (side, found), look in zip(row["race"].items(), LOOKS):
        for i, curve in enumerate(found["curves"]):
            axes.plot(*zip(*curve), look, linewidth=1, label=("PyTorch" if side == THEIRS else side) * (i == 0))
    axes.axhline(row["goal"], color="black", linewidth=1, linestyle=":")
    axes.set(xlabel="seconds of training", ylabel="loss on the held-out text", ylim=(None, 3))
    axes.legend(frameon=False)


# --- one run ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Train as the arguments say, and print the curve."""
    global text
    side, rate, seed, text = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    runner = theirs if side == THEIRS else ours
    print(json.dumps(curve_of(runner, seed, learning_rate=rate, **SIDES[side][1])))


def curve_of(
    runner: Callable[..., Any], seed: int, max_iters: int, rows: int = 12, width: int = 128, **settings: Any
) -> Curve:
    """Train on the text, with the loss on its last tenth at 0 and at 16 steps. rows: of a batch."""
    letters = np.array(list(load_corpus(text).text[:LENGTH]))
    vocabulary, ids = np.unique(letters, return_inverse=True)
    cut = len(ids) * 9 // 10
    shape = GPTConfig(len(vocabulary), n_layer=4, n_head=4, n_embd=width, block_size=BLOCK)
    config = TrainingConfig(max_iters=max_iters, warmup_iters=max_iters // 20, beta2=0.99, **settings)
    step, loss = runner(shape, config, seed, RandomBatches(ids[:cut], rows, BLOCK, seed), ids[cut:])
    curve = [(0.0, round(loss(), 4))]
    seconds = 0.0
    for done in range(1, max_iters + 1):
        started = time.perf_counter()
        step()
        seconds += time.perf_counter() - started
        if done % (max_iters // EVALUATED) == 0:
            curve.append((round(seconds, 2), round(loss(), 4)))
    return curve


Runner = tuple[Callable[[], Any], Callable[[], float]]  # takes a step; the loss on the held-out text


def ours(
    config: GPTConfig, settings: TrainingConfig, seed: int, batches: RandomBatches, held_out: np.ndarray
) -> Runner:
    """Our model."""
    use_kernels("fast")
    manual_seed(seed)
    model = GPT(config)
    optimizer, schedule = prepare_training(model, settings)

    def step() -> None:
        training_step(model, [next(batches)], language_model_loss, optimizer, schedule, settings.grad_clip)

    return step, lambda: held_out_loss(model, held_out, 128, BLOCK)["val_loss"]


def theirs(
    config: GPTConfig, settings: TrainingConfig, seed: int, batches: RandomBatches, held_out: np.ndarray
) -> Runner:
    """The same in PyTorch, as nanoGPT writes it."""
    import torch

    from scripts.benchmarks import pytorch

    torch.manual_seed(seed)
    model = pytorch.TorchGPT(config)
    groups = decay_groups(model.named_parameters(), settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)
    schedule = WarmupCosine(optimizer, settings.warmup_iters, settings.max_iters)

    def step() -> None:
        ids, targets = map(torch.from_numpy, map(np.ascontiguousarray, next(batches)))
        loss = model.loss(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        loss.item()

    def loss() -> float:
        whole = (len(held_out) - 1) // BLOCK * BLOCK
        ids, targets = (torch.from_numpy(held_out[i : i + whole].reshape(-1, BLOCK)).split(128) for i in (0, 1))
        with torch.no_grad():
            losses = [float(model.loss(*part)) * len(part[0]) for part in zip(ids, targets, strict=True)]
        return sum(losses) * BLOCK / whole

    return step, loss


if __name__ == "__main__":
    main()
