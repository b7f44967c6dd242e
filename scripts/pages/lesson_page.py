"""A lesson as one offline page: prose, code, its real output, pictures and widgets, and where everything is."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gpt.files import read_json, read_text, write_text
from scripts.lessons.cells import ANSWER, LESSONS, QUESTION, Cell, Running, lessons, title
from scripts.lessons.concepts import ROOT, Concept, concepts
from scripts.pages.markup import markdown_to_html, python_to_html
from scripts.pages.pictures import widget_html, widget_scripts
from scripts.pages.web_page import escaped, page

NAV = re.compile(r"<!--nav-->.*?<!--/nav-->", re.DOTALL)
_DRAWN = re.compile(r"^(picture|widget): (.+?\.(?:png|svg|json)) \((.*)\)$", re.MULTILINE)
_EXERCISE = re.compile(r"exercise\.py start (\w+)")
_PATH = re.compile(r"(?:minigrad|gpt|finetune|scripts|tests)/[\w./-]*\w")


class Ran(NamedTuple):
    """A cell, what it printed, and the value of its last line."""

    cell: Cell
    output: str = ""
    value: Any = None


def record(running: Running, cells: Iterable[Cell]) -> Iterator[Ran]:
    """Run a lesson's cells, keeping what each prints."""
    for cell in cells:
        with redirect_stdout(StringIO()) as printed:
            value = running.execute(cell) if cell.kind == "code" else None
        yield Ran(cell, printed.getvalue(), value)


def write_page(lesson: Path, ran: Iterable[Ran], exercises: list[str], folder: Path) -> Path:
    """Write the lesson's page into a folder, with an index of all pages there; returns its path."""
    path = folder / f"{lesson.stem}.html"
    body, widgets = Body(folder).of(ran)
    rows = [row for row in concepts() if row.lesson == lesson.name]
    places = _concepts(rows, exercises, folder)
    nav = "<!--nav--><!--/nav-->"
    html = f"<header>{nav}</header>\n<main>\n{body}\n{places}</main>\n<footer>{nav}</footer>"
    name = title(lesson)
    scripts = [widget_scripts(widgets)] if widgets else []
    write_text(path, page(name[:1].upper() + name[1:], html, "lesson", scripts))
    _connect(folder)
    return path


class Body:
    """The main part of a page. folder: where the page will be, for its links."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.html: list[str] = []
        self.hidden: list[str] | None = None  # the answer to an open question, so far
        self.widgets: list[str] = []

    def of(self, ran: Iterable[Ran]) -> tuple[str, list[str]]:
        """The HTML of a lesson that ran, and the names of the widgets in it."""
        for cell, output, value in ran:
            if cell.kind == "prose":
                self._prose(cell)
            else:
                result = "\n".join([*self._output(output), *_value(value)])
                self.html.append(f'<div class="cell" data-line="{cell.line}">{self._code(cell)}</div>')
                shown = self.html if self.hidden is None else self.hidden
                shown.append(f'<div class="result" data-of="{cell.line}">{result}</div>')
        return "\n".join(self.html), list(dict.fromkeys(self.widgets))

    def _prose(self, cell: Cell) -> None:
        plain: list[str] = []

        def finish() -> None:
            self.html.append(markdown_to_html("\n\n".join(plain), self.link))
            plain.clear()

        for paragraph in cell.paragraphs():
            if paragraph.startswith(QUESTION):
                finish()
                text = markdown_to_html(_sentence(paragraph.removeprefix(QUESTION)), self.link)
                self.html.append(f'<div class="question"><p><strong>Predict before you look.</strong></p>{text}</div>')
                self.hidden = []
            elif paragraph.startswith(ANSWER) and self.hidden is not None:
                finish()
                text = markdown_to_html(_sentence(paragraph.removeprefix(ANSWER)), self.link)
                answer = "\n".join([*self.hidden, text])
                self.html.append(f'<details class="answer"><summary>Show the answer</summary>{answer}</details>')
                self.hidden = None
            else:
                plain.append(paragraph)
        finish()

    def _code(self, cell: Cell) -> str:
        code = f'<pre class="code" tabindex="0"><code>{python_to_html(cell.text)}</code></pre>'
        if re.search(r"^lesson = Lesson\(", cell.text, re.MULTILINE):
            code = f"<details><summary>Imports</summary>{code}</details>"
        return code

    def _output(self, output: str) -> Iterator[str]:
        """Text, and the pictures and widgets that it names."""
        parts = _DRAWN.split(output)
        for i, part in enumerate(parts[::4]):
            if part.strip():
                yield f'<pre class="output" tabindex="0">{escaped(part.strip(chr(10)))}</pre>'
            if 4 * i + 3 < len(parts):
                kind, path, name = parts[4 * i + 1 : 4 * i + 4]
                if kind == "picture":
                    yield picture_html(Path(path), name)
                else:
                    self.widgets.append(Path(path).stem)
                    yield widget_html(Path(path).stem, read_json(path))

    def link(self, target: str) -> str | None:
        """The address of a file of the project: a link's target, a path, or a command that names one."""
        exercise = _EXERCISE.search(target)
        named = [*LESSONS.parent.glob(f"exercises/??_{exercise[1]}.py")] if exercise else []
        found = _PATH.search(target)
        named += [(LESSONS / target).resolve()] if re.fullmatch(r"[\w./-]+", target) else []
        named += [ROOT / found[0]] if found else []
        for path in named:
            if path.is_relative_to(ROOT) and path.is_file():
                return address(path, self.folder)
        return None


