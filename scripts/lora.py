"""Fine-tune a model with LoRA or QLoRA, or compare both with training all weights."""

import argparse
import json
from pathlib import Path
from typing import Any

from start import command_line

from finetune.built_in.tasks import TASKS
from finetune.stages.lora import train_lora
from finetune.stages.lora_data import is_conversations
from finetune.stages.lora_model import METHODS, LoRARunConfig
from finetune.stages.merging import merge_run
from gpt.console import quoted
from gpt.files import read_json, write_text
from gpt.training.checkpoint import has_checkpoint
from gpt.training.plots import plot_runs
from gpt.training.run import start_or_resume
from gpt.training.run_state import settings_of
from scripts.shared import stage_options
from scripts.shared.method_comparison import EXPLANATION, as_table, check_same, measured

EXAMPLES = """examples:
  python scripts/lora.py                                            the demo's model learns Python code with LoRA
  python scripts/lora.py --method qlora --data mybook.txt --out-dir runs/book     your text, with 4-bit base weights
  python scripts/lora.py --init-from runs/sft --data chats.jsonl --out-dir runs/chats      conversations
  python scripts/lora.py --init-from smollm2 --data tasks --method qlora --out-dir runs/smollm2-qlora
  python scripts/lora.py --init-from resume --out-dir runs/chats    resume the run
  python scripts/lora.py --merge runs/chats --out-dir runs/chats-merged     merge the adapters into the base model
  python scripts/lora.py --compare --out-dir runs/methods           full, lora and qlora on the same data, in one table
"""
LET_IT_WRITE = "to generate text with it:\n  python scripts/generate.py --model {folder}"
ADAPTERS = ("r", "alpha", "dropout", "target_modules", "slices", "use_rslora")  # options of adapters alone
ROW = "measured.json"  # with --compare, in the folder of each method's run
LEARNING_RATES = {"full": 1e-3, "lora": 1e-2, "qlora": 1e-2}  # adapters start at zero and tolerate larger steps


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    rate = "peak learning rate (" + ", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items()) + ")"
    fixed = ("optimizer", "checkpoint_activations")
    changes: dict[str, Any] = {"learning_rate": {"default": None, "help": rate}}
    changes["max_iters"] = stage_options.length_of(LoRARunConfig)
    stage_options.add_stage(parser, LoRARunConfig, without=fixed, processes=False, **changes)
    add = parser.add_argument
    add("--compare", action="store_true", help="run all three methods, in subfolders of --out-dir; print a table")
    add("--merge", default=None, metavar="RUN", help="write that run's model, adapters merged, into --out-dir")
    arguments = parser.parse_args(argv)
    if arguments.merge is not None:
        parser.refuse(parser.given.keys() - {"merge", "out_dir", "kernels"}, "does not go with --merge")
        command_line.set_up(arguments)
        merge_run(arguments.merge, arguments.out_dir)
        data = settings_of(LoRARunConfig, arguments.merge).data
        print("merged; " + command_line.from_here(advice_for(data)).format(folder=quoted(Path(arguments.out_dir))))
        return 0
    if is_conversations(arguments.data):
        parser.refuse(["sample_interval"], "is for texts: conversations show replies at the end")
    if arguments.compare:
        parser.refuse(["method", "will_it_fit"], "does not go with --compare, which runs all methods")
        if arguments.init_from == "resume":
            parser.error("--compare continues by itself: give the options that it was started with")
        return _compare(arguments, command_line.set_up(arguments))
    of_run = arguments if arguments.init_from != "resume" else settings_of(LoRARunConfig, arguments.out_dir)
    if of_run.method == "full":
        parser.refuse(ADAPTERS, "sets up adapters, which --method full does not have")
    return stage_options.run(parser, arguments, train_lora, LoRARunConfig, "lora", advice_for(of_run.data), _config)


def advice_for(data: str) -> str:
    """What to do with a model that has learned from these data."""
    return stage_options.TALK_TO_IT if is_conversations(data) else LET_IT_WRITE


def _config(arguments: argparse.Namespace, **changes: Any) -> LoRARunConfig:
    """The settings of a new run, with the learning rate of its method and the length for its data, unless given."""
    options = vars(arguments) | changes
    from_file = is_conversations(arguments.data) and arguments.data != TASKS
    options = stage_options.with_length(options, LoRARunConfig, from_file)
    if options["learning_rate"] is None:
        options["learning_rate"] = LEARNING_RATES[options["method"]]
    return command_line.build(LoRARunConfig, options)


def _compare(arguments: argparse.Namespace, device: str) -> int:
    """Run each method in a folder of its own, and print what each has reached and what it costs."""
    out_dir = Path(arguments.out_dir)
    folders = {method: out_dir / method for method in METHODS}
    rows = []
    for method, folder in folders.items():
        config = _config(arguments, method=method, out_dir=folder.as_posix())
        print(f"\n=== {method}, in {config.out_dir}")
        is_begun = has_checkpoint(folder)
        if is_begun:
            check_same(config)
        if is_begun and (folder / ROW).exists():
            print("finished already")
        else:
            run = start_or_resume(train_lora, config, device)
            if run.asked_to_stop:
                print("\ninterrupted; the same command continues it")
                return 128 + run.asked_to_stop
            write_text(folder / ROW, json.dumps(measured(run), indent=1))
        rows.append(read_json(folder / ROW))
    print(f"\n{as_table(rows)}\n\n{EXPLANATION}\n")
    title = "Fine-tuning: all weights, adapters, adapters beside 4 bits"
    losses = {"val_loss": "validation loss (nats per token)"}
    picture = plot_runs(folders, losses, title, out_dir / "comparison.png", rows_with="val_loss")
    print(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")
    return 0


if __name__ == "__main__":
    command_line.run(main)
