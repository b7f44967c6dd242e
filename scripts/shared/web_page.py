"""The shell of our offline pages: one file with its style and its scripts inside, for a phone, paper and dark mode.

    write_text(path, page("Title", "<h1>...</h1>", "report"))

A page never asks for anything from outside: its Content-Security-Policy forbids it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gpt.files import read_text

FOLDER = Path(__file__).resolve().parents[1] / "pages"  # with the HTML and JavaScript of each page
STYLE = Path(__file__).with_name("look.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
# What the header of the site leads to, in its order.
PAGES = {
    "index.html": "minigrad",
    "lessons/index.html": "Lessons",
    "exercises/index.html": "Exercises",
    "train/index.html": "Train",
    "chat/index.html": "Chat",
    "explore/index.html": "Look inside",
    "step/index.html": "One step",
    "debugger/index.html": "Line by line",
    "source/index.html": "Source",
}
_IMPORT = re.compile(r'^import .*? from "(.*)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=\w)", re.MULTILINE)
_HEADER = re.compile(r'(<body[^>]*>)(?:\n<a class="skip".*?</div>)?')
# Paper has no buttons: answers are printed.
OPEN_ANSWERS = "document.querySelectorAll('details.answer').forEach((answer) => { answer.open = true; })"
ON_PRINT = f"addEventListener('beforeprint', () => {OPEN_ANSWERS});"


def escaped(text: Any) -> str:
    """Text as HTML that shows just this text; what UTF-8 cannot hold (half a surrogate pair) as "?"."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def page(title: str, body: str, kind: str, scripts: Iterable[str] = (), policy: str = POLICY) -> str:
    """A whole page. body: HTML. kind: of the page, whose rules the stylesheet has. scripts: JavaScript, put into it."""
    script = "\n".join([*scripts, ON_PRINT])
    return f"""<!DOCTYPE html>
<html lang="en"><head>
<meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
<style>{read_text(STYLE)}</style>
</head>
<body class="{kind}">
{body}
<script>
{script}
</script>
</body></html>
"""


def joined(*modules: Path, without: Iterable[Path] = ()) -> str:
    """JavaScript modules, each once and after those that it imports, as one script: a file can load no others.

    without: those that the page has already.
    """
    texts = {path.resolve(): "" for path in without}

    def add(path: Path) -> None:
        if path not in texts:
            text = read_text(path)
            for imported in _IMPORT.findall(text):
                add((path.parent / imported).resolve())
            texts[path] = _EXPORT.sub("", _IMPORT.sub("", text))

    for module in modules:
        add(module.resolve())
    return "\n".join(['"use strict";', *filter(None, texts.values())])


def on_site(html: str, address: str) -> str:
    """A page with the header of the site. address: of the page there, whose folder is where the header says one is."""
    up = "../" * address.count("/")
    folder = address.partition("/")[0]
    links = ""
    for place, name in PAGES.items():
        current = f' aria-current="{"page" if place == address else "true"}"' if place.startswith(folder) else ""
        links += f'<a href="{up}{place}"{current}>{name}</a>'
    links = f'<a class="skip" href="#content">To the content</a><nav class="site" aria-label="site">{links}</nav>'
    return _HEADER.sub(rf'\1\n{links}<div id="content" tabindex="-1"></div>', html, count=1)


def data_script(data: Any) -> str:
    """Data for a page's scripts, as JSON that no text in it can end early."""
    text = json.dumps(data, allow_nan=False).replace("<", r"\u003c")
    return f'<script type="application/json">{text}</script>'


def packed(array: np.ndarray) -> str:
    """The numbers of an array for a page's scripts (`unpack` of common.js): float32 as it is, all others as float64."""
    kind = "<f4" if array.dtype == np.float32 else "<f8"
    return kind[2] + base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode("ascii")


def look(*sections: str) -> str:
    """Some sections of the stylesheet, for a notebook, which has a look of its own."""
    parts = re.split(r"/\* === (\w+)", read_text(STYLE))
    return "".join(f"/* {name}{rules}" for name, rules in zip(parts[1::2], parts[2::2]) if name in sections)


def page_of_data(
    name: str, title: str, data: Any, policy: str = POLICY, folder: Path = FOLDER, before: str = "", *modules: Path
) -> str:
    """A page that its script draws: NAME.html and NAME.js of a folder, with data.

    before: HTML before the script. modules: more of the script.
    """
    body = f"{read_text(folder / f'{name}.html')}{data_script(data)}{before}"
    return page(title, body, name, [joined(folder / f"{name}.js", *modules)], policy)
