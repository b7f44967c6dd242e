"""Tokens as their reader sees them: text that appears while the model writes, and tokens that carry a mark.

A mark says, for example, how surprised a model was by a token. There are five levels, from 0 (no mark) to 4, shown in
the terminal or on a page of HTML. Both the color's darkness and the underline's thickness grow with the level, so a
page can also be read in black and white. Without colors the terminal shows [level 3] and [[level 4]] in brackets.
"""

from __future__ import annotations

import codecs
import dataclasses
import html
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..console import printable
from .tokenizer import Tokenizer

LEVELS = 5
_TERMINAL = ["", "48;5;230;38;5;16", "48;5;223;38;5;16", "48;5;215;38;5;16;4", "48;5;209;38;5;16;4;1"]
_STYLE = """\
body { font: 16px/1.9 Georgia, serif; max-width: 52em; margin: 2em auto; padding: 0 1em; color: #000; background: #fff }
h1 { font-size: 1.4em; line-height: 1.3 }
pre { font: 15px/2.1 Consolas, Menlo, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
pre span, .legend span { unicode-bidi: isolate; padding: 1px 0 }
.legend span { padding: 1px 6px; margin-right: 8px }
.l1 { background: #fef0d9; border-bottom: 1px solid #000 }
.l2 { background: #fdcc8a; border-bottom: 2px solid #000 }
.l3 { background: #fc8d59; border-bottom: 3px solid #000 }
.l4 { background: #ef6548; border-bottom: 4px solid #000; font-weight: bold }
pre span:hover { outline: 2px solid #000 }
table { border-collapse: collapse } td { padding: 0 1em 0 0 }
"""


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
            unfinished = error.reason == "unexpected end of data"
            if unfinished and stop < len(ids):
                continue
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


def to_html(
    tokens: Iterable[MarkedToken], title: str, legend: Sequence[str], facts: Sequence[tuple[str, Any]] = ()
) -> str:
    """A self-contained page: `facts` (name, value), the meaning of each level, and the tokens with their notes.

    The tokens are escaped, so they are shown as text and never as markup.
    """
    rows = "".join(f"<tr><td>{_escaped(name)}</td><td>{_escaped(str(value))}</td></tr>" for name, value in facts)
    keys = "".join(f'<span class="l{level}">{_escaped(text)}</span>' for level, text in enumerate(legend) if text)
    title = _escaped(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<table>{rows}</table>\n"
        f'<p class="legend">{keys}</p>\n<pre>\n{"".join(map(_span, tokens))}</pre>\n</body>\n</html>\n'
    )


def _span(token: MarkedToken) -> str:
    text = _escaped(token.text)
    if not token.level and not token.note:
        return text
    note = _escaped(token.note).replace("\n", "&#10;")
    # A line break on its own would leave nothing to see or to point at.
    return f'<span class="l{token.level}" title="{note}">{text}</span>'.replace("\n", "&#8629;\n")


def _escaped(text: str) -> str:
    """HTML that shows this text. Characters that UTF-8 cannot encode (half a surrogate pair) become "?"."""
    return html.escape(printable(text).encode("utf-8", "replace").decode("utf-8"))
