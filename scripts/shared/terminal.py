"""A text that comes in pieces, wrapped where the terminal ends; and Ctrl-C without interrupting a computation."""

import contextlib
import re
import shutil
import signal
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
        self.column = column
        self.held = ""
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
def ctrl_c_noted() -> Iterator[list[bool]]:
    """Inside the block, the first Ctrl-C only adds an entry to the list, so that no computation is interrupted.

    A second Ctrl-C raises KeyboardInterrupt.
    """
    noted: list[bool] = []

    def on_interrupt(number: int, frame: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(True)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)
