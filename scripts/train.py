"""Train a GPT or a Llama on a text, or continue training a model."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from scripts.shared import command_line, stage_options
from scripts.shared.next_steps import LET_IT_WRITE, show_next_steps
from scripts.shared.settings_options import add_settings, build
from scripts.shared.trial import try_run

import finetune  # noqa: F401  (--init-from then also takes what was fine-tuned)
from gpt import GPTConfig
from gpt.training.data_parallel import Team
from gpt.training.pretraining import PretrainingConfig, pretrain, train_language_model
from gpt.training.run import Run, resume
from gpt.training.run_folder import settings_of

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
    new, vocab = "scratch: random weights", {"type": command_line.whole_number(257)}
    stage_options.add_stage(
        parser, PretrainingConfig, new, without=(), vocab_size=vocab, precision={}, learning_rate={}
    )
    group = parser.add_argument_group("shape of a new model")
    small = partial(GPTConfig, n_layer=4, n_head=4, n_embd=128, block_size=64)
    add_settings(group, small, dropout={"default": None})
    text = "a Llama's heads of keys and values; without it, --n-head"
    group.add_argument("--n-kv-head", type=command_line.whole_number(1), help=text)
    text = "share each batch among the processes that mpiexec started (needs mpi4py)"
    parser.add_argument("--data-parallel", action="store_true", help=text)
    arguments = parser.parse_args(argv)
    if arguments.will_it_fit:
        others = ["data_parallel"] + ["init_from"] * (arguments.init_from == "resume")
        parser.refuse(others, "does not go with --will-it-fit, which tries a new run in one process")
    if arguments.init_from == "scratch":
        other = "dropout" if arguments.architecture == "llama" else "n_kv_head"
        parser.refuse([other], f"does not go with --architecture {arguments.architecture}")
    elif arguments.init_from != "resume":
        parser.refuse(["architecture"], "is for a new model, not for that of --init-from")
    with command_line.team(arguments.data_parallel) as team:
        run = _run(arguments, parser.given, team)
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
    config = build(PretrainingConfig, {**options, "model": shape})
    init_from = None if is_new else arguments.init_from
    if arguments.will_it_fit:
        try_run(partial(train_language_model, init_from=init_from), config, device)
        return None
    return pretrain(config, device, init_from, team)


if __name__ == "__main__":
    command_line.run(main)
