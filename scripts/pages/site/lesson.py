"""Run a lesson and write its page of the site. A process of its own does this: python -m scripts.pages.site.lesson"""

import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from gpt.files import read_text
from scripts.course.checker import catalogue
from scripts.course.lessons.cells import Running, lessons, read_cells
from scripts.course.lessons.concepts import ROOT, exercises, number
from scripts.pages.lesson_page import LessonPage, record
from scripts.pages.site.source import LIBRARY, source_address, write_source
from scripts.pages.stepping import STEPS
from scripts.shared import command_line
from scripts.shared.web_page import FOLDER

TRAVELS = (".py", ".json", ".md", ".html", ".js", ".css")  # the files of our packages that the browser gets


class SiteLesson(LessonPage):
    """A lesson's page on the site `out`: its cells run, and what it names leads to other pages."""

    is_site = True
    modules = [*LessonPage.modules, FOLDER / "site/cells.js", FOLDER / "site/passed.js"]

    def __init__(self, out: Path, lesson: Path):
        super().__init__(out / "lessons")
        self.out = out
        self.more = f"{read_text(FOLDER / 'site/editor.html')}<!-- made from {made_from(lesson)} -->"

    def prose(self, text: str) -> str:
        for command, link in links().items():
            text = text.replace(f"`python scripts/{command}`", link)
        return super().prose(text)

    def link(self, target: str) -> str | None:
        return target if target.endswith(".html") else super().link(target)

    def address(self, path: Path) -> str:
        if path.parent == catalogue.HERE and path.suffix == ".py":
            return f"../exercises/{catalogue.name_of(path)}.html"
        write_source(path, self.out)
        return f"../{quote(source_address(path))}"


@functools.cache
def links() -> dict[str, str]:
    """The commands that lessons name, and the links that stand in their place."""
    found = {f"lesson.py {number(path)}": f"[{path.stem}]({path.stem}.html)" for path in lessons()}
    found |= {f"exercise.py start {name}": f"[{name}](../exercises/{name}.html)" for name in catalogue.paths()}
    return found | {f"step.py --html {name}": f"[{name}, line by line](../debugger/{name}.html)" for name in STEPS}


def made_from(lesson: Path) -> str:
    """A fingerprint of what a lesson's page is made from: its text, our packages, and what draws pages."""
    digest, others = hashlib.sha256(lesson.read_bytes()), lessons()
    for folder in (*LIBRARY, "scripts/shared", "scripts/pages", "scripts/course"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in TRAVELS and path not in others:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> None:
    lesson, out = map(Path, argv or sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINIGRAD_CACHE"] = folder  # it trains all its models, as a browser does
        running = Running(lesson, ["--out-dir", folder])
        SiteLesson(out, lesson).write(lesson, record(running, read_cells(lesson)), exercises(lesson))


if __name__ == "__main__":
    command_line.run(main)