def _sentence(text: str) -> str:
    """The text after "Predict:" or "Answer:", with a capital at its beginning; the page does not show the word."""
    text = text.strip()
    return text[:1].upper() + text[1:]


def address(path: Path, folder: Path) -> str:
    """A file's address, relative to the folder of a page where that is possible."""
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:  # on Windows, another drive
        return path.resolve().as_uri()


def picture_html(path: Path, name: str) -> str:
    """A picture inside the page."""
    if path.suffix == ".svg":
        return f'<figure class="drawing scroll">{read_text(path)}</figure>'
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure><img class="drawing" alt="{escaped(name)}" src="data:image/png;base64,{data}"></figure>'


def _value(value: Any) -> Iterator[str]:
    """The HTML that a notebook would show of a cell's last value."""
    for method in ("_repr_svg_", "_repr_html_"):
        if hasattr(value, method):
            yield f'<figure class="scroll{" drawing" * (method == "_repr_svg_")}">{getattr(value, method)()}</figure>'
            return
    if value is not None:
        yield f'<pre class="output" tabindex="0">{escaped(repr(value))}</pre>'


def _concepts(rows: list[Concept], exercises: list[str], folder: Path) -> str:
    """The concepts that the lesson teaches, with their code, tests and exercises."""
    html = []
    for row in rows:
        html.append(f"<li>{escaped(row.name)}")
        for place in row.code:
            where = f'<a href="{address(ROOT / place.path, folder)}">{escaped(place.path)}:{place.line() or 1}</a>'
            source = python_to_html(place.source())
            code = f'<pre class="code" tabindex="0"><code>{source}</code></pre>' if source else ""
            html.append(f"<details><summary>{escaped(place.name)}</summary><p>{where}</p>{code}</details>")
        for place in row.tests:
            link = f'<a href="{address(ROOT / place.path, folder)}">{escaped(place.name)}</a>'
            html.append(f'<div class="soft">tested by {link}</div>')
        html.append("</li>")
    commands = [f"python scripts/exercise.py start {name}" for name in exercises]
    shown = "".join(f"<li>{markdown_to_html(f'`{command}`', Body(folder).link)}</li>" for command in commands)
    concept_list = f"<h2>Concepts of this lesson, and their code</h2><ul>{''.join(html)}</ul>" if rows else ""
    return f"{concept_list}<h2>Exercises</h2><ul>{shown}</ul>" if exercises else concept_list


def _connect(folder: Path) -> None:
    """Give every page of the folder its links to the previous and the next one, and write the index."""
    pages = {lesson: folder / f"{lesson.stem}.html" for lesson in lessons()}
    order = list(pages)
    for place, lesson in enumerate(order):
        if pages[lesson].exists():
            back = _to("previous", order[place - 1], pages) if place else ""
            on = _to("next", order[place + 1], pages) if place + 1 < len(order) else ""
            nav = f'<!--nav--><nav aria-label="lessons">{back}<a href="index.html">all lessons</a>{on}</nav><!--/nav-->'
            write_text(pages[lesson], nav.join(NAV.split(read_text(pages[lesson]))))
    items = "".join(f"<li>{_to('', lesson, pages)}</li>" for lesson in order)
    write_text(folder / "index.html", page("The lessons", f"<h1>The lessons</h1>\n<ul>{items}</ul>", "index"))


def _to(word: str, lesson: Path, pages: Mapping[Path, Path]) -> str:
    """A link to a lesson's page, or the command that makes it."""
    number = lesson.stem.partition("_")[0]
    name = escaped(f"{word} {number}: {title(lesson)}".strip())
    if pages[lesson].exists():
        return f'<a href="{quote(pages[lesson].name)}">{name}</a>'
    return f'<span class="soft">{name} (<code>python scripts/lesson.py {number} --html</code>)</span>'
