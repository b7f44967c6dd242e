"""Fine-tune a model with LoRA or QLoRA, and compare them with training all weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from finetune.stages.adaptation import METHODS, Adaptation, AdaptationConfig, merge_run
from finetune.stages.method_comparison import EXPLANATION, as_table, compare, plot_comparison
from finetune.stages.stage import settings_of
from scripts.shared import command_line, stage_options

EXAMPLES = """examples:
  python scripts/lora.py                                            the demo's model learns Python, with LoRA
  python scripts/lora.py --method qlora --data mybook.txt --out-dir runs/book     on your text, beside 4-bit weights
  python scripts/lora.py --init-from runs/sft --data chats.jsonl --out-dir runs/chats      on conversations
  python scripts/lora.py --init-from smollm2 --data tasks --method qlora --out-dir runs/smollm2-qlora
  python scripts/lora.py --init-from resume --out-dir runs/chats    go on where it stopped
  python scripts/lora.py --merge runs/chats --out-dir runs/chats-merged     a model like any other, adapters included
  python scripts/lora.py --compare --out-dir runs/methods           full, lora and qlora on the same data, in one table
"""
LET_IT_WRITE = "to let it write:\n  python scripts/generate.py --model {folder}"
MERGE_IT = "to merge it into the model:\n  python scripts/lora.py --merge {folder} --out-dir {folder}-merged"
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
    text = "probability, on what enters an adapter"
    add("--lora-dropout", dest="dropout", type=float, default=0.0, help=text)
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
    if arguments.merge is not None:
        command_line.set_up(arguments)
        return _merge(arguments.merge, arguments.out_dir)
    if arguments.compare and arguments.init_from != "resume":
        return _compare(vars(arguments), command_line.set_up(arguments))
    method = arguments.method
    if arguments.init_from == "resume":
        method = settings_of(Adaptation, arguments.out_dir).method
    advice = LET_IT_WRITE if method == "full" else MERGE_IT
    return stage_options.run(parser, argv, Adaptation, "lora", advice, _as_settings)


def _as_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options as `AdaptationConfig` and `LoRAConfig` take them, with the learning rate that suits the method."""
    settings = dict(options)
    settings |= {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    if settings.get("learning_rate", 0) is None:
        settings["learning_rate"] = LEARNING_RATES[settings["method"]]
    if settings.get("target_modules") == ("all-linear",):
        settings["target_modules"] = "all-linear"
    return settings


def _compare(options: dict[str, Any], device: str) -> int:
    folder = Path(options["out_dir"])
    configs = []
    for method in METHODS:
        here = {"method": method, "out_dir": (folder / method).as_posix()}
        configs.append(stage_options.build(AdaptationConfig, _as_settings({**options, **here})))
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
    print("merged; " + LET_IT_WRITE.format(folder=shlex.quote(Path(out_dir).as_posix())))
    return 0


if __name__ == "__main__":
    command_line.run(main)
