"""The options of a run that the scripts of the stages share; how it is started or resumed, and what to type next."""

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.data.datasets import hold_out, read_examples
from gpt.console import quoted, show, silenced
from gpt.corpora import corpus
from gpt.training.checkpoint import CheckpointError
from gpt.training.data_parallel import ALONE, Team
from gpt.training.forked_team import team_of
from gpt.training.pretraining import PretrainingConfig
from gpt.training.run import Run, resume, start
from gpt.training.run_state import length_setting, read_state, settings_of
from minigrad import switches
from minigrad.backend import resolve_device
from scripts.shared import command_line
from scripts.shared.will_it_fit import try_run

EPOCHS, MOST_STEPS = 3, 300  # of a run on a file of conversations: see `with_length`
OF_STEPS = ("max_iters", "gradient_accumulation_steps", "log_interval", "precision")  # not of a stage with iterations
# What to do with a finished run: see `show_next_steps`.
LET_IT_WRITE = 'to generate text with it:\n  python scripts/generate.py --model {folder} --prompt "{its.sample_prompt}"'
TALK_TO_IT = "to chat with it:\n  python scripts/chat.py --model {folder}"


def add_stage(
    parser: argparse.ArgumentParser,
    config_class: Any,
    new: str = "",
    without: tuple[str, ...] = ("optimizer", "checkpoint_activations", "sample_interval"),
    processes: bool = True,
    **changes: Any,
) -> None:
    """The options of a run: the model to start from, its settings, and how it is computed.

    new: the word for a new model and what that is, as in "scratch: random weights". processes: whether several can
    train it. without, changes: see `command_line.add_settings`.
    """
    config = config_class()
    add = parser.add_argument
    start = new.partition(":")[0]
    text = f"{new}; MODEL" if new else "the model to start from"
    text += f": {command_line.SOURCES}; resume: continue the run in --out-dir"
    add("--init-from", default=start or config.init_from, metavar=f"{start}|MODEL|resume".strip("|"), help=text)
    text = "the run's folder, for checkpoint, tokenizer, data, log and picture"
    add("--out-dir", default=config.out_dir, help=text)
    unit = "steps"
    if length_setting(config)[1] == "total_iterations":
        unit = "iterations"
        without = (*without, *OF_STEPS)
        processes = False
    usual: dict[str, Any] = {
        "precision": {"choices": ("float32", "bfloat16"), "help": "of matrix products"},
        "learning_rate": {"help": "peak learning rate; 1e-6 for a large model"},
        "eval_interval": {"help": f"{unit} between validations and checkpoints"},
    }
    command_line.add_settings(parser, config_class, without, **usual | changes)
    text = f"only try the first {unit}, and print the memory and the time that the run needs"
    add("--will-it-fit", action="store_true", help=text)
    command_line.add_shared(parser, *["processes"] * processes, "kernels", "device", "seed")


def length_of(config_class: Any) -> dict[str, Any]:
    """The option for the length of a run whose default follows the data: see `with_length`."""
    usual = config_class().training.max_iters
    text = f"training steps ({usual}; for a file of conversations {EPOCHS} epochs, at most {MOST_STEPS} steps)"
    return {"default": None, "help": text}


