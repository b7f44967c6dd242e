"""The index of all lessons, and the links between their pages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from gpt.files import read_text, write_text
from scripts.lessons.cells import ANSWER, Cell, lessons, read_cells, title
from scripts.lessons.course import DONE, MODULES, exercises, module, number, passed_exercises
from scripts.pages.markup import inline
from scripts.pages.web_page import FOLDER, escaped, page

NAV = re.compile(r"<!--nav-->.*?<!--/nav-->", re.DOTALL)
_RAN = re.compile(r"ran in (\d+) s<")
_PICTURE = re.compile(r'<figure class="(?:drawing scroll|scroll drawing)">(.*?)</figure>', re.DOTALL)
_INTRODUCTION = """<p class="kind">minigrad: all lessons</p><h1>How a GPT is built, trained and fine-tuned</h1>
<p>{count} lessons, from the slope of a curve to a model that follows instructions. Each is a script that ran when its
page was made: prose, code, the real output, and questions to answer before you look. A lesson is done when all its
answers have been opened.</p>
<div class="next"><p>Start here:</p> {first} {gpt}</div>"""
_NOTE = """<p class="soft">This browser remembers which answers were opened. A lesson that was read to its end in a
terminal is done as well; that, and the exercises, are as they were when a page was last written. Minutes: the prose at
200 words and the code at 15 lines a minute, without the exercises. Seconds: how long the lesson ran.</p>"""


def minutes(cells: list[Cell]) -> int:
    """About how long it takes to read a lesson: its words at 200 a minute, its lines of code at 15."""
    words = sum(len(cell.text.split()) for cell in cells if cell.kind == "prose")
    return round(words / 200 + sum(cell.text.count("\n") + 1 for cell in cells if cell.kind == "code") / 15)


def progress(lesson: Path, cells: list[Cell], read: bool = False) -> str:
    """How many of a lesson's answers were opened: a place that lesson.js fills in. read: it is done anyway."""
    answers = sum(part.startswith(ANSWER) for cell in cells if cell.kind == "prose" for part in cell.paragraphs())
    text = "done in a terminal" if read else f"{answers} question{'s' * (answers > 1)}"
    data = f'data-lesson="{lesson.stem}" data-answers="{answers}"{" data-read" * read}'
    return f'<span class="progress{" done" * read}" {data}>{text}</span>'


def connect(folder: Path) -> None:
    """Give every page of the folder its links to the previous and the next one, and write the index."""
    order = lessons()
    chapters: dict[str, list[str]] = {}
    times: Counter[str] = Counter()
    passed = passed_exercises()
    for place, lesson in enumerate(order):
        path = folder / f"{lesson.stem}.html"
        text = read_text(path) if path.exists() else ""
        if text:
            back = _to("← ", order[place - 1], folder) if place else "<span></span>"
            on = _to("", order[place + 1], folder, " →") if place + 1 < len(order) else "<span></span>"
            nav = f'<!--nav--><nav aria-label="lessons">{back}<a href="index.html">All lessons</a>{on}</nav><!--/nav-->'
            write_text(path, nav.join(NAV.split(text)))
        cells = read_cells(lesson)
        times[module(lesson)] += minutes(cells)
        chapters.setdefault(module(lesson), []).append(_row(lesson, cells, text, folder, passed))
    gpt = '<p><a href="gpt.html">A GPT at work, step by step</a></p>' if (folder / "gpt.html").exists() else ""
    html = [_INTRODUCTION.format(count=len(order), gpt=gpt, first=_to("", order[0], folder))]
    for name, rows in chapters.items():
        head = f'{escaped(MODULES[name])} <span class="soft">{times[name]} minutes</span>'
        html.append(f'<h2>{head}</h2><ol class="lessons">{"".join(rows)}</ol>')
    body = f"<main>{''.join(html)}</main><footer>{_NOTE}</footer>"
    write_text(folder / "index.html", page("The lessons", body, "index", [read_text(FOLDER / "lesson.js")]))


def _row(lesson: Path, cells: list[Cell], text: str, folder: Path, passed: set[str]) -> str:
    """A lesson in the index. text: its page, or "" if it is not written yet."""
    ran, picture = _RAN.search(text), _PICTURE.search(text)
    about = re.split(r"(?<=[.?!])\s", cells[0].paragraphs()[1])[0]
    facts = [f"{minutes(cells)} minutes", progress(lesson, cells, (folder / lesson.stem / DONE).exists())]
    if ran:
        facts.append(f"ran in {ran[1]} s")
    if names := exercises(lesson):
        facts.append("exercises: " + ", ".join(f"{name} ✓" if name in passed else name for name in names))
    return f"""<li>
<div class="thumbnail drawing" aria-hidden="true">{picture[1] if picture else ""}</div>
<div><h3>{_to("", lesson, folder)}</h3><p>{inline(about)}</p><p class="soft">{" · ".join(facts)}</p></div>
</li>"""


def _to(before: str, lesson: Path, folder: Path, after: str = "") -> str:
    """A link to a lesson's page, or the command that makes it."""
    name = f'<b>{before}{number(lesson)}{after}</b> <span class="name">{escaped(title(lesson))}</span>'
    page = f"{lesson.stem}.html"
    if (folder / page).exists():
        return f'<a href="{quote(page)}">{name}</a>'
    return f'<span class="soft">{name} <code>python scripts/lesson.py {number(lesson)} --html</code></span>'
