"""The index of all lessons, and the links between their pages."""

import itertools
import re
from collections.abc import Container
from pathlib import Path
from urllib.parse import quote

from gpt.files import read_text, write_text
from scripts.course.lessons.cells import ANSWER, ONE_PAGE, Cell, lessons, read_cells, title
from scripts.course.lessons.concepts import DONE, abilities, chapter, dotted, exercises, number, passed_exercises
from scripts.pages.markup import inline
from scripts.shared.web_page import FOLDER, escaped, joined, page

WIDGET_PAGES = {"gpt": "A GPT at work, step by step"}  # widgets that have a page of their own, too
DONE_HERE = " Lessons finished in a terminal and exercises that passed are as of when a page was last written."
ON_THE_SITE = """<p>All of it runs in this browser; your data stays here. You need to know some Python, and what
a derivative is. <a href="../exercises/index.html">All exercises</a></p>"""
NAV = re.compile(r"<!--nav-->.*?<!--/nav-->", re.DOTALL)
_RAN = re.compile(r"ran in (\d+) s<")
_PICTURE = re.compile(r'<figure class="(?:drawing scroll|scroll drawing)">(.*?)</figure>', re.DOTALL)


def minutes(cells: list[Cell]) -> int:
    """About how long it takes to read a lesson: its words at 200 a minute, its lines of code at 15."""
    words = sum(len(cell.text.split()) for cell in cells if cell.kind == "prose")
    return round(words / 200 + sum(cell.text.count("\n") + 1 for cell in cells if cell.kind == "code") / 15)


def answers_in(cells: list[Cell]) -> int:
    """How many questions a lesson answers: it is done when all these answers have been opened."""
    return sum(part.startswith(ANSWER) for cell in cells if cell.kind == "prose" for part in cell.paragraphs())


def progress(lesson: Path, cells: list[Cell], read: bool = False) -> str:
    """How many of a lesson's answers were opened: a place that lesson.js fills in. read: it is done anyway."""
    answers = answers_in(cells)
    text = "done in a terminal" if read else f"{answers} question{'s' * (answers > 1)}"
    data = f'data-lesson="{lesson.stem}" data-answers="{answers}"{" data-read" * read}'
    return f'<span class="progress{" done" * read}" {data}>{text}</span>'


def first_page(folder: Path) -> Path:
    """What one begins with: all of it on one page or, where that has no page, the first lesson."""
    return ONE_PAGE if (folder / f"{ONE_PAGE.stem}.html").exists() else lessons()[0]


class Index:
    """The pages of a folder and their index.

    is_site: it is for others, without the lessons and exercises that are done on this machine. coming: lessons whose
    pages will be there soon.
    """

    def __init__(self, folder: Path, is_site: bool = False, coming: Container[Path] = ()):
        self.folder = folder
        self.is_site = is_site
        self.coming = coming
        self.passed = set() if is_site else passed_exercises()

    def write(self) -> None:
        """Give every page its links to the previous and the next one, and write the index."""
        self._connect_pages()
        write_text(self.folder / "index.html", self._page())

    def _connect_pages(self) -> None:
        order = [ONE_PAGE, *lessons()]
        for place, lesson in enumerate(order):
            path = self.folder / f"{lesson.stem}.html"
            if path.exists():
                back = self._to("← ", order[place - 1]) if place else "<span></span>"
                on = self._to("", order[place + 1], " →") if place + 1 < len(order) else "<span></span>"
                links = f'{back}<a href="index.html">All lessons</a>{on}'
                nav = f'<!--nav--><nav aria-label="lessons">{links}</nav><!--/nav-->'
                connected = nav.join(NAV.split(text := read_text(path)))
                if connected != text:
                    write_text(path, connected)

    def _page(self) -> str:
        """The index."""
        html = ""
        for heading, group in itertools.groupby(lessons(), chapter):
            cells = {lesson: read_cells(lesson) for lesson in group}
            rows = "".join(self._row(lesson, cells[lesson]) for lesson in cells)
            time = f'<span class="soft">{sum(map(minutes, cells.values()))} minutes</span>'
            html += f'<h2>{escaped(heading)} {time}</h2><ol class="lessons">{rows}</ol>'
        made = {name: text for name, text in WIDGET_PAGES.items() if (self.folder / f"{name}.html").exists()}
        body = read_text(FOLDER / "lesson_index.html").format(
            count=len(lessons()),
            about=ON_THE_SITE if self.is_site else "",
            first=self._to("", first_page(self.folder)),
            widgets="".join(f'<p><a href="{name}.html">{text}</a></p>' for name, text in made.items()),
            chapters=html,
            here="" if self.is_site else DONE_HERE,
        )
        modules = [FOLDER / "lesson.js", *[FOLDER / "site/passed.js"] * self.is_site]
        return page("The lessons", body, "index", [joined(*modules)], "lessons/index.html" if self.is_site else "")

    def _row(self, lesson: Path, cells: list[Cell]) -> str:
        """A lesson in the index."""
        path = self.folder / f"{lesson.stem}.html"
        text = read_text(path) if path.exists() else ""
        ran, picture = _RAN.search(text), _PICTURE.search(text)
        can = abilities()[lesson.name]
        is_read = not self.is_site and (self.folder / lesson.stem / DONE).exists()
        facts = [f"{minutes(cells)} minutes", progress(lesson, cells, is_read)]
        if ran:
            facts.append(f"ran in {ran[1]} s")
        if names := exercises(lesson):
            facts.append("exercises: " + ", ".join(map(self._exercise, names)))
        about = f'<p>{inline(can[0].upper() + can[1:])}.</p><p class="soft">{" · ".join(facts)}</p>'
        return f"""<li>
<div class="thumbnail drawing" aria-hidden="true">{picture[1] if picture else ""}</div>
<div><h3>{self._to("", lesson)}</h3>{about}</div>
</li>"""

    def _exercise(self, name: str) -> str:
        """An exercise in a row."""
        if self.is_site:
            return f'<a href="../exercises/{name}.html">{name}</a>'
        return f"{name} ✓" if name in self.passed else name

    def _to(self, before: str, lesson: Path, after: str = "") -> str:
        """A link to a lesson's page, or why there is none: it is being written, or what command makes it."""
        name = f'<b>{before}{dotted(lesson)}{after}</b> <span class="name">{escaped(title(lesson))}</span>'
        page = f"{lesson.stem}.html"
        if (self.folder / page).exists():
            return f'<a href="{quote(page)}">{name}</a>'
        command = f"<code>python scripts/lesson.py {number(lesson)} --html</code>"
        return f'<span class="soft">{name} {"(being written)" if lesson in self.coming else command}</span>'
