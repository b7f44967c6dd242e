"""Training, generation and loading of whole models beside PyTorch and transformers."""

from __future__ import annotations

import tempfile
from typing import Any

from gpt import GPT, GPTConfig, accounting
from minigrad import manual_seed
from scripts.benchmarks.sides import compare, opponent

# name -> preset, and batch and time steps; or tokens of the prompt, and new ones
TRAINING = {"baby": ("baby", 12, 256), "gpt2 4x256": ("gpt2", 4, 256), "gpt2 1x1024": ("gpt2", 1, 1024)}
GENERATION = {"gpt2 generate": ("gpt2", 32, 128), "gpt2 prefill": ("gpt2", 512, 0)}
LOADING = "gpt2 load"
NAMES = [*TRAINING, *GENERATION, LOADING]


def measure(name: str, steps: int) -> dict[str, Any]:
    """One comparison: each side's figures, ratios, and the bounds of the machine."""
    sides = ["fast", *opponent()]
    if name in TRAINING:
        row = {"sides": with_textbook(sides, "train", TRAINING[name], steps)}
        add_floor(row, GPTConfig.preset(TRAINING[name][0]), *TRAINING[name][1:])
    elif name in GENERATION:
        row = {"sides": with_textbook(sides, "generate", GENERATION[name], steps)}
        if new_tokens := GENERATION[name][2]:
            add_bound(row, GPTConfig.preset(GENERATION[name][0]), new_tokens)
    else:
        with tempfile.TemporaryDirectory() as folder:
            manual_seed(0)
            GPT(GPTConfig.preset("gpt2")).save_pretrained(folder)
            row = {"sides": compare(sides, "load", (folder,), steps, warmup=1)}
    add_ratios(row)
    return row


def with_textbook(sides: list[str], kind: str, arguments: tuple[Any, ...], steps: int) -> dict[str, Any]:
    """The sides in turns, and the textbook's form by itself afterwards: a third model in memory slows the others."""
    return compare(sides, kind, arguments, steps) | compare(["textbook"], kind, arguments, min(steps, 3), warmup=1)


def add_floor(row: dict[str, Any], config: GPTConfig, batch: int, time: int) -> None:
    """The matmul floor: the step's matrix products at the measured rate. A token sees T/2 others on average."""
    flops = 3 * batch * time * accounting.token_flops(config, time // 2)
    fast = row["sides"]["fast"]
    row["matmul_floor_seconds"] = flops / fast["sgemm_flops"]
    row["step_over_floor"] = fast["seconds"] / row["matmul_floor_seconds"]


def add_bound(row: dict[str, Any], config: GPTConfig, new_tokens: int) -> None:
    """The bandwidth bound: every token reads all weights."""
    row["tokens_per_second"] = {side: new_tokens / figures["seconds"] for side, figures in row["sides"].items()}
    row["bandwidth_bound_tokens_per_second"] = accounting.generation_bound(
        config, row["sides"]["fast"]["read_bytes_per_second"]
    )
    row["share_of_bound"] = row["tokens_per_second"]["fast"] / row["bandwidth_bound_tokens_per_second"]


def add_ratios(row: dict[str, Any]) -> None:
    """Speed and memory over those of PyTorch, where it was measured."""
    sides = row["sides"]
    if "torch" in sides:
        row["speed_against_torch"] = sides["torch"]["seconds"] / sides["fast"]["seconds"]
        row["memory_against_torch"] = sides["fast"]["peak_bytes"] / max(sides["torch"]["peak_bytes"], 1)


def lines(row: dict[str, Any]) -> list[str]:
    """What to print."""
    out = []
    for side, figures in row["sides"].items():
        out.append(
            f"{side:<9} {figures['seconds'] * 1000:9.1f} ms | peak memory {figures['peak_bytes'] / 2**20:6.0f} MiB | "
            f"sgemm {figures['sgemm_flops'] / 1e9:4.0f} GFLOP/s"
        )
    if "speed_against_torch" in row:
        speed, memory = row["speed_against_torch"], row["memory_against_torch"]
        out.append(f"{speed:.2f}x the speed of PyTorch, {memory:.2f} of its peak memory")
    if "step_over_floor" in row:
        floor = row["matmul_floor_seconds"] * 1000
        out.append(f"{row['step_over_floor']:.2f} of the matmul floor of {floor:.0f} ms")
    if "share_of_bound" in row:
        speed, bound = row["tokens_per_second"]["fast"], row["bandwidth_bound_tokens_per_second"]
        out.append(f"{speed:.0f} tokens/s, {row['share_of_bound']:.0%} of the bandwidth bound of {bound:.0f}")
    return out
