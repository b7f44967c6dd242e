"""Generation from weights in 8 and 4 bits beside float32: speed, and memory of a process that only generates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from finetune.quantization import quantize
from finetune.quantization.folder import save_quantized
from gpt import GPT, GPTConfig, Tokenizer
from minigrad import manual_seed
from scripts.benchmarks.sides import compare
from scripts.quantize import COMPARED

NAMES = ["quantized"]
PROMPT, NEW_TOKENS = 32, 64
CONFIGS = {name: COMPARED[name] for name in ("int8", "int4", "nf4")}


def measure(name: str, steps: int) -> dict[str, Any]:
    """Seconds and peak bytes by numbers, and both over float32's; gpt2's shape, random weights."""
    with tempfile.TemporaryDirectory() as root:
        tokenizer = Tokenizer.train("a tokenizer, as a folder needs one", 257)
        for side in ("float32", *CONFIGS):
            manual_seed(0)
            model = GPT(GPTConfig.preset("gpt2"))
            if side == "float32":
                model.save_pretrained(Path(root, side), tokenizer)
            else:
                quantize(model, CONFIGS[side])
                save_quantized(Path(root, side), model, CONFIGS[side], tokenizer)
        sides = compare(["float32", *CONFIGS], "quantized", (root, PROMPT, NEW_TOKENS), min(steps, 4), warmup=1)
    base = sides["float32"]
    for figures in sides.values():
        figures["tokens_per_second"] = NEW_TOKENS / figures["seconds"]
        figures["speed_against_float32"] = base["seconds"] / figures["seconds"]
        figures["memory_against_float32"] = figures["peak_bytes"] / base["peak_bytes"]
    return {"sides": sides}


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    return [
        f"{side:<8} {figures['tokens_per_second']:6.1f} tokens/s, {figures['speed_against_float32']:.2f}x float32 | "
        f"peak memory {figures['peak_bytes'] / 2**20:5.0f} MiB, {figures['memory_against_float32']:.2f} of float32's"
        for side, figures in row["sides"].items()
    ]
