"""Train a classifier: a new head on a trained model, alone or with some or all of the model's blocks."""

import argparse
from pathlib import Path
from typing import Any

from start import command_line

from finetune.evaluation.confusion import predict
from finetune.objectives.model_with_head import HEAD_FORMAT, ModelWithHead, load_classifier
from finetune.stages.classification import ClassifyConfig, train_classifier
from gpt import Tokenizer
from gpt.training.checkpoint import has_checkpoint, load_checkpoint
from gpt.training.forked_team import team_of
from gpt.training.run import Run, start
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/classify.py                                          the demo's frozen model; Python's documentation
  python scripts/classify.py --train 1 --out-dir runs/last-block      train the last block as well
  python scripts/classify.py --compare --out-dir runs/compared        head only, last block, whole model: side by side
  python scripts/classify.py --init-from gpt2 --data reviews.csv --learning-rate 1e-3 --out-dir runs/reviews
  python scripts/classify.py --model runs/classify --predict "The event loop runs the coroutine."
"""
WAYS = {"head": 0, "all": None}
ADVICE = 'to classify a text with it:\n  python scripts/classify.py --predict "some text" --model {folder}'


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    blocks = {"type": _blocks, "default": "head"}
    rate = {"default": None, "help": "peak learning rate (3e-3 for the head alone, else 1e-3)"}
    language = {"default": None}  # see `_config`
    stage_options.add_stage(parser, ClassifyConfig, trained_blocks=blocks, language=language, learning_rate=rate)
    add("--compare", action="store_true", help="train in all three ways, each in a subfolder of --out-dir")
    add("--model", default=None, metavar="FOLDER", help="a trained classifier, for --predict")
    add("--predict", default=None, metavar="TEXT", help="print the class probabilities of this text")
    arguments = parser.parse_args(argv)
    if arguments.model or arguments.predict is not None:
        if not arguments.model or arguments.predict is None:
            parser.error("--predict and --model go together: give both")
        others = parser.given.keys() - {"model", "predict", "kernels"}
        parser.refuse(others, "does not go with --model, which trains nothing")
        command_line.set_up(arguments)
        _predict(arguments.model, arguments.predict)
        return 0
    if arguments.compare:
        parser.refuse(["trained_blocks", "will_it_fit"], "does not go with --compare: it trains all three ways")
        if arguments.init_from == "resume":
            parser.error("--compare does not resume: continue one of its runs with --out-dir, without --compare")
        return _compare(arguments, command_line.set_up(arguments))
    return stage_options.run(parser, arguments, train_classifier, ClassifyConfig, "classify", ADVICE, _config)


def _blocks(text: str) -> int | None:
    """The number of trained blocks: 0 for "head", None (the whole model) for "all"."""
    if text not in WAYS and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be head, all, or a number of blocks, got {text!r}")
    return WAYS[text] if text in WAYS else int(text)


def _config(arguments: argparse.Namespace, **changes: Any) -> ClassifyConfig:
    """The settings of a new run. Two options have defaults that depend on others."""
    options = vars(arguments) | changes
    if options["language"] is None:
        options["language"] = stage_options.corpus_of(options["init_from"])
    if options["learning_rate"] is None:
        options["learning_rate"] = 3e-3 if options["trained_blocks"] == 0 else 1e-3
    return command_line.build(ClassifyConfig, options)


def _compare(arguments: argparse.Namespace, device: str) -> int:
    """Train in three ways and print the results as one table."""
    runs: dict[str, Run] = {}
    for name, blocks in {"head": 0, "last-block": 1, "all": None}.items():
        print(f"--- {name} ---")
        config = _config(arguments, trained_blocks=blocks, out_dir=str(Path(arguments.out_dir) / name))
        runs[name] = start(train_classifier, config, device, team_of(arguments.processes, config.batch_size, device))
        stage_options.show_next_steps(runs[name], "classify", ADVICE)
        if runs[name].asked_to_stop:
            return 128 + runs[name].asked_to_stop
        print()
    print(f"{'trained':>12}{'parameters':>13}{'accuracy':>10}{'language loss before':>22}{'after':>8}{'seconds':>9}")
    for name, run in runs.items():
        trained = run.model.num_parameters(trainable_only=True)
        found = run.after
        losses = f"{run.before['language_loss']:>22.3f}{found['language_loss']:>8.3f}"
        print(f"{name:>12}{trained:>13,}{found['accuracy']:>10.1%}{losses}{run.state.seconds:>9.0f}")
    return 0


def _predict(folder: str, text: str) -> None:
    model: ModelWithHead
    if has_checkpoint(folder):
        model = load_checkpoint(folder, with_optimizer=False, format=HEAD_FORMAT).model
    else:
        model = load_classifier(folder)
    if len(model.labels) == 1:
        raise ValueError(f"{folder} holds a reward model, which scores replies: give a run of scripts/classify.py")
    ids = Tokenizer.load(folder).encode(text, allowed_special=())[: model.config.block_size]
    probabilities = predict(model, [ids])[0]
    for place in probabilities.argsort()[::-1]:
        print(f"{probabilities[place]:7.1%}  {model.labels[place]}")


if __name__ == "__main__":
    command_line.run(main)
