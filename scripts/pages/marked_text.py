"""The page of scripts/evaluate.py --html: a text whose tokens are marked, each with a note.

Both the color's strength and the underline's thickness grow with the level, so it can also be read in black and white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpt.console import printable
from gpt.tokenizer.token_view import MarkedToken
from scripts.pages.web_page import escaped, page

# Point at a token, tap it, or go to it with Tab: its note is shown.
SCRIPT = """const note = document.querySelector("#note");
function show({ target }) {
  if (target.dataset.note !== undefined) note.textContent = target.dataset.note;
}
for (const event of ["pointerover", "focusin"]) document.querySelector(".marked").addEventListener(event, show);
"""


def html(
    tokens: Iterable[MarkedToken], title: str, legend: Sequence[str], facts: Sequence[tuple[str, Any]] = ()
) -> str:
    """The page: `facts` (name, value), the meaning of each level, and the tokens with their notes.

    The tokens are escaped, so they are shown as text and never as markup.
    """
    rows = "".join(f"<tr><th>{_shown(name)}</th><td>{_shown(value)}</td></tr>" for name, value in facts)
    keys = "".join(f'<span class="l{level}">{_shown(text)}</span>' for level, text in enumerate(legend) if text)
    body = f"""<p class="kind">minigrad: how well a model predicts a text</p>
<h1>{_shown(title)}</h1>
<table>{rows}</table>
<p class="levels">{keys}</p>
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
