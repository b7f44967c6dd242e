"""Quantize a trained model to 8 or 4 bits, save it in a new folder, and measure what that costs."""

import argparse
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

from start import command_line

import numpy as np

from finetune.quantization import QuantizationConfig, QuantizationReport, fitting, memory, quantize
from finetune.quantization.convert import CALIBRATED
from finetune.quantization.folder import save_quantized
from gpt import Tokenizer, get_batch
from gpt.console import quoted
from gpt.corpora.corpus import load_corpus
from gpt.training.batches import encode_parts, open_tokens, sequential_batches
from gpt.training.evaluation import mean_loss, perplexity
from gpt.training.loading import load_model
from gpt.training.run_folder import check_unused
from gpt.weights import hub
from scripts.shared.traced_memory import added_bytes, traced

EXAMPLES = """examples:
  python scripts/quantize.py                                             the demo's model in 8 bits
  python scripts/quantize.py --method gptq --out-dir runs/demo-gptq      in 4 bits, with GPTQ
  python scripts/quantize.py --method nf4 --double-quant --model gpt2 --out-dir runs/gpt2-nf4
  python scripts/quantize.py --compare --model smollm2 --sequences 16 --out-dir runs/smollm2-quantized    all methods
  python scripts/generate.py --model runs/demo-quantized                 generate text with the quantized model
"""
READ_CHARACTERS = 8_000_000  # at most, from the end of a text
LONGEST = 1024  # tokens per sequence, for models with a longer context
EVAL_TOKENS = 16_384  # of the held-out ones, at most: each method is measured twice
WRITTEN_TOKENS = 64  # generated to measure the speed
# The configurations of --compare, by name.
COMPARED = {
    "int8": QuantizationConfig("absmax"),
    "int4": QuantizationConfig("absmax", bits=4),
    "nf4": QuantizationConfig("nf4", double_quant=True),
    "gptq": QuantizationConfig("gptq"),
    "awq": QuantizationConfig("awq"),
}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    command_line.add_shared(parser, "model")
    bits, group_size = {"default": None, "type": int, "choices": (8, 4)}, {"default": None}
    command_line.add_settings(parser, QuantizationConfig, bits=bits, group_size=group_size)
    add("--float-embedding", dest="embedding", action="store_false", help="do not quantize the token embedding")
    text = "text to calibrate on, whose last tenth measures perplexity (a run's own tokens, or english)"
    add("--calibration", default=None, help=text)
    add("--sequences", type=number(1), default=128, help="number of calibration sequences for gptq and awq")
    text = f"quantize with {', '.join(COMPARED)}, each in a subfolder of --out-dir, and print one table"
    add("--compare", action="store_true", help=text)
    add("--out-dir", default="runs/demo-quantized", help="folder for the quantized model")
    command_line.add_shared(parser, "kernels", "seed")
    arguments = parser.parse_args(argv)
    command_line.set_up(arguments)
    tokens = Path(arguments.model, "data")  # of a run that learned from a text
    own_text = tokens.as_posix() if (tokens / "val.bin").exists() else "english"
    arguments.calibration = arguments.calibration or own_text
    if arguments.compare:
        own = ("method", "bits", "group_size", "zero_point", "desc_act", "double_quant", "embedding")
        parser.refuse(own, "does not go with --compare, which has settings of its own")
        return _compare(arguments)
    if arguments.method not in CALIBRATED:
        parser.refuse(["sequences"], f"is for {' and '.join(CALIBRATED)}, which read a text")
    config = command_line.build(QuantizationConfig, vars(arguments))
    after = _quantized(arguments, config, Path(arguments.out_dir), in_detail=True)
    _show(_measure_float(arguments), after, arguments.calibration)
    command = f"python scripts/generate.py --model {quoted(Path(arguments.out_dir))}"
    print(f"saved in {arguments.out_dir}; to generate text with it:\n  {command_line.from_here(command)}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Measure the float model and every configuration of COMPARED on the same text."""
    folders = {name: Path(arguments.out_dir) / name for name in COMPARED}
    for folder in folders.values():
        _check_unused(folder, arguments.model)
    rows = {"float32": _measure_float(arguments)}
    try:
        rows |= {name: _quantized(arguments, config, folders[name]) for name, config in COMPARED.items()}
    except BaseException:  # then the same command can be given again
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"\n{'perplexity':>24}{'on disk':>14}{'in memory':>14}{'tokens/s':>12}{'perplexity over float32':>27}")
    for name, row in rows.items():
        sizes = f"{_megabytes(row['size on disk']):>14}{_megabytes(row['weights in memory']):>14}"
        change = 100 * (row["perplexity"] / rows["float32"]["perplexity"] - 1)
        print(f"{name:<10}{row['perplexity']:>14,.2f}{sizes}{row['tokens/s']:>12.1f}{change:>+25.2f} %")
    print(
        f"\nperplexity per token, on at most {EVAL_TOKENS:,} held-out tokens of {arguments.calibration} (--calibration "
        f"chooses another text); the folders are in {arguments.out_dir}"
    )
    return 0


