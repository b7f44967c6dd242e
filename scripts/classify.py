"""Train a classifier: a new head on a trained model, alone or with some or all of the model's blocks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from finetune.evaluation.confusion import predict
from finetune.objectives.gpt_with_head import HEAD_KIND, GPTWithHead, load_classifier, save_classifier
from finetune.stages.classification import Classification, ClassifyConfig
from finetune.stages.stage import start
from gpt import Tokenizer
from gpt.training.checkpoint import has_checkpoint, load_checkpoint
from gpt.training.trainer import Trainer
from scripts.shared import command_line, stage_options
from scripts.shared.next_steps import show_next_steps

EXAMPLES = """examples:
  python scripts/classify.py                                          the demo's frozen model; Python's documentation
  python scripts/classify.py --train 1 --out-dir runs/last-block      train the last block as well
  python scripts/classify.py --compare --out-dir runs/compared        head only, last block, whole model: side by side
  python scripts/classify.py --init-from gpt2 --data reviews.csv --learning-rate 1e-3 --out-dir runs/reviews
  python scripts/classify.py --model runs/classify --predict "The event loop runs the coroutine."
  python scripts/classify.py --model runs/classify --export classifier        write a folder for transformers
"""
WAYS = {"head": 0, "all": None}
SCRIPT = "classify"
ADVICE = 'to classify a text with it:\n  python scripts/classify.py --predict "some text" --model {folder}'


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    text = "the model to start from (a run, a Hugging Face folder, or a name); resume: continue the run in --out-dir"
    add("--init-from", default="runs/demo", metavar="MODEL|resume", help=text)
    add("--data", default="python-docs", help="python-docs, questions, or a CSV, TSV or JSON Lines file")
    add("--out-dir", default="runs/classify", help="the run's folder (checkpoint, tokenizer, data, log, pictures)")
    text = "what is trained: the head only, the head and the last N blocks, or the whole model"
    add("--train", dest="trained_blocks", type=_blocks, default="head", metavar="head|N|all", help=text)
    add("--compare", action="store_true", help="train in all three ways, each in a subfolder of --out-dir")
    add("--language", default="english", help="corpus or text file whose last tenth measures what the model forgets")
    add("--batch-size", type=number(1), default=16, help="texts per batch")
    add("--gradient-accumulation-steps", type=number(1), default=1, help="batches accumulated per step")
    add("--max-iters", type=number(1), default=300, help="training steps")
    text = "peak learning rate (3e-3 for the head alone, else 1e-3)"
    add("--learning-rate", type=float, default=None, help=text)
    add("--warmup-iters", type=number(0), default=20, help="warm-up steps until the peak is reached")
    add("--weight-decay", type=float, default=0.01, help="weight decay of the matrices")
    add("--grad-clip", type=float, default=1.0, help="largest gradient norm; 0 turns clipping off")
    add("--eval-interval", type=number(0), default=50, help="steps between validations, each with a checkpoint")
    add("--log-interval", type=number(1), default=10, help="steps between log lines")
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of matrix products")
    add("--model", default=None, metavar="FOLDER", help="a trained classifier, for --predict and --export")
    add("--predict", default=None, metavar="TEXT", help="print the class probabilities of this text")
    add("--export", default=None, metavar="FOLDER", help="write --model as a folder for transformers")
    command_line.add_kernels(parser)
    command_line.add_device(parser)
    command_line.add_seed(parser)
    arguments = parser.parse_args(argv)
    given = command_line.given(parser, argv)
    if arguments.model or arguments.predict is not None or arguments.export:
        if not arguments.model or (arguments.predict is None and not arguments.export):
            parser.error("--predict and --export need --model, and --model needs one of them")
        others = given.keys() - {"model", "predict", "export", "kernels"}
        command_line.refuse(parser, given, others, "does not go with --model, which trains nothing")
        command_line.set_up(arguments)
        _use(arguments)
        return 0
    if arguments.compare:
        command_line.refuse(parser, given, ["trained_blocks"], "does not go with --compare: it trains all three ways")
        if arguments.init_from == "resume":
            parser.error("--compare does not resume: go on with one of its runs by --out-dir, without --compare")
        return _compare(arguments, command_line.set_up(arguments))
    return stage_options.run(parser, argv, Classification, SCRIPT, ADVICE, _as_settings)


def _blocks(text: str) -> int | None:
    """The number of trained blocks: 0 for "head", None (the whole model) for "all"."""
    if text not in WAYS and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be head, all, or a number of blocks, got {text!r}")
    return WAYS[text] if text in WAYS else int(text)


def _as_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the default learning rate for the head alone or for more than the head."""
    if options.get("learning_rate", 0) is None:
        return {**options, "learning_rate": 3e-3 if options["trained_blocks"] == 0 else 1e-3}
    return options


def _compare(arguments: argparse.Namespace, device: str) -> int:
    """Train in three ways and print the results as one table."""
    trainers: dict[str, Trainer] = {}
    for name, blocks in {"head": 0, "last-block": 1, "all": None}.items():
        print(f"--- {name} ---")
        here = {"trained_blocks": blocks, "out_dir": str(Path(arguments.out_dir) / name)}
        config = stage_options.build(ClassifyConfig, _as_settings({**vars(arguments), **here}))
        trainers[name] = start(Classification, config, device)
        if show_next_steps(trainers[name], SCRIPT, ADVICE) != 0:
            return 130
        print()
    print(f"{'trained':>12}{'parameters':>13}{'accuracy':>10}{'language loss before':>22}{'after':>8}{'seconds':>9}")
    for name, trainer in trainers.items():
        trained, found = trainer.model.num_parameters(trainable_only=True), trainer.extra_state
        losses = f"{found['language_before']:>22.3f}{found['language_after']:>8.3f}"
        print(f"{name:>12}{trained:>13,}{found['accuracy']:>10.1%}{losses}{trainer.seconds:>9.0f}")
    return 0


def _use(arguments: argparse.Namespace) -> None:
    model: GPTWithHead
    if has_checkpoint(arguments.model):
        model = load_checkpoint(arguments.model, with_optimizer=False, kind=HEAD_KIND).model
    else:
        model = load_classifier(arguments.model)
    tokenizer = Tokenizer.load(arguments.model)
    if arguments.predict is not None:
        ids = tokenizer.encode(arguments.predict, allowed_special=())[: model.config.block_size]
        if not ids:
            raise ValueError("--predict is empty: give a text")
        probabilities = predict(model, [ids])[0]
        for place in probabilities.argsort()[::-1]:
            print(f"{probabilities[place]:7.1%}  {model.labels[place]}")
    if arguments.export:
        save_classifier(model, arguments.export, tokenizer)
        print(f"written: {arguments.export}")


if __name__ == "__main__":
    command_line.run(main)