def with_length(options: dict[str, Any], config_class: Any, has_conversations: bool) -> dict[str, Any]:
    """Options in which the number of steps is set: if the user gave none, it follows the data, a file of conversations.

    For other data it is the usual one. The usual warm-up becomes shorter with the run: it is at most a tenth.
    """
    if options["max_iters"] is not None:
        return options
    usual = config_class().training
    if not has_conversations:
        return options | {"max_iters": usual.max_iters}
    data = options["data"]
    with silenced():  # the run shows what it finds there
        examples, _ = hold_out(read_examples(data), data, "conversation")
    batch_size = options["batch_size"] * options["gradient_accumulation_steps"]
    steps = min(math.ceil(EPOCHS * len(examples) / batch_size), MOST_STEPS)
    epochs = steps * batch_size / len(examples)
    show(f"length: {steps} steps of {batch_size} conversations, {epochs:.1f} epochs; --max-iters changes that")
    warmup = options["warmup_iters"]
    if warmup == usual.warmup_iters:
        warmup = min(warmup, steps // 10)
    return options | {"max_iters": steps, "warmup_iters": warmup}


def corpus_of(model: str) -> str:
    """The built-in text that a run of pretraining learned from; "english" for every other model."""
    with contextlib.suppress(CheckpointError):
        data = settings_of(PretrainingConfig, model).data
        if data in corpus.NAMES:
            return data
    return "english"


def run(
    parser: command_line.Parser,
    arguments: argparse.Namespace,
    train: Callable[[Run, Any], None],
    config_class: Any,
    script: str,
    advice: str = TALK_TO_IT,
    config_of: Callable[[argparse.Namespace], Any] | None = None,
    more: str = "",
    team: Team = ALONE,
) -> int:
    """Start the run that the command line describes, or resume it; returns the exit status.

    train: the function of a stage, whose settings are a `config_class`. config_of: makes them of the options, where
    some have defaults that depend on others. advice, more: see `show_next_steps`.
    """
    device = command_line.set_up(arguments)
    if not arguments.will_it_fit:
        show(f"preparing the run in {quoted(Path(arguments.out_dir))}: model and data ...")
    if vars(arguments).get("precision") == "tf32" and device == "cpu":
        raise ValueError("--precision tf32 needs a GPU: on the CPU, use float32 or bfloat16")
    if arguments.init_from == "resume":
        if arguments.will_it_fit:
            parser.error("--will-it-fit is for a new run, and --init-from resume continues one")
        length = new_length(parser.given, config_class, arguments.out_dir)
        if team is ALONE and hasattr(arguments, "processes"):
            before = read_state(arguments.out_dir).processes
            batch_size = settings_of(config_class, arguments.out_dir).batch_size
            team = team_of(parser.given.get("processes", before), batch_size, device)
        done = resume(train, config_class, arguments.out_dir, device, team, length)
    else:
        config = config_of(arguments) if config_of else command_line.build(config_class, vars(arguments))
        if team is ALONE and hasattr(arguments, "processes"):
            team = team_of(arguments.processes, config.batch_size, device)
        if arguments.will_it_fit:
            try_run(train, config, device, team)
            return 0
        done = start(train, config, device, team)
    return show_next_steps(done, script, advice, more)


def show_next_steps(run: Run, script: str, advice: str, more: str = "") -> int:
    """Show how to resume the run of `script` if it was interrupted, else `advice` on what to do with it.

    {folder} in `advice` becomes the run's folder, {its.seed} its setting `seed`. more: options that the run does not
    keep. Returns the script's exit status.
    """
    folder = quoted(run.out_dir)
    if not run.interrupted:
        show(command_line.from_here(advice).format(folder=folder, its=run.config))
        return 128 + run.asked_to_stop if run.asked_to_stop else 0  # in the last step: what would follow does not begin
    start = ""
    end = more + ("" if switches.kernels else " --kernels textbook")
    end += "" if run.device == resolve_device("auto") else f" --device {run.device}"
    if run.team.size > 1:
        start, end = f"mpiexec -n {run.team.size} ", f"{end} --data-parallel"
    show(f"\ninterrupted; the checkpoint is from step {run.saved_step}; to resume:")
    show(command_line.from_here(f"  {start}python scripts/{script}.py --init-from resume --out-dir {folder}{end}"))
    return 128 + run.stopped_by  # as shells say: 130 after Ctrl-C


def new_length(given: Mapping[str, Any], config_class: Any, out_dir: str) -> int | None:
    """The length that the user gave for the run in `out_dir`, which is to be resumed; None if it keeps its own.

    Raises ValueError for any other option that contradicts the settings of the run.
    """
    config = settings_of(config_class, out_dir)
    _, length = length_setting(config)
    shape = {"architecture", "vocab_size", *getattr(config, "model", {})}
    settings = dataclasses.asdict(config)
    for inner in [value for value in settings.values() if isinstance(value, dict)]:  # such as those of the training
        settings |= inner
    for name, value in given.items():
        if settings.get(name, value) != value and name not in ("init_from", length):
            weights = "" if name in shape else f" from its weights (--init-from {out_dir} --out-dir ANOTHER)"
            raise ValueError(
                f"the run in {out_dir} has {name} {settings[name]}, not {value}: a resumed run keeps its settings; "
                f"to change them, start a new run{weights}"
            )
    return given.get(length)
