"""The only place that writes to the screen: lines, and a progress bar for work that takes more than a few seconds."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import types
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_silencers: list[None] = []  # one for each block in which nothing is shown; several threads may be in one


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Show nothing inside the block."""
    _silencers.append(None)
    try:
        yield
    finally:
        _silencers.pop()


def show(text: str = "", stream: TextIO | None = None) -> None:
    """Print a line, above the progress bar if there is one. stream: None for standard output."""
    if _silencers:
        return
    try:
        from tqdm import tqdm
    except ImportError:
        print(text, file=stream, flush=True)
    else:
        tqdm.write(text, stream)
        sys.stdout.flush()


def printable(text: str) -> str:
    """Text that is safe to print. A model can write any bytes, and control characters move the cursor, or do worse.

    >>> printable("one\\ttwo \\x1b[2J three")
    'one\\ttwo �[2J three'
    """
    text = text.replace("\r", "")
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def quoted(path: Path) -> str:
    """A path as one types it in a command: quoted where it must be, which Windows does with double quotes."""
    text = path.as_posix()
    if os.name == "nt":
        return f'"{text}"' if " " in text else text
    return shlex.quote(text)


def progress_bar(total: int | None, description: str, unit: str = "it") -> Any:
    """A tqdm bar on standard error (`with progress_bar(...) as bar: bar.update(n)`).

    Silent without tqdm (the extra `progress`), and if standard error is not a terminal. total None: unknown length.
    """
    no_bar = contextlib.nullcontext(types.SimpleNamespace(update=lambda amount=1: None))
    try:
        from tqdm import tqdm
    except ImportError:
        return no_bar
    tqdm.monitor_interval = 0  # no thread of its own, which would be in the way of a fork
    if _silencers:
        return no_bar
    return tqdm(total=total, desc=description, unit=unit, unit_scale=True, leave=False, disable=None)  # on a terminal
