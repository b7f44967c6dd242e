"""The shell of our offline pages: one file with its style and its scripts inside, for a phone, paper and dark mode.

    write_text(path, page("Title", [Raw("<h1>..."), ...]))

A page never asks for anything from outside: its Content-Security-Policy forbids it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt.files import read_text

STYLE, COLORS = (Path(__file__).with_name(name) for name in ("web_page.css", "web_page_colors.css"))
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
# Paper has no buttons: answers are printed.
OPEN_ANSWERS = "document.querySelectorAll('details.answer').forEach((answer) => { answer.open = true; })"
ON_PRINT = f"addEventListener('beforeprint', () => {OPEN_ANSWERS});"


def escaped(text: Any) -> str:
    """Text as HTML that shows just this text; what UTF-8 cannot hold (half a surrogate pair) as "?"."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def page(title: str, body: str, scripts: Iterable[str] = (), styles: Iterable[str] = (), policy: str = POLICY) -> str:
    """A whole page. body: HTML. scripts, styles: JavaScript and CSS, put into the page."""
    style = "\n".join([read_text(COLORS), read_text(STYLE), *styles])
    script = "\n".join([ON_PRINT, *scripts])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
<script>
{script}
</script>
</body>
</html>
"""


def data_script(data: Any) -> str:
    """Data for a page's scripts, as JSON that no text in it can end early."""
    text = json.dumps(data, allow_nan=False).replace("<", r"\u003c")
    return f'<script type="application/json">{text}</script>'
