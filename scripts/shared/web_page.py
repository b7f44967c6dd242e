"""The shell of our pages: one file with its style and its scripts inside, for a phone, paper and dark mode.

    write_text(path, page("Title", "<h1>...</h1>", "report"))

A page is a file by itself or, with an address, one of the site. It never asks for anything from outside of the place
where it is: its Content-Security-Policy forbids it.
"""

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
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"
SITE_POLICY = POLICY.replace("script-src", "script-src 'self'") + "; worker-src 'self'"
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
# Paper has no buttons: answers are printed.
OPEN_ANSWERS = "document.querySelectorAll('details.answer').forEach((answer) => { answer.open = true; })"
ON_PRINT = f"addEventListener('beforeprint', () => {OPEN_ANSWERS});"


def escaped(text: Any) -> str:
    """Text as HTML that shows just this text; what UTF-8 cannot hold (half a surrogate pair) as "?"."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def page(title: str, body: str, kind: str, scripts: Iterable[str] = (), address: str = "") -> str:
    """A whole page. body: HTML. kind: of the page, whose rules the stylesheet has. scripts: JavaScript, put into it.

    address: where the page is on the site; "" for a file by itself.
    """
    script = "\n".join([*scripts, ON_PRINT])
    return f"""<!DOCTYPE html>
<html lang="en"><head>
<meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{SITE_POLICY if address else POLICY}">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
<style>{read_text(STYLE)}</style>
</head>
<body class="{kind}">
{site_header(address) if address else ""}{body}
<script>
{script}
</script>
</body></html>
"""


def site_header(address: str) -> str:
    """The links that all pages of the site begin with. The page's folder is where the header says one is."""
    up = "../" * address.count("/")
    folder = address.partition("/")[0]
    links = ""
    for place, name in PAGES.items():
        current = f' aria-current="{"page" if place == address else "true"}"' if place.startswith(folder) else ""
        links += f'<a href="{up}{place}"{current}>{name}</a>'
    nav = f'<nav class="site" aria-label="site">{links}</nav><div id="content" tabindex="-1"></div>'
    return f'<a class="skip" href="#content">To the content</a>{nav}\n'


def joined(*modules: Path) -> str:
    """JavaScript modules, each once and after those that it imports, as one script: a file can load no others."""
    texts: dict[Path, str] = {}

    def add(path: Path) -> None:
        if path not in texts:
            text = read_text(path)
            for imported in _IMPORT.findall(text):
                add((path.parent / imported).resolve())
            texts[path] = _EXPORT.sub("", _IMPORT.sub("", text))

    for module in modules:
        add(module.resolve())
    return "\n".join(['"use strict";', *texts.values()])


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


def page_of_data(files: str, title: str, data: Any, address: str = "") -> str:
    """A page that its scripts draw from data.

    files: its HTML and JavaScript in FOLDER. The first is HTML with a place for the title and one for all other HTML,
    which the site adds: "debugger.html debugger.js site/live.js site/editor.html".
    """
    paths = [FOLDER / name for name in files.split()]
    first, *more = (read_text(path) for path in paths if path.suffix == ".html")
    body = first.format(title=escaped(title), more="".join(more)) + data_script(data)
    scripts = joined(*(path for path in paths if path.suffix == ".js"))
    return page(title, body, paths[0].stem, [scripts], address)
