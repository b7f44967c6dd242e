"""Instruction tuning: teach a base model to answer in a chat template, and measure what that changes."""

import argparse
from typing import Any

from start import command_line

from finetune.built_in.tasks import TASKS
from finetune.data.chat_template import ChatTemplate, add_chat_tokens
from finetune.stages.sft import SFTConfig, load_data, train_sft
from gpt.training.loading import load_model
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/sft.py                                              the demo's model, on built-in questions
  python scripts/sft.py --init-from gpt2 --data alpaca.json --out-dir runs/alpaca       your own conversations
  python scripts/sft.py --init-from resume --out-dir runs/sft        resume the run
  python scripts/sft.py --show-mask 3                                which tokens are learned from; no training
--data takes JSON Lines, or one JSON array, of messages (OpenAI), conversations (ShareGPT), prompt and completion, or
instruction, input and output (Alpaca).
"""


def main(argv: list[str] | None = None) -> int:
    """Train on conversations with `train_sft`, or, with --show-mask, show which of their tokens it would learn from.

    In a program of your own, training is one call:

    from gpt.training.run import start
    start(train_sft, SFTConfig(init_from="gpt2", data="alpaca.json", out_dir="runs/alpaca"))
    """
    parser = options()
    arguments = parser.parse_args(argv)
    if arguments.show_mask:
        return show_mask(parser, arguments)
    return stage_options.run(parser, arguments, train_sft, SFTConfig, "sft", config_of=_config)


def _config(arguments: argparse.Namespace) -> SFTConfig:
    """The settings of a new run."""
    options = stage_options.with_length(vars(arguments), SFTConfig, arguments.data != TASKS)
    return command_line.build(SFTConfig, options)


def show_mask(parser: command_line.Parser, arguments: argparse.Namespace) -> int:
    """Print some conversations as text, with marks around what the model learns to write."""
    others = parser.given.keys() - {"show_mask", "init_from", "data", "seed", "kernels"}  # given: what the user typed
    parser.refuse(others, "does not go with --show-mask, which trains nothing")
    command_line.set_up(arguments)
    examples = load_data(arguments.data, arguments.seed)[0][: arguments.show_mask]
    model, tokenizer = load_model(arguments.init_from, trainable=True)  # so tokens can be added
    add_chat_tokens(model, tokenizer)
    template = ChatTemplate(tokenizer)
    print("\n\n".join(template.marked(example.messages, example.completion) for example in examples))
    return 0


def options() -> command_line.Parser:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    rate = "peak learning rate; 2e-5 for a large pretrained model"
    changes: dict[str, Any] = {"learning_rate": {"help": rate}, "max_iters": stage_options.length_of(SFTConfig)}
    stage_options.add_stage(parser, SFTConfig, **changes)
    text = "only show what N conversations teach"
    parser.add_argument("--show-mask", type=command_line.whole_number(1), metavar="N", help=text)
    return parser


if __name__ == "__main__":
    command_line.run(main)
