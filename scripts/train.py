"""Train a GPT or a Llama on a text, or continue training a model."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from scripts.shared import command_line, stage_options
from scripts.shared.next_steps import LET_IT_WRITE, show_next_steps
from scripts.shared.trial import try_run

import finetune  # noqa: F401  (--init-from then also takes what was fine-tuned)
from gpt.training.data_parallel import Team
from gpt.training.pretraining import PretrainingConfig, pretrain, train_language_model
from gpt.training.run import Run, resume
from gpt.training.run_folder import settings_of
from gpt.training.training_config import OPTIMIZERS, PRECISIONS

EXAMPLES = """examples:
  python scripts/train.py                                          a small model on the built-in English
  python scripts/train.py --data mybook.txt --out-dir runs/book    your own text
  python scripts/train.py --architecture llama --out-dir runs/llama                     a Llama instead of a GPT-2
  python scripts/train.py --init-from resume --out-dir runs/book   resume the run, with its own settings
  python scripts/train.py --init-from resume --out-dir runs/book --max-iters 2000       train it longer than planned
  python scripts/train.py --init-from runs/book --data more.txt --out-dir runs/more     a trained model on another text
  mpiexec -n 2 python scripts/train.py --data-parallel             two processes that share each batch
"""
SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "dropout")


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    add("--data", default="english", help="stories, english, python (code), shakespeare (a download), or a UTF-8 file")
    add("--out-dir", default="runs/train", help="the run's folder, for checkpoint, tokenizer, log and picture")
    text = f"scratch: random weights; resume: continue the run in --out-dir; MODEL: {command_line.SOURCES}"
    add("--init-from", default="scratch", metavar="scratch|resume|MODEL", help=text)
    add("--vocab-size", type=number(257), default=1024, help="tokens to learn; 257: single bytes; 50257: GPT-2's own")
    add("--architecture", choices=["gpt", "llama"], default="gpt", help="of a new model: GPT-2's, or Llama's")
    add("--n-layer", type=number(1), default=4, help="number of blocks")
    add("--n-head", type=number(1), default=4, help="number of attention heads")
    add("--n-kv-head", type=number(1), default=None, help="a Llama's heads of keys and values; without it, --n-head")
    add("--n-embd", type=number(1), default=128, help="width: numbers per token")
    add("--block-size", type=number(1), default=64, help="context length in tokens")
    add("--dropout", type=float, default=None, help="dropout probability of a GPT; without it, 0")
    command_line.add_steps(parser, "sequences", batch_size=16, max_iters=1000, precisions=PRECISIONS)
    command_line.add_training(parser, learning_rate=1e-3, warmup_iters=50, eval_interval=100, weight_decay=0.1)
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="muon: for the blocks' matrices, AdamW for the rest")
    text = "save memory: keep only each block's input, and compute the rest again in backward"
    add("--checkpoint-activations", action="store_true", help=text)
    add("--sample-interval", type=number(0), default=200, help="steps between text samples; 0: none")
    text = "share each batch among the processes that mpiexec started (needs mpi4py)"
    add("--data-parallel", action="store_true", help=text)
    arguments = parser.parse_args(argv)
    given = command_line.given(parser, argv)
    if arguments.will_it_fit:
        others = ["data_parallel"] + ["init_from"] * (arguments.init_from == "resume")
        command_line.refuse(
            parser, given, others, "does not go with --will-it-fit, which tries a new run in one process"
        )
    if arguments.init_from == "scratch":
        other = "dropout" if arguments.architecture == "llama" else "n_kv_head"
        command_line.refuse(parser, given, [other], f"does not go with --architecture {arguments.architecture}")
    elif arguments.init_from != "resume":
        command_line.refuse(parser, given, ["architecture"], "is for a new model, not for that of --init-from")
    with command_line.team(arguments.data_parallel) as team:
        run = _run(arguments, given, team)
        return 0 if run is None else show_next_steps(run, "train", LET_IT_WRITE)


def _run(arguments: argparse.Namespace, given: dict[str, Any], team: Team) -> Run | None:
    team.check_same({**vars(arguments), "options": sorted(given)})
    device = command_line.set_up(arguments)
    if arguments.precision == "tf32" and device == "cpu":
        raise ValueError("--precision tf32 needs a GPU: on the CPU, use float32 or bfloat16")
    if arguments.init_from == "resume":
        length = stage_options.new_length(given, PretrainingConfig, arguments.out_dir)
        its_shape = settings_of(PretrainingConfig, arguments.out_dir).model
        for name in [name for name in SHAPE if name in given and name not in its_shape]:
            raise ValueError(f"the model in {arguments.out_dir} has no {name}")  # as at the start
        return resume(train_language_model, PretrainingConfig, arguments.out_dir, device, team, length)
    options, is_new = vars(arguments), arguments.init_from == "scratch"
    if is_new:
        shape = {name: options[name] for name in SHAPE if options[name] is not None}
    else:  # what the model must have
        shape = {name: given[name] for name in (*SHAPE, "vocab_size") if name in given}
    config = stage_options.build(PretrainingConfig, {**options, "model": shape})
    init_from = None if is_new else arguments.init_from
    if arguments.will_it_fit:
        try_run(partial(train_language_model, init_from=init_from), config, device)
        return None
    return pretrain(config, device, init_from, team)


if __name__ == "__main__":
    command_line.run(main)
