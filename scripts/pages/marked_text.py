"""A text whose tokens are marked, in the terminal and on the page of scripts/evaluate.py --html.

A mark says how surprised a model was by a token. There are five levels, from 0 (no mark) to 4. Without colors the
terminal shows [level 3] and [[level 4]] in brackets. On the page both the color's strength and the underline's
thickness grow with the level, so it can also be read in black and white.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from gpt.console import printable
from scripts.shared.web_page import escaped, page

LEVELS = 5
_TERMINAL = ["", "48;5;230;38;5;16", "48;5;223;38;5;16", "48;5;215;38;5;16;4", "48;5;209;38;5;16;4;1"]
# Point at a token, tap it, or go to it with Tab: its note is shown.
SCRIPT = """const note = document.querySelector("#note");
const show = ({ target }) => { note.textContent = target.dataset.note ?? note.textContent; };
for (const event of ["pointerover", "focusin"]) document.querySelector(".marked").addEventListener(event, show);
"""


@dataclasses.dataclass(frozen=True)
class MarkedToken:
    """A piece of text, its level (0 to 4), and a note that the page shows when you point at it."""

    text: str
    level: int = 0
    note: str = ""


# --- in the terminal --------------------------------------------------------------------------------------------------


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
    start = f"\x1b[{_TERMINAL[token.level]}m"
    end = "\x1b[0m"
    # The color ends before each line break; otherwise the terminal would fill the rest of the line with it.
    return start + printable(token.text).replace("\n", f"{end}\n{start}") + end


# --- the page ---------------------------------------------------------------------------------------------------------


def html(tokens: Iterable[MarkedToken], title: str, legend: Sequence[str], facts: Sequence[tuple[str, Any]]) -> str:
    """The page: `facts` (name, value), the meaning of each level, and the tokens with their notes.

    The tokens are escaped, so they are shown as text and never as markup.
    """
    rows = "".join(f"<tr><th>{_shown(name)}</th><td>{_shown(value)}</td></tr>" for name, value in facts)
    keys = "".join(f'<span class="l{level}">{_shown(text)}</span>' for level, text in enumerate(legend) if text)
    body = f"""<p class="kind">minigrad: how well a model predicts a text</p>
<h1>{_shown(title)}</h1>
<table>{rows}</table><p class="levels">{keys}</p>
<p class="soft no-print">Point at a token, tap it, or move to it with Tab, to see what the model expected.</p>
<pre class="marked">
{"".join(map(_span, tokens))}</pre>
<div id="note" class="no-print" aria-live="polite"></div>"""
    return page(printable(title), body, "report", [SCRIPT])


def _span(token: MarkedToken) -> str:
    text = _shown(token.text)
    if not token.level and not token.note:
        return text
    note = _shown(token.note).replace("\n", "&#10;")
    # A line break on its own would leave nothing to see or to point at.
    return f'<span class="l{token.level}" tabindex="0" data-note="{note}">{text}</span>'.replace("\n", "&#8629;\n")


def _shown(text: Any) -> str:
    return escaped(printable(str(text)))
