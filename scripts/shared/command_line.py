"""Options with the same names and meanings in all scripts, options made from settings, and errors in one sentence."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import errno
import itertools
import os
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from minigrad import __version__, manual_seed, use_kernels
from minigrad.backend import resolve_device

if TYPE_CHECKING:
    from gpt import LanguageModel, Tokenizer
    from gpt.training.data_parallel import Team

# The packages do not know the scripts, so the script that helps is named here, by the exception's name.
ADVICE = {
    "NoRunError": "scripts/train.py makes one, and scripts/demo.py makes runs/demo",
    "NotTrainableError": "take the model that they were made from, or train adapters beside them with scripts/lora.py",
}
# What --model and --init-from accept in every script (gpt/training/loading.py).
SOURCES = "a run, a Hugging Face folder, a GGUF file, or a name (gpt2, smollm2, ...)"
# Options that mean the same, here or in other projects: a script that has one of them takes it by the other names too.
NAMES = ["--lr --learning-rate", "--dataset --data", "--start --prompt", "--dtype --precision", "--model --init-from"]
NAMES += ["--steps --max-iters --total-iterations", "--output-dir --out-dir", "--rank --r", "--lora-alpha --alpha"]
# Ctrl-C, and errors caused by bad input or a bad environment. Any other exception is a bug of ours, and shows its
# traceback.
EXPECTED: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
if not os.environ.get("MINIGRAD_TRACEBACK"):
    EXPECTED += (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help text with N and X for numbers, the description's own line breaks, and default values."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {"integer": "N", "float": "X"}.get(getattr(action.type, "__name__", ""), action.dest.upper())

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = action.default in (None, ()) or isinstance(action.default, bool)
        return action.help if hidden else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that refuses unknown options with a suggestion, and empty values.

    given: after `parse_args`, what the user gave, by name.
    """

    given: dict[str, Any]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = self._option_string_actions
        for names in map(str.split, NAMES):
            for name in known.keys() & names:
                for other in names:
                    known.setdefault(other, known[name])
        words = [*itertools.takewhile("--".__ne__, sys.argv[1:] if args is None else args)]
        typed = [known.get(word.partition("=")[0]) for word in words]
        for word, action in zip(words, typed):
            if re.fullmatch(r"--\S+", word) and action is None:
                self.error(f"unrecognized arguments: {word}{self._suggestion(word)}")  # before what is missing
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestion(unknown[0])}")
        self.given = {}
        for action in self._actions:
            value = getattr(found, action.dest, None)
            if value == "" and action.dest != "system":  # a system message may be ""
                self.error(f"{_flag(action)} is empty")
            if action in typed or (not action.option_strings and value and value != action.default):
                self.given[action.dest] = value
        return found

    def refuse(self, names: Collection[str], reason: str) -> None:
        """End with an error if the user gave an option of these names, which would be ignored for this `reason`."""
        for action in self._actions:
            if action.dest in self.given and action.dest in names:
                self.error(f"{_flag(action)} {reason}")

    def _suggestion(self, unknown: str) -> str:
        name = "--" + unknown.partition("=")[0].lstrip("-").replace("_", "-")
        near = difflib.get_close_matches(name, self._option_string_actions, 1, 0.75)
        return f"; did you mean {near[0]}?" if near else ""

    def error(self, message: str) -> NoReturn:
        """Print one sentence that points to --help, instead of the whole list of options."""
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def _flag(action: argparse.Action) -> str:
    """How an option is written on the command line."""
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def parser(description: str | None, examples: str = "") -> Parser:
    """The parser of a script. Abbreviated options are refused."""
    usage = f"python {sys.argv[0].replace('%', '%%')} [options]"
    made = Parser(None, usage, description, examples, formatter_class=_Formatter, allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"minigrad {__version__}")
    return made


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that is an integer >= `least`, and <= `most`."""

    def convert(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            limits = f">= {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be an integer {limits}, got {text}")
        return number

    convert.__name__ = "integer"  # argparse says "invalid integer value: 'x'"
    return convert


PROCESSES = "how many train together, on Linux; auto: one for each core, if that divides the batch; 1: threads instead"
PACKED = "keep the weights of a GGUF file (smollm2) in 4 and 8 bits: less memory, but slower"
ADAPTER = "a LoRA adapter for that model: a run of scripts/lora.py, or a folder of PEFT"
KERNELS = "fast kernels, or the textbook forms to step through; results agree to rounding"


def processes(text: str) -> int | None:
    """The type of --processes: None for auto."""
    return None if text == "auto" else whole_number(1)(text)


processes.__name__ = "number (or auto)"
# Options that mean the same in every script that has them.
SHARED: dict[str, dict[str, Any]] = {
    "model": {"default": "runs/demo", "help": SOURCES},
    "packed": {"action": "store_true", "help": PACKED},
    "adapter": {"metavar": "FOLDER", "help": ADAPTER},
    "kernels": {"choices": ["fast", "textbook"], "default": "fast", "help": KERNELS},
    "processes": {"type": processes, "default": "auto", "metavar": "auto|N", "help": PROCESSES},
    "device": {"default": "auto", "metavar": "auto|cpu|cuda", "help": "the device to compute on"},
    "seed": {"type": whole_number(0), "default": 1337, "help": "the same seed gives the same result"},
}


def add_shared(options: argparse.ArgumentParser, *names: str, **defaults: Any) -> None:
    """Add options of SHARED. defaults: in place of theirs."""
    for name in names:
        changes = {"default": defaults[name]} if name in defaults else {}
        options.add_argument(f"--{name}", **SHARED[name] | changes)


def add_settings(options: Any, make: Any, without: tuple[str, ...] = (), **changes: dict[str, Any]) -> None:
    """An option --like-this for each setting `like_this` that has a help; settings inside settings form a group.

    make: the dataclass of the settings, or a function that makes it with other defaults. without: settings without an
    option. changes: other arguments of `add_argument` than those that follow from what is declared.
    """
    from gpt.settings import declared, nested_in  # here, so that a script without settings starts at once

    config = make()
    for field in dataclasses.fields(config):
        name = field.name
        kind = str(field.type)
        how = {"default": getattr(config, name), **declared(type(config), name), **changes.get(name, {})}
        least = how.pop("range", ">= 0").split()[1].strip("[(,")  # of ">= 1" or "in [1, 9]"
        if "help" not in how or name in without:
            continue
        if kind.startswith("int"):
            how.setdefault("type", whole_number(int(least)))
        elif kind == "float":
            how["type"] = float
        elif kind == "bool":
            how["action"] = "store_true"
        elif kind.startswith("tuple"):
            how |= {"nargs": "+", "action": _Names}
        options.add_argument(how.pop("flag", "--" + name.replace("_", "-")), dest=name, **how)
    for name, inner in nested_in(config).items():
        add_settings(options.add_argument_group(name), inner, without, **changes)


class _Names(argparse.Action):
    """An option with several names, which become a tuple. The default may be a word for all of them: `all-linear`."""

    def __call__(self, parser: Any, options: Any, values: Any, flag: str | None = None) -> None:
        setattr(options, self.dest, self.default if values == [self.default] else tuple(values))


def build(make: Any, options: dict[str, Any]) -> Any:
    """Settings, including those inside them, made of the options of the same names. make: as in `add_settings`."""
    from gpt.settings import nested_in

    config = make()
    values = {field.name: options[field.name] for field in dataclasses.fields(config) if field.name in options}
    return make(**values, **{name: build(inner, options) for name, inner in nested_in(config).items()})


def load(arguments: argparse.Namespace, device: str) -> tuple[LanguageModel, Tokenizer]:
    """The model of --model, --packed and --adapter, on a device, with its tokenizer."""
    from finetune.loading import add_adapter_to  # here, so that a script without a model starts at once
    from finetune.quantization.packed import load_packed
    from gpt.training.loading import load_model

    model, tokenizer = load_packed(arguments.model) if arguments.packed else load_model(arguments.model)
    if arguments.adapter is not None:
        tokenizer = add_adapter_to(model, tokenizer, arguments.adapter)
    return model.to(device), tokenizer


def set_up(arguments: argparse.Namespace) -> str:
    """Apply --kernels and --seed. Returns the device that --device stands for; the CPU without this option."""
    use_kernels(arguments.kernels)
    seed = getattr(arguments, "seed", None)
    manual_seed(secrets.randbits(32) if seed is None else seed)
    return resolve_device(getattr(arguments, "device", "cpu"))


@contextlib.contextmanager
def team(data_parallel: bool) -> Iterator[Team]:
    """The processes that train together (`data_parallel.start_team`).

    An error in one process ends all of them with one message, because the others would wait for it forever.
    """
    from gpt.training.data_parallel import start_team

    with start_team(data_parallel, "mpiexec -n 2 python scripts/train.py --data-parallel") as processes:
        try:
            yield processes
        except BaseException as error:
            if processes.size == 1:
                raise
            if processes.rank > 0:
                time.sleep(1)  # if process 0 has the same problem, it ends all processes by then
            _report(error, f" in process {processes.rank}" if processes.rank > 0 else "")
            processes.stop()


def run(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run a script's `main` and exit with its result, with 1 after an error in one sentence, or with 130 after Ctrl-C.

    MINIGRAD_TRACEBACK=1 shows the whole traceback. Characters that the terminal cannot show are printed as "?".
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code: Any = main(None) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, for example `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more on exit
        code = 141  # what a shell reports for a program that was ended by a closed pipe
    except EXPECTED as error:
        code = _report(error)
    sys.exit(code)


def from_here(text: str) -> str:
    """A text in which the scripts of a command are named as they are reached from the working directory."""
    from gpt.console import quoted  # here, so that a script without a model starts at once

    ours = Path(__file__).resolve().parents[1]
    folder = Path(os.path.relpath(ours)) if ours.drive == Path.cwd().drive else ours

    def named(script: re.Match[str]) -> str:
        return quoted(folder / script[1]) if (ours / script[1]).exists() else script[0]  # it may be the user's file

    return re.sub(r"(?<![\w/.-])scripts/(\w+\.py)", named, text)


def _report(error: BaseException, where: str = "") -> int:
    """Print what has ended a script, and return its exit status."""
    if isinstance(error, KeyboardInterrupt):
        text = "\ninterrupted\n"
    elif isinstance(error, EXPECTED):
        text = f"error{where}: {_sentence(error)}\n"
    else:
        text = "".join(traceback.format_exception(error))
    print(text, end="", file=sys.stderr, flush=True)  # one write, which mpiexec seldom splits
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _sentence(error: BaseException) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:60]!r} is not UTF-8 text: convert it, or type it in a terminal that uses UTF-8"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "too many files are open at once: raise the limit of this shell, as with `ulimit -n 1024`"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    sentence = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        sentence = f"not enough memory ({sentence}): use a smaller model or batch, or a shorter context"
    return from_here(f"{sentence}: {ADVICE[name]}" if (name := type(error).__name__) in ADVICE else sentence)
