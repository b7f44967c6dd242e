"""A lesson as one offline page: prose, code, its real output, pictures and widgets, and where everything is."""

import itertools
import os
import re
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gpt.files import read_json, read_text, write_text
from scripts.course.lessons.cells import ANSWER, LESSONS, ONE_PAGE, QUESTION, Cell, Running, lessons, read_cells, title
from scripts.course.lessons.concepts import ROOT, Concept, concepts, dotted, number
from scripts.course.pictures import widget_html, widget_scripts
from scripts.pages.lesson_index import WIDGET_PAGES, Index, minutes, progress
from scripts.pages.markup import markdown_to_html, python_to_html
from scripts.shared.web_page import FOLDER, escaped, page

FOLDED = ("plot", "check")  # purposes of statements that are not the subject of a lesson
NOTICED = 2  # seconds of computing from which the page has them at a cell, for where cells can be run
_DRAWN = re.compile(r"^(picture|widget): (.+?\.(?:svg|json)) \((.*)\)$", re.MULTILINE)
_EXERCISE = re.compile(r"exercise\.py start (\w+)")
_HOW_TO_OPEN = re.compile(r" \(`python scripts[/]lesson\.py \w+ --html`\)")
_PATH = re.compile(r"(?:minigrad|gpt|finetune|scripts|tests)/[\w./-]*\w")


class Ran(NamedTuple):
    """A cell, what it printed, the value of its last line, and how long it computed."""

    cell: Cell
    output: str = ""
    value: Any = None
    seconds: float = 0.0


def record(running: Running, cells: Iterable[Cell]) -> Iterator[Ran]:
    """Run a lesson's cells, keeping what each prints."""
    for cell in cells:
        start = time.process_time()  # a busy machine leaves it as it is
        with redirect_stdout(StringIO()) as printed:
            value = running.execute(cell) if cell.kind == "code" else None
        yield Ran(cell, printed.getvalue(), value, time.process_time() - start)


def write_page(lesson: Path, ran: Iterable[Ran], exercises: list[str], folder: Path) -> Path:
    """Write the lesson's page into a folder, with an index of all pages there; returns its path."""
    path = LessonPage(folder).write(lesson, ran, exercises)
    Index(folder).write()
    return path


