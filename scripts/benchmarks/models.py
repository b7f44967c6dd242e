"""Training, generation and loading of whole models beside PyTorch and transformers."""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from typing import Any

from gpt import GPT, GPTConfig, accounting
from minigrad import manual_seed
from minigrad.backend import usable_cores
from scripts.benchmarks.jobs import DEMO, model_config
from scripts.benchmarks.side import OPPONENTS, is_ours
from scripts.benchmarks.sides import compare, opponent

# name -> preset, and batch and time steps; or tokens of the prompt, new ones, and number of texts
TRAINING = {"demo": ("demo", DEMO.batch_size, DEMO.model["block_size"])}
TRAINING |= {"baby": ("baby", 12, 256), "gpt2 4x256": ("gpt2", 4, 256), "gpt2 1x1024": ("gpt2", 1, 1024)}
GENERATION = {"gpt2 generate": ("gpt2", 32, 128, 1), "gpt2 prefill": ("gpt2", 512, 0, 1)}
GENERATION |= {f"gpt2 generate {n} texts": ("gpt2", 32, 32, n) for n in (4, 16, 32)}
# The same training steps beside other opponents: name -> the row of TRAINING, and the opponent.
BESIDE = {"beside compilers": "torch.compile", "beside bfloat16": "torch bfloat16"}
TRAINING_BESIDE = {
    f"{step} {beside}": (step, side) for step in ("demo", "baby", "gpt2 4x256") for beside, side in BESIDE.items()
}
LOADING = "gpt2 load"
NAMES = [*TRAINING, *TRAINING_BESIDE, *GENERATION, LOADING]


def measure(name: str, steps: int) -> dict[str, Any]:
    """One comparison: each side's figures, ratios, and the bounds of the machine."""
    sides = ["fast", *opponent()]
    if name in TRAINING or name in TRAINING_BESIDE:
        step, other = TRAINING_BESIDE.get(name, (name, "torch"))
        sides = ["fast", *shared_sides(TRAINING[step][1]), *[other] * bool(opponent())]
        row = {"sides": (with_textbook if name in TRAINING else compare)(sides, "train", TRAINING[step], steps)}
        add_floor(row, *TRAINING[step])
    elif name in GENERATION:
        preset, _, new_tokens, texts = GENERATION[name]
        one = texts == 1  # the textbook's form and the bandwidth bound are about one text
        row = {"sides": (with_textbook if one else compare)(sides, "generate", GENERATION[name], steps)}
        if new_tokens:
            seconds = {side: figures["seconds"] for side, figures in row["sides"].items()}
            row["tokens_per_second"] = {side: texts * new_tokens / seconds[side] for side in seconds}
        if new_tokens and one:
            add_bound(row, GPTConfig.preset(preset))
    else:
        with tempfile.TemporaryDirectory() as folder:
            manual_seed(0)
            GPT(GPTConfig.preset("gpt2")).save_pretrained(folder)
            row = {"sides": compare(sides, "load", (folder,), steps, warmup=1)}
    add_ratios(row)
    return row


def shared_sides(batch: int) -> list[str]:
    """The sides on which two processes, and one for each core, share the batch, where that is possible."""
    numbers = sorted({2, usable_cores()}) if sys.platform.startswith("linux") else []
    return [f"{n} processes" for n in numbers if 1 < n <= usable_cores() and batch % n == 0]


def with_textbook(sides: list[str], kind: str, arguments: tuple[Any, ...], steps: int) -> dict[str, Any]:
    """The sides in turns, and the textbook's form by itself afterwards: one more model in memory slows the others."""
    return compare(sides, kind, arguments, steps) | compare(["textbook"], kind, arguments, min(steps, 3), warmup=1)


def add_floor(row: dict[str, Any], preset: str, batch: int, time: int) -> None:
    """The matmul floor: the step's matrix products at the measured rate. A token sees T/2 others on average."""
    flops = 3 * batch * time * accounting.token_flops(model_config(preset), time // 2)
    floor = row["matmul_floor_seconds"] = flops / row["sides"]["fast"]["product_flops"]
    row["step_over_floor"] = {side: row["sides"][side]["seconds"] / floor for side in filter(is_ours, row["sides"])}


def add_bound(row: dict[str, Any], config: GPTConfig) -> None:
    """The bandwidth bound: every token reads all weights."""
    bound = accounting.generation_bound(config, row["sides"]["fast"]["read_bytes_per_second"])
    row |= {"bandwidth_bound_tokens_per_second": bound, "share_of_bound": row["tokens_per_second"]["fast"] / bound}


def add_ratios(row: dict[str, Any]) -> None:
    """Our speed and memory over those of each opponent, and of several processes over those of threads.

    The speed is that in each pair of steps, least first.
    """
    sides = row["sides"]
    row["against"] = {}
    for one, other in itertools.product(filter(is_ours, sides), sides):
        if other != one and other in ("fast", *OPPONENTS):
            pairs = zip(sides[other]["all_seconds"], sides[one]["all_seconds"], strict=True)
            speeds = sorted(theirs / mine for theirs, mine in pairs)
            memory = sides[one]["peak_bytes"] / max(sides[other]["peak_bytes"], 1)
            ratios = {"speeds": speeds, "speed": statistics.median(speeds), "memory": memory}
            row["against"][f"{one} beside {other}"] = ratios


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    out = [
        f"{side:<14} {figures['seconds'] * 1000:9.1f} ms | peak memory {figures['peak_bytes'] / 2**20:6.0f} MiB | "
        f"products {figures['product_flops'] / 1e9:4.0f} GFLOP/s ({figures['library']})"
        for side, figures in row["sides"].items()
    ]
    for pair, ratios in row["against"].items():
        speeds = ratios["speeds"]
        spread = f"{speeds[0]:.2f} to {speeds[-1]:.2f} in {len(speeds)} pairs of steps"
        out.append(f"{pair}: {ratios['speed']:.2f}x the speed ({spread}), {ratios['memory']:.2f} of the peak memory")
    if "step_over_floor" in row:
        steps = ", ".join(f"{side} {share:.2f}" for side, share in row["step_over_floor"].items())
        out.append(f"{steps} of the matmul floor of {row['matmul_floor_seconds'] * 1000:.0f} ms")
    if "tokens_per_second" in row:
        out.append(", ".join(f"{side} {speed:.0f} tokens/s" for side, speed in row["tokens_per_second"].items()))
    if "share_of_bound" in row:
        bound = row["bandwidth_bound_tokens_per_second"]
        out.append(f"{row['share_of_bound']:.0%} of the bandwidth bound of {bound:.0f} tokens/s")
    return out
