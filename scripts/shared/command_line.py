"""What every script needs: options with the same names everywhere, and errors as one sentence."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from finetune.loading import AdaptersOnlyError
from gpt.training.data_parallel import Team, start_team
from gpt.weights.hub import NoRunError
from minigrad import manual_seed, use_kernels
from minigrad.backend import resolve_device

# Which script helps, for errors of libraries that know of no scripts.
ADVICE: dict[type[BaseException], str] = {
    NoRunError: "scripts/train.py makes one, scripts/demo.py runs/demo",
    AdaptersOnlyError: "scripts/lora.py --merge {folder} makes a model of both",
}
# What bad input and a bad environment raise. Anything else is our mistake, and its traceback is wanted.
USER_ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Short names for values (N and X for numbers), the description's own line breaks, defaults where there are any."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {"integer": "N", "float": "X"}.get(getattr(action.type, "__name__", ""), action.dest.upper())

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, and where to find more, in place of the whole list of options."""
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def parser(description: str, examples: str = "") -> argparse.ArgumentParser:
    """A parser for one script, which refuses abbreviated options."""
    usage = f"python {sys.argv[0].replace('%', '%%')} [options]"
    return _Parser(None, usage, description, examples, formatter_class=_Formatter, allow_abbrev=False)


def add_model(options: argparse.ArgumentParser) -> None:
    """--model of a script that uses a model and does not train it."""
    text = "a run, a Hugging Face folder, a GGUF file, or a name (gpt2, smollm2, ...)"
    options.add_argument("--model", default="runs/demo", help=text)


def add_packed(options: argparse.ArgumentParser) -> None:
    text = "keep the 4 and 8 bits of a GGUF file (smollm2): less memory, slower"
    options.add_argument("--packed", action="store_true", help=text)


def add_device(options: argparse.ArgumentParser) -> None:
    options.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where to compute")


def add_seed(options: argparse.ArgumentParser, default: int | None = 1337) -> None:
    options.add_argument("--seed", type=whole_number(0), default=default, help="the same seed gives the same result")


def add_kernels(options: argparse.ArgumentParser) -> None:
    text = "textbook: the forms to step through; the same results to rounding"
    options.add_argument("--kernels", choices=["fast", "textbook"], default="fast", help=text)


def add_sampling(options: argparse.ArgumentParser, max_new_tokens: int = 200, temperature: float | None = 0.8) -> None:
    """How a model writes: the settings of `gpt.model.generation.generate`."""
    add, number = options.add_argument, whole_number
    add("--max-new-tokens", type=number(0), default=max_new_tokens, help="per text")
    add("--temperature", type=float, default=temperature, help="0: always the most likely token")
    add("--top-k", type=number(1), default=None, help="only among the k most likely")
    add("--top-p", type=float, default=0.95, help="only among the most likely that have this probability together")
    add("--repetition-penalty", type=float, default=1.0, help="above 1: avoid what is there already")


def sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_sampling` and `add_seed` have read, as arguments of `generate`."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")
    return {name: getattr(arguments, name) for name in names}


def set_up(arguments: argparse.Namespace) -> str:
    """Apply --kernels and --seed; returns the device that --device means."""
    use_kernels(arguments.kernels)
    seed = getattr(arguments, "seed", None)
    manual_seed(secrets.randbits(32) if seed is None else seed)
    return resolve_device(arguments.device)


def given(options: argparse.ArgumentParser, argv: list[str] | None) -> dict[str, Any]:
    """Of all options, those that the user gave, with their values."""
    absent = object()
    namespace = argparse.Namespace(**{name: absent for name in vars(options.parse_args([]))})
    return {name: value for name, value in vars(options.parse_args(argv, namespace)).items() if value is not absent}


def refuse_contradictions(given: Mapping[str, Any], settings: Mapping[str, Any], out_dir: str) -> None:
    """A run goes on as it began: raise ValueError for an option that says otherwise than its settings."""
    for name, value in given.items():
        if settings.get(name, value) != value:
            raise ValueError(
                f"the run in {out_dir} has {name} {settings[name]}, not {value}: resume goes on with its own settings; "
                f"with others, start a new run from its weights (--init-from {out_dir} --out-dir ANOTHER)"
            )


@contextlib.contextmanager
def team(data_parallel: bool) -> Iterator[Team]:
    """The processes that train together (`data_parallel.start_team`). What goes wrong in one of them ends all of them,
    with one message: the others would wait for it for ever.
    """
    with start_team(data_parallel, "mpiexec -n 2 python scripts/train.py --data-parallel") as processes:
        try:
            yield processes
        except BaseException as error:
            if processes.size == 1:
                raise
            if processes.rank > 0:
                time.sleep(1)  # if process 0 has the same problem, it will have ended all by then
            if isinstance(error, USER_ERRORS) and not _wants_traceback():
                where = f" in process {processes.rank}" if processes.rank > 0 else ""
                print(f"error{where}: {_sentence(error)}", file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
            processes.stop()


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that is an integer >= `least`."""

    def convert(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be an integer >= {least}, got {text}")
        return number

    convert.__name__ = "integer"  # argparse says "invalid integer value: 'x'"
    return convert


def run(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run a script's `main` and exit: with what it returns, with 1 after one sentence, with 130 after Ctrl-C.

    MINIGRAD_TRACEBACK=1 shows the whole traceback. Characters that the terminal does not know are shown as "?".
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code: Any = main(None) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's last flush has a place to go
        code = 141  # what a shell reports for a program that a closed pipe ended
    except USER_ERRORS as error:
        if _wants_traceback():
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _wants_traceback() -> bool:
    return bool(os.environ.get("MINIGRAD_TRACEBACK"))


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    sentence = str(error) or type(error).__name__
    return f"{sentence}: {ADVICE[type(error)].format(**vars(error))}" if type(error) in ADVICE else sentence