class LessonPage:
    """A lesson as a page. folder: where the page will be, for its links."""

    is_site = False
    more = ""  # HTML at the end of the page
    modules = [FOLDER / "lesson.js"]

    def __init__(self, folder: Path):
        self.folder = folder
        self.html: list[str] = []
        self.hidden: list[str] | None = None  # the answer to an open question, so far
        self.widgets: dict[str, Any] = {}

    def write(self, lesson: Path, ran: Iterable[Ran], exercises: list[str]) -> Path:
        """Write the lesson's page, and a page for each of its drawings that has one; returns the path of the first."""
        start = time.perf_counter()
        body, widgets = self.of(ran)
        seconds = time.perf_counter() - start
        cells = read_cells(lesson)
        places = self._concepts([row for row in concepts() if row.lesson == lesson.name], exercises)
        kind = (
            f'<p class="kind">minigrad: a lesson, {minutes(cells)} minutes to read; its code ran in {seconds:.0f} s</p>'
        )
        nav = "<!--nav--><!--/nav-->"
        done = f'<p class="soft">{progress(lesson, cells)}. A lesson is done when all its answers have been opened.</p>'
        if lesson == ONE_PAGE:  # it asks nothing
            done = ""
        main = f"<header>{nav}</header>\n<main>\n{kind}{body}\n{places}</main>"
        name = title(lesson)
        self._put(
            lesson.stem,
            name[:1].upper() + name[1:],
            f"{main}\n<footer>{done}{nav}</footer>{self.more}",
            "lesson",
            widget_scripts(list(widgets), *self.modules),
        )
        back = f'<a href="{lesson.stem}.html">← {dotted(lesson)}</a><span></span><a href="index.html">All lessons</a>'
        for widget in WIDGET_PAGES.keys() & widgets:  # alone on a page, with all the width there is
            head = f'<p class="kind">minigrad: a drawing of lesson {dotted(lesson)}</p><h1>{WIDGET_PAGES[widget]}</h1>'
            main = f"<main>{head}{widget_html(widget, widgets[widget])}</main>"
            html = f'<header><nav aria-label="lessons">{back}</nav></header>{main}'
            self._put(widget, WIDGET_PAGES[widget], html, "alone", widget_scripts([widget]))
        return self.folder / f"{lesson.stem}.html"

    def _put(self, name: str, title: str, body: str, kind: str, script: str) -> None:
        address = f"lessons/{name}.html" if self.is_site else ""
        write_text(self.folder / f"{name}.html", page(title, body, kind, [script], address))

    def of(self, ran: Iterable[Ran]) -> tuple[str, dict[str, Any]]:
        """The HTML of a lesson that ran, and the widgets in it: their names and data."""
        for cell, output, value, seconds in ran:
            if cell.kind == "prose":
                self._paragraphs(cell)
            else:
                result = "\n".join([*self._output(output), *_value(value)])
                took = f' data-seconds="{seconds:.0f}"' * (seconds > NOTICED)
                self.html.append(f'<div class="cell" data-line="{cell.line}"{took}>{self._code(cell)}</div>')
                shown = self.html if self.hidden is None else self.hidden
                shown.append(f'<div class="result" data-of="{cell.line}">{result}</div>')
        return "\n".join(self.html), self.widgets

    def prose(self, text: str) -> str:
        """Markdown as HTML, with its links. A page that is open need not say how to open it."""
        return markdown_to_html(_HOW_TO_OPEN.sub("", text), self.link)

    def _paragraphs(self, cell: Cell) -> None:
        plain: list[str] = []

        def finish() -> None:
            self.html.append(self.prose("\n\n".join(plain)))
            plain.clear()

        for paragraph in cell.paragraphs():
            if paragraph.startswith(QUESTION):
                finish()
                text = self.prose(_sentence(paragraph.removeprefix(QUESTION)))
                self.html.append(f'<div class="question"><p><strong>Predict before you look.</strong></p>{text}</div>')
                self.hidden = []
            elif paragraph.startswith(ANSWER) and self.hidden is not None:
                finish()
                text = self.prose(_sentence(paragraph.removeprefix(ANSWER)))
                answer = "\n".join([*self.hidden, text])
                self.html.append(f'<details class="answer"><summary>Show the answer</summary>{answer}</details>')
                self.hidden = None
            else:
                plain.append(paragraph)
        finish()

    def _code(self, cell: Cell) -> str:
        """The code, in its order: the subject open, print() in gray, and plots and assertions folded."""
        if re.search(r"^lesson = Lesson\(", cell.text, re.MULTILINE):
            return f"<details><summary>Imports</summary>{code_html(cell)}</details>"
        html = []
        for folds, group in itertools.groupby(cell.statements(), lambda statement: statement.purpose() in FOLDED):
            statements = list(group)
            code = code_html(*statements)
            if folds:
                named = " and ".join(dict.fromkeys(f"the {statement.purpose()}" for statement in statements))
                lines = code.count('class="line')
                code = f"<details><summary>{named}: {lines} line{'s' * (lines > 1)}</summary>{code}</details>"
            html.append(code)
        return "".join(html)

    def _output(self, output: str) -> Iterator[str]:
        """Text, and the pictures and widgets that it names."""
        parts = _DRAWN.split(output)
        for i, part in enumerate(parts[::4]):
            if part.strip():
                yield f'<pre class="output" tabindex="0">{escaped(part.strip(chr(10)))}</pre>'
            if 4 * i + 3 < len(parts):
                kind, path, _ = parts[4 * i + 1 : 4 * i + 4]
                if kind == "picture":
                    yield f'<figure class="drawing scroll">{read_text(path)}</figure>'
                else:
                    widget = Path(path).stem
                    self.widgets[widget] = read_json(path)
                    yield widget_html(widget, self.widgets[widget])
                    if widget in WIDGET_PAGES:
                        link = f'<a href="{widget}.html">{WIDGET_PAGES[widget]}</a>'
                        yield f"<p>{link}: the same drawing, on a page of its own.</p>"

    def _concepts(self, rows: list[Concept], exercises: list[str]) -> str:
        """The concepts that the lesson teaches, with their code, tests and exercises."""
        html = []
        for row in rows:
            html.append(f"<li>{escaped(row.name)}")
            for place in row.code:
                line = place.line() or 1
                where = f'<a href="{self.address(ROOT / place.path)}#L{line}">{escaped(place.path)}:{line}</a>'
                source = textwrap.dedent(place.source())
                code = code_html(Cell("code", source, 1)) if source else ""
                html.append(f"<details><summary>{escaped(place.name)}</summary><p>{where}</p>{code}</details>")
            for place in row.tests:
                link = f'<a href="{self.address(ROOT / place.path)}#L{place.line() or 1}">{escaped(place.name)}</a>'
                html.append(f'<div class="soft">tested by {link}</div>')
            html.append("</li>")
        shown = "".join(f"<li>{self.prose(f'`python scripts/exercise.py start {name}`')}</li>" for name in exercises)
        concept_list = f"<h2>Concepts of this lesson, and their code</h2><ul>{''.join(html)}</ul>" if rows else ""
        return f"{concept_list}<h2>Exercises</h2><ul>{shown}</ul>" if exercises else concept_list

    def link(self, target: str) -> str | None:
        """The address of a file of the project: a link's target, a path, a lesson, or a command that names one."""
        if target.startswith("lesson "):
            return self.lesson_link(target.removeprefix("lesson "))
        exercise = _EXERCISE.search(target)
        named = [*LESSONS.parent.glob(f"exercises/??_{exercise[1]}.py")] if exercise else []
        found = _PATH.search(target)
        named += [(LESSONS / target).resolve()] if re.fullmatch(r"[\w./-]+", target) else []
        named += [ROOT / found[0]] if found else []
        for path in named:
            if path.is_relative_to(ROOT) and path.is_file():
                return self.address(path)
        return None

    def address(self, path: Path) -> str:
        """A file's address, relative to the page where that is possible."""
        try:
            return quote(Path(os.path.relpath(path, self.folder)).as_posix())
        except ValueError:  # on Windows, another drive
            return path.resolve().as_uri()

    def lesson_link(self, name: str) -> str | None:
        """The address of a lesson's page or, where that is not written, of its file. name: "4.4.3b"."""
        for lesson in lessons():
            if number(lesson) == name.replace(".", ""):
                written = f"{lesson.stem}.html"
                return written if self.is_site or (self.folder / written).exists() else self.address(lesson)
        return None


