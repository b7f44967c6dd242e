"""Train a GPT or a Llama on a text, or continue training a model."""

import argparse
from functools import partial
from typing import Any

from start import command_line  # start.py finds the packages, and then passes command_line on

import finetune  # noqa: F401  (--init-from then also takes what was fine-tuned)
from gpt import GPTConfig
from gpt.training.pretraining import PretrainingConfig, train_language_model
from gpt.training.run_state import settings_of
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/train.py                                          a small model on the built-in English
  python scripts/train.py --data mybook.txt --out-dir runs/book    your own text
  python scripts/train.py --architecture llama --out-dir runs/llama                     a Llama instead of a GPT-2
  python scripts/train.py --init-from resume --out-dir runs/book   resume the run, with its own settings
  python scripts/train.py --init-from resume --out-dir runs/book --max-iters 2000       train it longer than planned
  python scripts/train.py --init-from runs/book --data more.txt --out-dir runs/more     a trained model on another text
  mpiexec -n 2 python scripts/train.py --data-parallel             processes of MPI, also on several machines
"""
# The options for the shape of a new model.
SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "dropout")


def main(argv: list[str] | None = None) -> int:
    """Train a model and show what to do with it.

    In a program of your own, training is one call:

    from gpt.training.pretraining import PretrainingConfig, pretrain
    shape = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64}
    pretrain(PretrainingConfig(data="mybook.txt", out_dir="runs/book", model=shape))
    """
    # What the user typed, as settings; `arguments.model` is the shape of a new model.
    parser = options()
    arguments = parser.parse_args(argv)
    refuse_conflicts(parser, arguments)
    arguments.model = model_settings(parser, arguments)
    # What is called with the run: `train_language_model`, with the model to start from, if there is one.
    # With "resume" it is never looked at: `stage_options.run` resumes the run, whose folder has the model.
    init_from = None if arguments.init_from == "scratch" else arguments.init_from
    train = partial(train_language_model, init_from=init_from)
    # Training, in one process, or in those that mpiexec has started, which must all have the same options.
    # parser.given: {option: value}, only those that the user typed.
    with command_line.team(arguments.data_parallel) as team:
        team.check_same({**vars(arguments), "options": sorted(parser.given)})
        if init_from == "resume":
            refuse_another_shape(parser, arguments.out_dir)
        advice = stage_options.LET_IT_WRITE
        return stage_options.run(parser, arguments, train, PretrainingConfig, "train", advice, team=team)


def options() -> command_line.Parser:
    parser = command_line.parser(__doc__, EXAMPLES)
    new = "scratch: random weights"
    size = {"type": command_line.whole_number(257)}
    # An option for each setting. without=(): none is left out, while other stages leave out a few. vocab_size: at least
    # the 256 bytes and the end of a text. precision, learning_rate: {} is the option as the setting declares it; other
    # stages have no tf32, and another help for the rate.
    stage_options.add_stage(parser, PretrainingConfig, new, without=(), vocab_size=size, precision={}, learning_rate={})
    group = parser.add_argument_group("shape of a new model")
    small = partial(GPTConfig, n_layer=4, n_head=4, n_embd=128, block_size=64)
    # dropout: None unless the user gives it, because a Llama has no dropout
    command_line.add_settings(group, small, dropout={"default": None})
    text = "a Llama's heads of keys and values; without it, --n-head"
    group.add_argument("--n-kv-head", type=command_line.whole_number(1), help=text)
    text = "share each batch among the processes that mpiexec started (needs mpi4py)"
    parser.add_argument("--data-parallel", action="store_true", help=text)
    return parser


def refuse_conflicts(parser: command_line.Parser, arguments: argparse.Namespace) -> None:
    """End with an error if the user has given an option that another one rules out.

    parser.refuse([option], reason) ends only if the user gave that option.
    """
    if arguments.will_it_fit:
        others = ["data_parallel"]
        if arguments.init_from == "resume":
            others.append("init_from")
        parser.refuse(others, "does not go with --will-it-fit, which tries a new run")
    if arguments.data_parallel:
        parser.refuse(["processes"], "does not go with --data-parallel: mpiexec starts them")
    if arguments.init_from == "scratch":
        other = "dropout" if arguments.architecture == "llama" else "n_kv_head"
        parser.refuse([other], f"does not go with --architecture {arguments.architecture}")
    elif arguments.init_from != "resume":
        parser.refuse(["architecture"], "is for a new model, not for that of --init-from")


def model_settings(parser: command_line.Parser, arguments: argparse.Namespace) -> dict[str, Any]:
    """The shape of a new model, {"n_layer": 4, ...}; for an existing model, only the options that the user gave, to be
    compared with its shape.
    """
    if arguments.init_from == "scratch":
        shape = {name: getattr(arguments, name) for name in SHAPE}
    else:
        shape = {name: parser.given.get(name) for name in (*SHAPE, "vocab_size")}
    return {name: value for name, value in shape.items() if value is not None}


def refuse_another_shape(parser: command_line.Parser, out_dir: str) -> None:
    """Raise ValueError for an option that the model of the resumed run does not have, such as a GPT-2's --n-kv-head."""
    shape = settings_of(PretrainingConfig, out_dir).model
    for name in SHAPE:
        if name in parser.given and name not in shape:
            raise ValueError(f"the model in {out_dir} has no {name}")


if __name__ == "__main__":
    command_line.run(main)
