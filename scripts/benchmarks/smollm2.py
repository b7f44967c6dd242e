"""SmolLM2 writing a text, from floats and from its file's 4 and 8 bits, beside transformers (floats) and llama.cpp."""

from __future__ import annotations

import tempfile
from typing import Any

from gpt import accounting
from gpt.training.loading import load_model
from scripts.benchmarks.sides import compare, installed, opponent

NAMES = ["smollm2"]
PROMPT, NEW_TOKENS = 32, 64


def measure(name: str, steps: int) -> dict[str, Any]:
    """Tokens per second and resident bytes by side, and both over transformers'. Greedy, one sequence, float32."""
    with tempfile.TemporaryDirectory() as folder:
        model: Any
        model, tokenizer = load_model("smollm2")
        config = model.config
        if opponent():
            model.save_pretrained(folder, tokenizer)
        del model
        names = ["float32", "packed", *opponent(), *(["llama.cpp"] if installed("llama_cpp") else [])]
        sides = compare(names, "smollm2", (folder, PROMPT, NEW_TOKENS), steps, warmup=1)
    for figures in sides.values():
        figures["tokens_per_second"] = NEW_TOKENS / figures["seconds"]
        if theirs := sides.get("torch"):
            figures["speed_against_transformers"] = theirs["seconds"] / figures["seconds"]
            figures["memory_against_transformers"] = figures["resident_bytes"] / theirs["resident_bytes"]
    bound = accounting.generation_bound(config, sides["float32"]["read_bytes_per_second"])
    share = sides["float32"]["tokens_per_second"] / bound
    return {"sides": sides, "bandwidth_bound_tokens_per_second": bound, "share_of_bound": share}


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    out = []
    for side, figures in row["sides"].items():
        line = f"{side:<9} {figures['tokens_per_second']:6.1f} tokens/s | resident memory "
        line += f"{figures['resident_bytes'] / 2**20:5.0f} MiB (at most {figures['peak_bytes'] / 2**20:5.0f})"
        if side != "torch" and "speed_against_transformers" in figures:
            line += f" | {figures['speed_against_transformers']:.2f}x transformers' speed, "
            line += f"{figures['memory_against_transformers']:.2f} of its memory"
        out.append(f"{line} | {figures['library']}")
    bound = row["bandwidth_bound_tokens_per_second"]
    return [*out, f"float32: {row['share_of_bound']:.0%} of the bandwidth bound of {bound:.0f} tokens/s"]
