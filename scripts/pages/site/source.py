"""The library's files as pages of the site."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from urllib.parse import quote

from gpt.files import read_text, write_text
from scripts.course.lessons.concepts import ROOT
from scripts.pages.markup import markdown_to_html, python_to_html
from scripts.shared.web_page import escaped, page

LIBRARY = ("minigrad", "gpt", "finetune")


def write_sources(out: Path) -> None:
    """The library's files, and a list of them: the tables of contents of its folders."""
    contents = []
    source_address(ROOT / "minigrad" / "for_pytorch_users.md", out)
    for package in LIBRARY:
        for path in sorted((ROOT / package).rglob("*.py")):
            source_address(path, out)
            if path.name == "__init__.py":
                contents.append(_contents(path.parent))
    body = f"<main><h1>The source</h1>{''.join(contents)}</main>"
    write_text(out / "source/index.html", page("The source", body, "source", address="source/index.html"))


def _contents(folder: Path) -> str:
    """The table of contents of a folder, which its __init__.py begins with, with links to the files that it names."""
    name = folder.relative_to(ROOT).as_posix()
    first, _, rest = (ast.get_docstring(ast.parse(read_text(folder / "__init__.py"))) or "").partition("\n")

    def link(found: re.Match[str]) -> str:
        path = ROOT / found[0] if found[0].startswith(LIBRARY) else folder / found[0]
        where = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            return f'<a href="#{where}">{found[0]}</a>'
        return f'<a href="{where}.html">{found[0]}</a>' if path.is_file() else found[0]

    linked = re.sub(r"(?<![\w/.])[\w/]+(\.py|/)", link, escaped(rest.strip("\n")))
    return f'<h2 id="{name}">{name}/</h2>\n<p>{escaped(first)}</p>\n<pre>{linked}</pre>\n'


@functools.cache  # many lessons link to the same file
def source_address(path: Path, out: Path) -> str:
    """Write a file of the project as a page. Returns its address in the site."""
    title, source = path.relative_to(ROOT).as_posix(), read_text(path)
    code = python_to_html(source) if path.suffix == ".py" else escaped(source)
    rows = (
        f'<span class="row"><a id="L{i}" href="#L{i}" tabindex="-1">{i}</a>{line}\n</span>'
        for i, line in enumerate(code.split("\n"), 1)
    )
    shown = f'<h1>{title}</h1>\n<pre class="code" tabindex="0">{"".join(rows)}</pre>'
    if path.suffix == ".md":
        shown = markdown_to_html(source)
    address = f"source/{title}.html"
    write_text(out / address, page(title, f"<main>{shown}</main>", "source", address=address))
    return quote(address)
