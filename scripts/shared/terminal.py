"""An answer in the terminal: lines break between words, dots while nothing comes, what is typed meanwhile waits."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator


class WrappedText:
    """Prints a text that comes in pieces, with line breaks between words where the terminal ends.

    The last word is held back until its end is known, or it fills a line. Where standard output is not a terminal,
    nothing is changed.
    """

    def __init__(self, column: int):
        """column: where the first piece is printed."""
        self.column, self.held = column, ""
        self.width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize

    def write(self, piece: str) -> None:
        """Print the words that are complete."""
        *words, self.held = re.split(r"(?<=[\s\u2e80-\uffff])", self.held + piece)  # Chinese breaks anywhere
        for word in words:
            self._print(word)
        if len(self.held) >= self.width:  # it does not fit on any line
            self.end()

    def end(self) -> None:
        """Print what is held back."""
        self._print(self.held)
        self.held = ""

    def _print(self, word: str) -> None:
        length = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in word.rstrip())
        if self.column > 0 and self.column + length > self.width:
            print()
            self.column = 0
        print(word, end="", flush=True)
        end = self.column + length + len(word) - len(word.rstrip())
        self.column = 0 if word.endswith("\n") else end % self.width


@contextlib.contextmanager
def dots() -> Iterator[None]:
    """On a terminal, three dots stand there inside the block, and are erased after it: a sign of life."""
    count = 3 if sys.stdout.isatty() else 0
    print("." * count, end="", flush=True)
    try:
        yield
    finally:
        print("\b \b" * count, end="", flush=True)


@contextlib.contextmanager
def typing_unseen() -> Iterator[None]:
    """Hide what is typed inside the block: it waits for the next question."""
    if os.name == "nt" or not sys.stdin.isatty():  # on Windows nothing is shown anyway
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