def _check_unused(folder: Path, model: str) -> None:
    if folder.resolve() == hub.find(model).resolve():
        raise FileExistsError(f"{folder} is the folder of --model, which stays as it is: choose another --out-dir")
    check_unused(folder, can_resume=False)


def _quantized(
    arguments: argparse.Namespace, config: QuantizationConfig, folder: Path, in_detail: bool = False
) -> dict[str, float]:
    """Load the float model, quantize it, save it in `folder`, and measure it.

    in_detail: print what became of each layer, and the memory that this took.
    """
    _check_unused(folder, arguments.model)
    with traced():
        model, tokenizer, to_read, to_test = _load(arguments)
        calibration, read = None, ""
        if config.method in CALIBRATED:
            length, rng = min(model.config.block_size, LONGEST), np.random.default_rng(arguments.seed)
            calibration, _ = get_batch(to_read, arguments.sequences, length, rng)
            read = f", reading {calibration.size:,} tokens of {arguments.calibration}"
        config = fitting(config, model) if arguments.group_size is None else config
        kind = f"{config.method}, {config.bits} bits, group size {config.group_size}"
        print(f"quantizing {model.num_parameters():,} weights with {kind}{read}", flush=True)
        started = time.perf_counter()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        report = quantize(model, config, calibration)
        took = f"took {time.perf_counter() - started:.1f} s"
        peak = tracemalloc.get_traced_memory()[1]
    save_quantized(folder, model, config, tokenizer)
    if in_detail:
        _show_layers(report)
        took += f" and at most {_megabytes(peak)} of memory, {_megabytes(peak - before)} more than before "
        took += f"(the float model has {_megabytes(report.bytes_before)})"
    print(took)
    return _measure(model, to_test, folder)


def _measure_float(arguments: argparse.Namespace) -> dict[str, float]:
    model, _, _, to_test = _load(arguments)
    return _measure(model, to_test, hub.find(arguments.model))


def _load(arguments: argparse.Namespace) -> tuple[Any, Tokenizer, np.ndarray, np.ndarray]:
    """The float model, its tokenizer, and the tokens to calibrate on and to test on."""
    model, tokenizer = load_model(arguments.model, trainable=True)
    text = arguments.calibration
    length = min(model.config.block_size, LONGEST)
    if Path(text).is_dir():  # the tokens of a run
        to_read, to_test = (open_tokens(Path(text) / f"{part}.bin") for part in ("train", "val"))
    else:
        to_read, to_test = encode_parts(load_corpus(text).text[-READ_CHARACTERS:], tokenizer).values()
    if len(to_read) < length + 1 or len(to_test) < 2:
        raise ValueError(f"{text} is too short for a model that reads {length} tokens at a time; give more text")
    return model, tokenizer, to_read, np.array(to_test[:EVAL_TOKENS], np.int64)


def _measure(model: Any, tokens: np.ndarray, place: Path) -> dict[str, float]:
    """A model's perplexity, its sizes in bytes, and its speed in tokens per second.

    place: its folder (of a run or of Hugging Face), or its GGUF file.
    """
    block_size = min(model.config.block_size, LONGEST)
    prompt = tokens[: max(1, min(block_size // 4, len(tokens)))]
    loss = mean_loss(model, sequential_batches(tokens, max(1, 2048 // block_size), block_size))
    model.generate(prompt, 2, temperature=0)
    started = time.perf_counter()
    model.generate(prompt, WRITTEN_TOKENS, temperature=0)
    seconds = time.perf_counter() - started
    working = added_bytes(lambda: model.generate(prompt, 8, temperature=0))
    files = [place] if place.is_file() else [*place.glob("model*.safetensors"), *place.glob("checkpoint-*/model.*")]
    return {
        "perplexity": perplexity(loss),
        "size on disk": sum(file.stat().st_size for file in files),
        "weights in memory": memory(model),
        "memory while generating": memory(model) + working,
        "tokens/s": WRITTEN_TOKENS / seconds,
    }


def _show(before: dict[str, float], after: dict[str, float], text: str) -> None:
    print(f"\n{'':<24}{'before':>12}{'after':>12}{'ratio':>9}")
    for name, old in before.items():
        as_text = _megabytes if name.startswith(("size", "weights", "memory")) else "{:,.2f}".format
        print(f"{name:<24}{as_text(old):>12}{as_text(after[name]):>12}{after[name] / old:>9.3f}")
    change = 100 * (after["perplexity"] / before["perplexity"] - 1)
    print(f"perplexity, on at most {EVAL_TOKENS:,} held-out tokens of {text} (see --calibration): {change:+.2f} %\n")


def _show_layers(report: QuantizationReport) -> None:
    """Print each layer's output error beside that of rounding to nearest, where it was measured."""
    measured = [layer for layer in report.layers if layer.error is not None and layer.nearest_error]
    if measured:
        print(f"\n{'layer':<32}{'error of its output':>20}{'rounded to nearest':>20}{'ratio':>8}")
    for layer in measured:
        error, nearest = float(layer.error or 0), float(layer.nearest_error or 0)
        print(f"{layer.name:<32}{error:>20.5f}{nearest:>20.5f}{error / nearest:>8.2f}")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


if __name__ == "__main__":
    command_line.run(main)
