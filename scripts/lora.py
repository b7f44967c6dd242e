"""Fine-tune a model with LoRA or QLoRA, and compare them with training all weights."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from finetune.adapters.lora import LoRAConfig
from finetune.stages.adaptation import METHODS, AdaptationConfig, adapt, merge_run, resume, run_config
from finetune.stages.method_comparison import EXPLANATION, as_table, compare, plot_comparison
from gpt.training.checkpoint import load_state
from gpt.training.trainer import TrainingConfig
from scripts.shared import command_line

EXAMPLES = """examples:
  python scripts/lora.py                                            the demo's model learns Python, with LoRA
  python scripts/lora.py --method qlora --data mybook.txt --out-dir runs/book     on your text, beside 4-bit weights
  python scripts/lora.py --init-from runs/sft --data chats.jsonl --out-dir runs/chats      on conversations
  python scripts/lora.py --init-from smollm2 --data tasks --method qlora --out-dir runs/smollm2-qlora
  python scripts/lora.py --init-from resume --out-dir runs/chats    go on where it stopped
  python scripts/lora.py --merge runs/chats --out-dir runs/chats-merged     a model like any other, adapters included
  python scripts/lora.py --compare --out-dir runs/methods           full, lora and qlora on the same data, in one table
"""
LEARNING_RATES = {"full": 1e-3, "lora": 1e-2, "qlora": 1e-2}  # adapters start at zero and can take larger steps


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    text = "the model to start from: a run, a folder, or a name (gpt2); resume: go on with the run in --out-dir"
    add("--init-from", default="runs/demo", metavar="resume|MODEL", help=text)
    text = "english, python (code), a text file, a .jsonl or .json file of conversations, or tasks (built-in questions)"
    add("--data", default="python", help=text)
    add("--out-dir", default="runs/lora", help="the run's folder: adapters, log, picture; no copy of the base model")
    add(
        "--method",
        choices=METHODS,
        default="lora",
        help="full trains all weights; qlora: adapters beside 4-bit weights",
    )
    text = "keep the 4 and 8 bits of a GGUF file, as smollm2 is, and put adapters beside them"
    add("--packed", action="store_true", help=text)
    add("--compare", action="store_true", help="all three methods, each in its own folder in --out-dir, and a table")
    add("--merge", default=None, metavar="RUN", help="write that run's model with its adapters merged into --out-dir")
    add("--r", type=number(1), default=8, help="the rank of the adapters")
    add("--alpha", type=float, default=16, help="adapters are scaled by alpha / r")
    add("--lora-dropout", type=float, default=0.0, help="probability, on what enters an adapter")
    add("--target-modules", nargs="+", default=["all-linear"], metavar="NAME", help="layers to adapt, or all-linear")
    add("--slices", nargs="+", default=[], choices=["q", "k", "v"], help="of c_attn only these, as in the paper: q v")
    add("--use-rslora", action="store_true", help="scale by alpha / sqrt(r)")
    add("--batch-size", type=number(1), default=12, help="sequences per batch")
    add("--max-iters", type=number(1), default=300, help="steps")
    text = "at its peak (" + ", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items()) + ")"
    add("--learning-rate", type=float, default=None, help=text)
    add("--warmup-iters", type=number(0), default=20, help="steps to reach the peak")
    add("--weight-decay", type=float, default=0.0, help="per unit of learning rate, of the matrices")
    add("--eval-interval", type=number(0), default=50, help="steps between validations, each with a checkpoint")
    add("--sample-interval", type=number(0), default=0, help="steps between samples; 0: none")
    add("--log-interval", type=number(1), default=10, help="steps between lines")
    command_line.add_kernels(parser)
    command_line.add_device(parser)
    command_line.add_seed(parser)
    arguments = parser.parse_args(argv)
    given = command_line.given(parser, argv)
    device = command_line.set_up(arguments)
    if arguments.merge is not None:
        return _merge(arguments.merge, arguments.out_dir)
    if arguments.init_from == "resume":
        run = run_config(load_state(arguments.out_dir), arguments.out_dir)
        del given["init_from"]
        command_line.refuse_contradictions(given, _options(run), arguments.out_dir)
        trainer = resume(arguments.out_dir, device)
    elif arguments.compare:
        return _compare(vars(arguments), device)
    else:
        trainer = adapt(_config(vars(arguments), arguments.method, arguments.out_dir), device)
    return 130 if trainer.interrupted else 0


def _config(options: dict[str, Any], method: str, out_dir: str) -> AdaptationConfig:
    """The options as settings."""
    rate = LEARNING_RATES[method] if options["learning_rate"] is None else options["learning_rate"]
    names = [field.name for field in dataclasses.fields(TrainingConfig) if field.name in options]
    training = TrainingConfig(**{**{name: options[name] for name in names}, "learning_rate": rate})
    targets = options["target_modules"]
    lora = LoRAConfig(
        r=options["r"],
        alpha=options["alpha"],
        dropout=options["lora_dropout"],
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        slices=options["slices"],
        use_rslora=options["use_rslora"],
    )
    run = {name: options[name] for name in ("init_from", "packed", "data", "batch_size", "seed")}
    return AdaptationConfig(**run, out_dir=out_dir, method=method, lora=lora, training=training)


def _options(config: AdaptationConfig) -> dict[str, Any]:
    """The settings as options, the reverse of `_config`."""
    lora, training = config.lora.to_dict(), dataclasses.asdict(config.training)
    if isinstance(lora["target_modules"], str):
        lora["target_modules"] = [lora["target_modules"]]
    return {**training, **lora, "lora_dropout": lora["dropout"], **vars(config)}


def _compare(options: dict[str, Any], device: str) -> int:
    folder = Path(options["out_dir"])
    configs = [_config(options, method, (folder / method).as_posix()) for method in METHODS]
    rows = compare(configs, device)
    if rows is None:
        return 130
    print(f"\n{as_table(rows)}\n\n{EXPLANATION}\n")
    picture = plot_comparison(configs, folder / "comparison.png")
    print(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")
    return 0


def _merge(run: str, out_dir: str) -> int:
    note = merge_run(run, out_dir)
    if note:
        print(f"note: {note}")
    print(f"merged; to let it write:\n  python scripts/generate.py --model {shlex.quote(Path(out_dir).as_posix())}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
