"""What is timed, and against what: the rows of README.md, by the names that --only takes."""

import sys
from pathlib import Path
from typing import Any

from finetune.quantization import quantize
from finetune.quantization.folder import save_quantized
from gpt import GPT, GPTConfig, LlamaConfig, Tokenizer, accounting
from gpt.training.loading import load_model
from minigrad.backend import usable_cores
from scripts.benchmarks import race, tokenizing
from scripts.benchmarks.comparison import Comparison, Series
from scripts.benchmarks.ours import DEMO, TECHNIQUES, model_config
from scripts.benchmarks.turns import is_installed
from scripts.quantize import COMPARED

QUANTIZED = ("int8", "int4", "nf4")


def training(name: str, batch: int, length: int, opponent: str = "torch") -> Comparison:
    """Training steps in threads, and in processes that share the batch, beside an opponent."""
    # A token sees half of the others on average. Backward has two products for each of forward's.
    flops = 3 * batch * length * accounting.token_flops(model_config(name), length // 2)
    arguments = (name, batch, length)
    sides = (*shared_sides(batch), "fast", opponent)
    return Comparison("train", arguments, sides, textbook=opponent == "torch", flops=flops)


def shared_sides(batch: int) -> list[str]:
    """The sides on which two processes, and one for each core, share the batch, where that is possible."""
    if not sys.platform.startswith("linux"):
        return []
    cores = usable_cores()
    return [f"{n} processes" for n in sorted({2, cores}) if 1 < n <= cores and batch % n == 0]


def generation(prompt: int, new_tokens: int, texts: int = 1) -> Comparison:
    """GPT-2, with random weights, reads prompts and writes. The textbook and the bandwidth bound are about one text."""
    one = texts == 1
    read_bytes = new_tokens * weight_bytes(GPTConfig.preset("gpt2")) * one
    arguments = ("gpt2", prompt, new_tokens, texts)
    sides = ("fast", "torch")
    return Comparison("generate", arguments, sides, one, texts * new_tokens, read_bytes=read_bytes)


def weight_bytes(config: Any) -> int:
    """The bytes of the float32 weights that must be read for each token."""
    return accounting.weight_bytes(accounting.matrix_weights(config))


# --- what jobs read from a folder -------------------------------------------------------------------------------------


def save_gpt2(folder: Path) -> None:
    GPT(GPTConfig.preset("gpt2")).save_pretrained(folder)


def save_quantized_gpt2(folder: Path) -> None:
    """Random weights as float32 and with fewer bits, each in a folder that is named after the side."""
    tokenizer = Tokenizer.train("a tokenizer, as a folder needs one", 257)
    GPT(GPTConfig.preset("gpt2")).save_pretrained(folder / "float32", tokenizer)
    for side in QUANTIZED:
        model = GPT(GPTConfig.preset("gpt2"))
        quantize(model, COMPARED[side])
        save_quantized(folder / side, model, COMPARED[side], tokenizer)


def save_smollm2(folder: Path) -> None:
    """The weights as floats, in the folder that transformers reads."""
    model, tokenizer = load_model("smollm2")
    if is_installed("torch"):
        model.save_pretrained(folder, tokenizer)


# --- the rows ---------------------------------------------------------------------------------------------------------

DEMO_STEP = ("demo", DEMO.batch_size, DEMO.model["block_size"])
BABY_STEP = ("baby", 12, 256)
GPT2_STEP = ("gpt2", 4, 256)

ROWS: dict[str, Any] = {
    "demo": training(*DEMO_STEP),
    "baby": training(*BABY_STEP),
    "gpt2 4x256": training(*GPT2_STEP),
    "gpt2 1x1024": training("gpt2", 1, 1024),
    "demo beside compilers": training(*DEMO_STEP, "torch.compile"),
    "baby beside compilers": training(*BABY_STEP, "torch.compile"),
    "demo beside bfloat16": training(*DEMO_STEP, "torch bfloat16"),
    "baby beside bfloat16": training(*BABY_STEP, "torch bfloat16"),
    "gpt2 4x256 beside bfloat16": training(*GPT2_STEP, "torch bfloat16"),
    "gpt2 generate": generation(32, 128),
    "gpt2 prefill": generation(512, 0),
    "gpt2 generate 4 texts": generation(32, 32, 4),
    "gpt2 generate 16 texts": generation(32, 32, 16),
    "gpt2 generate 32 texts": generation(32, 32, 32),
    "gpt2 load": Comparison("load", (), ("fast", "torch"), warmup=1, prepare=save_gpt2),
    "quantized": Comparison(
        "quantized", (32, 64), (*QUANTIZED, "float32"), tokens=64, warmup=1, prepare=save_quantized_gpt2
    ),
    "smollm2": Comparison(
        "smollm2",
        (32, 64),
        ("packed", "float32", "llama.cpp", "torch"),
        tokens=64,
        read_bytes=64 * weight_bytes(LlamaConfig()),
        memory="resident",
        warmup=1,
        prepare=save_smollm2,
    ),
    "LoRA on SmolLM2 beside PEFT": Comparison("lora", (8, 128), ("fast", "PEFT"), warmup=1, prepare=save_smollm2),
    "attention": Series(
        "attention",
        [
            *((("fast", "torch", "textbook"), (length,)) for length in (256, 1024, 4096)),
            (("fast", "torch"), (8192,)),  # the textbook's form would need some 20 GB
        ],
    ),
    "tokenizer": tokenizing,
    "nanoGPT": race,
    "techniques": Series("train", [(("fast", other), GPT2_STEP) for other in ("textbook", *TECHNIQUES)]),
}
