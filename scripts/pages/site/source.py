"""The library's files as pages of the site, in reading order: each name of ours leads to where it is defined."""

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt.files import read_text, write_text
from scripts.course.lessons.concepts import ROOT, Place
from scripts.pages.markup import markdown_to_html, python_to_html
from scripts.shared.web_page import escaped, page

LIBRARY = ("minigrad", "gpt", "finetune")
_TEXT = re.compile(r'\s*<span class="[cs]">[^<]*</span>')  # a comment, or in a docstring
_NAMED = re.compile(r"(?<![\w/.])[\w/]+(?:\.py|/)")  # a file or a folder, in a table of contents


def write_sources(out: Path) -> None:
    """The library's files, and a list of them: the tables of contents of its folders."""
    write_source(ROOT / "minigrad" / "for_pytorch_users.md", out)
    for path in reading_order():
        write_source(path, out)
    contents = [_contents(path.parent) for path in reading_order() if path.name == "__init__.py"]
    body = f"<main><h1>The source</h1>{''.join(contents)}</main>"
    write_text(out / "source/index.html", page("The source", body, "source", address="source/index.html"))


@functools.cache
def reading_order() -> list[Path]:
    """The library's files, as the docstrings of its folders name them."""
    return [path for name in LIBRARY for path in _in_order(ROOT / name)]


def _in_order(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, as its table of contents names them, which is the first of them."""
    yield folder / "__init__.py"
    for path in dict.fromkeys(folder / name for name in _NAMED.findall(_docstring(folder)[1])):
        if path.is_dir():
            yield from _in_order(path)
        elif path.is_file():
            yield path


def _docstring(folder: Path) -> tuple[str, str]:
    """The question that a folder answers, which its __init__.py begins with, and the rest: its table of contents."""
    first, _, rest = (ast.get_docstring(ast.parse(read_text(folder / "__init__.py"))) or "").partition("\n")
    return first, rest.strip("\n")


def _contents(folder: Path) -> str:
    """The table of contents of a folder, with links to the files that it names."""
    name = folder.relative_to(ROOT).as_posix()
    first, rest = _docstring(folder)

    def link(found: re.Match[str]) -> str:
        path = ROOT / found[0] if found[0].startswith(LIBRARY) else folder / found[0]
        where = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            return f'<a href="#{where}">{found[0]}</a>'
        return f'<a href="{where}.html">{found[0]}</a>' if path.is_file() else found[0]

    linked = _NAMED.sub(link, escaped(rest))
    return f'<h2 id="{name}">{name}/</h2>\n<p>{escaped(first)}</p>\n<pre>{linked}</pre>\n'


def source_address(path: Path) -> str:
    """The address of a file's page on the site."""
    return f"source/{path.relative_to(ROOT).as_posix()}.html"


@functools.cache  # many lessons link to the same file
def write_source(path: Path, out: Path) -> None:
    """Write a file of the project as a page."""
    title, address, source = path.relative_to(ROOT).as_posix(), source_address(path), read_text(path)
    up = "../" * address.count("/")
    if path.suffix == ".md":
        shown = markdown_to_html(source)
    else:
        code = python_to_html(source, linking(path, up)) if path.suffix == ".py" else escaped(source)
        rows = (
            f'<span class="row{" text" * bool(_TEXT.fullmatch(line))}">'
            f'<a id="L{i}" href="#L{i}" tabindex="-1">{i}</a>{line}\n</span>'
            for i, line in enumerate(code.split("\n"), 1)
        )
        shown = f'<h1>{title.replace("/", "/<wbr>")}</h1>\n<pre class="code" tabindex="0">{"".join(rows)}</pre>'
    if path in reading_order():
        folder = path.parent.relative_to(ROOT).as_posix()
        question = f"{escaped(_docstring(path.parent)[0].partition('?')[0])}?"
        above = f'<p><a href="{up}source/index.html#{folder}">{folder}/</a> {question}</p>'
        shown = f"{above}{_beside(path, up)}{shown}{_beside(path, up)}"
    write_text(out / address, page(title, f"<main>{shown}</main>", "source", address=address))


def _beside(path: Path, up: str) -> str:
    """Links to the files before and after a file. up: the way from the page to the site."""
    place = reading_order().index(path)
    links = [_link(other, up, "← {}") for other in reading_order()[:place][-1:]]
    links += [_link(other, up, "{} →") for other in reading_order()[place + 1 :][:1]]
    return f'<nav aria-label="reading order">{"".join(links)}</nav>'


def _link(path: Path, up: str, text: str) -> str:
    return f'<a href="{up}{source_address(path)}">{text.format(path.relative_to(ROOT).as_posix())}</a>'


def linking(path: Path, up: str) -> Callable[[str], str]:
    """A function that maps a name in a file of the library, or "F.softmax", to where it is defined; "" if not there.

    A name that is also that of a variable or an argument in the file is not followed.
    """
    if path not in reading_order():
        return lambda dotted: ""
    package = ".".join(path.parent.relative_to(ROOT).parts)
    known = dict(vars(importlib.import_module(f"{package}.{path.stem}".removesuffix(".__init__"))))
    nodes = list(ast.walk(ast.parse(read_text(path))))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:  # in a function, or for type checkers only
            source = importlib.import_module("." * node.level + (node.module or ""), package)
            known |= {each.name: getattr(source, each.name, None) for each in node.names}
    local = {getattr(node, "arg", None) for node in nodes}
    local |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}

    def address(dotted: str) -> str:
        first, *rest = dotted.split(".")
        value = None if first in local else known.get(first)
        for name in rest:
            value = inspect.getattr_static(value, name, None)
        defined = value if inspect.ismodule(value) else callable(value) and inspect.getmodule(value)
        file = Path(getattr(defined, "__file__", None) or "")
        if file not in reading_order():
            return ""
        line = Place(file.relative_to(ROOT).as_posix(), getattr(value, "__qualname__", file.name)).line()
        return f"{up}{source_address(file)}#L{line}" if line else ""

    return address
