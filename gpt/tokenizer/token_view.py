"""Tokens as their reader sees them: text that appears while the model writes, and tokens that carry a mark.

A mark says, for example, how surprised a model was by a token. There are five levels, from 0 (no mark) to 4. Without
colors the terminal shows [level 3] and [[level 4]] in brackets.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from ..console import printable
from .tokenizer import Tokenizer

LEVELS = 5
_TERMINAL = ["", "48;5;230;38;5;16", "48;5;223;38;5;16", "48;5;215;38;5;16;4", "48;5;209;38;5;16;4;1"]


class TextStream:
    """Turns one sequence's tokens into text, piece by piece; special tokens show as nothing.

    A character whose bytes are spread over several tokens waits for the last of them.

    >>> stream = TextStream(Tokenizer.train("a", vocab_size=257))
    >>> tokens = stream.tokenizer.encode("né")
    >>> [stream.text(token) for token in tokens], stream.rest()
    (['n', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def text(self, token: int) -> str:
        """The text that can be shown after `token` has arrived. -1, which means no token, gives ""."""
        if token < 0 or token in self.tokenizer.special_tokens.values():
            return ""
        return printable(self._decoder.decode(self.tokenizer.decode_bytes([token])))

    def rest(self) -> str:
        """The remaining text at the end: "\ufffd" for an unfinished character."""
        return self._decoder.decode(b"", final=True)


@dataclasses.dataclass(frozen=True)
class MarkedToken:
    """A piece of text, its level (0 to 4), and a note that the page shows when you point at it."""

    text: str
    level: int = 0
    note: str = ""


def readable_pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, text) for each run ids[start:stop] that can be shown as text, usually a single token.

    Tokens that share a character form one piece. Bytes that are not text become U+FFFD.

    >>> tokenizer = Tokenizer.train("a", vocab_size=257)
    >>> list(readable_pieces(tokenizer, tokenizer.encode("aé!")))
    [(0, 1, 'a'), (1, 3, 'é'), (3, 4, '!')]
    """
    start, pending = 0, b""
    for stop, id in enumerate(ids, start=1):
        pending += tokenizer.decode_bytes([id])
        try:
            text = pending.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and stop < len(ids):
                continue  # the character is not complete yet
            text = pending.decode("utf-8", "replace")
        yield start, stop, text
        start, pending = stop, b""


def to_terminal(tokens: Iterable[MarkedToken], color: bool | None = None) -> str:
    """The tokens in color, or with brackets. None: in color if standard output is a terminal and NO_COLOR is not set.

    >>> print(to_terminal([MarkedToken("the"), MarkedToken(" cat", 3), MarkedToken(" flew", 4)], color=False))
    the[ cat][[ flew]]
    """
    if color is None:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return "".join(_in_color(token) if color else _in_brackets(token) for token in tokens)


def _in_brackets(token: MarkedToken) -> str:
    depth = max(token.level - 2, 0)
    return "[" * depth + printable(token.text) + "]" * depth


def _in_color(token: MarkedToken) -> str:
    if token.level == 0:
        return printable(token.text)
    start, end = f"\x1b[{_TERMINAL[token.level]}m", "\x1b[0m"
    # The color ends before each line break; otherwise the terminal would fill the rest of the line with it.
    return start + printable(token.text).replace("\n", f"{end}\n{start}") + end