def _sentence(text: str) -> str:
    """The text after "Predict:" or "Answer:", which the page does not show; with a capital, except for y = x²."""
    text = text.strip()
    return text if re.match(r"\w [=≈]", text) else text[:1].upper() + text[1:]


def code_html(*statements: Cell) -> str:
    """Python as a block. Each line knows its indentation: what does not fit goes on below it, further in."""
    html = ""
    for statement in statements:
        kind = "line quiet" if statement.purpose() == "print" else "line"
        text = statement.text if html else statement.text.lstrip("\n")
        for line in python_to_html(text).split("\n"):
            plain = re.sub(r"<[^>]+>", "", line)
            indent = len(plain) - len(plain.lstrip())
            html += f'<span class="{kind}" style="--indent:{indent}">{line}\n</span>'
    return f'<pre class="code" tabindex="0"><code>{html}</code></pre>'


def _value(value: Any) -> Iterator[str]:
    """The HTML that a notebook would show of a cell's last value."""
    for method in ("_repr_svg_", "_repr_html_"):
        if hasattr(value, method):
            yield f'<figure class="scroll{" drawing" * (method == "_repr_svg_")}">{getattr(value, method)()}</figure>'
            return
    if value is not None:
        yield f'<pre class="output" tabindex="0">{escaped(repr(value))}</pre>'
