"""What every script needs: options with the same names everywhere, and errors as one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from minigrad import manual_seed, use_kernels
from minigrad.backend import resolve_device

# What bad input and a bad environment raise. Anything else is our mistake, and its traceback is wanted.
USER_ERRORS = (ValueError, OSError, RuntimeError, LookupError, TypeError, FloatingPointError, MemoryError)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parser(description: str, examples: str = "") -> argparse.ArgumentParser:
    """A parser that keeps the description's line breaks, shows defaults, and refuses abbreviated options."""
    return argparse.ArgumentParser(description=description, epilog=examples, formatter_class=_Formatter, allow_abbrev=False)


def add_device(options: argparse.ArgumentParser) -> None:
    options.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where to compute")


def add_seed(options: argparse.ArgumentParser, default: int | None = 1337) -> None:
    options.add_argument("--seed", type=whole_number(0), default=default, help="the same seed gives the same run")


def add_kernels(options: argparse.ArgumentParser) -> None:
    options.add_argument("--kernels", choices=["fast", "textbook"], default="fast", help="textbook: the forms to step through")


def set_up(arguments: argparse.Namespace) -> str:
    """Apply --kernels and --seed; returns the device that --device means."""
    use_kernels(arguments.kernels)
    if getattr(arguments, "seed", None) is not None:
        manual_seed(arguments.seed)
    return resolve_device(arguments.device)


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
    """Run a script's `main` and exit: 0, or 1 with one sentence, or 130 after Ctrl-C.

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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except USER_ERRORS as error:
        if os.environ.get("MINIGRAD_TRACEBACK"):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyError):  # whose str() is the repr of its text
        return str(error.args[0])
    return str(error) or type(error).__name__
