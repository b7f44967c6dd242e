"""Run the lessons of the course: list them, run one or all, or find where a concept is taught."""

import argparse
import difflib
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from start import command_line

from gpt.console import quoted
from gpt.files import read_text, write_text
from scripts.course.lessons.cells import ANSWER, ONE_PAGE, QUESTION, Cell, Running, lessons, read_cells, title
from scripts.course.lessons.concepts import DONE, Concept, chapter, concepts, exercises, number, passed_exercises
from scripts.pages.lesson_notebook import write_notebook
from scripts.pages.lesson_page import record, write_page

EXAMPLES = """examples:
  python scripts/lesson.py               list lessons and exercises in order, with what is done and what is next
  python scripts/lesson.py 421           read a lesson while it runs (its pictures: runs/lessons/421_raw_attention)
  python scripts/lesson.py all           all lessons, one after the other
  python scripts/lesson.py 421 --seed 7  the same with other random numbers: what it concludes must still hold
  python scripts/lesson.py 421 --html    as a page with code, output and pictures: runs/lessons/421_raw_attention.html
  python scripts/lesson.py all --html    all pages, and an index
  python scripts/lesson.py 421 --notebook
                                         as a Jupyter notebook to work in (needs nbformat)
  python scripts/lesson.py all --answers the questions of all lessons and their answers, as Markdown, for teachers
  python scripts/lesson.py find cache    where the KV cache is taught, implemented, tested and practiced
"""
WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("what", nargs="?", default="path", help="path, all, find, or a lesson's number or name")
    add("word", nargs="*", help="after find: the concept to look for")
    add("--out-dir", default="runs/lessons", help="folder for the lessons' pictures")
    add("--html", action="store_true", help="write a page that can be read offline")
    add("--notebook", action="store_true", help="write a notebook; an edited one is kept")
    add("--answers", action="store_true", help="print the questions and their answers; runs nothing")
    add("--measure", action="store_true", help="repeat the measurements that take minutes")
    command_line.add_shared(parser, "seed", seed=0)
    arguments = parser.parse_args(argv)
    if arguments.word and arguments.what != "find":
        parser.error(f"{arguments.what} takes no further words; did you mean: find {' '.join(arguments.word)}")
    if arguments.what in ("path", "find"):
        parser.refuse(("html", "notebook", "answers", "measure", "seed"), "needs a lesson, or all")
    if arguments.what == "path":
        show_path(Path(arguments.out_dir))
        return 0
    if arguments.what == "find":
        return find(" ".join(arguments.word))
    if arguments.answers:
        parser.refuse(parser.given.keys() - {"what", "answers"}, "does not go with --answers")
        asked = lessons() if arguments.what == "all" else [lesson_called(arguments.what)]
        print("\n\n".join(map(answers, asked)))
        return 0
    if arguments.what != "all":
        one(lesson_called(arguments.what), arguments)
        return 0
    flags = [f"--{name}" for name in ("html", "notebook") if getattr(arguments, name)]
    options = ["--out-dir", arguments.out_dir, "--seed", str(arguments.seed), *flags]
    for lesson in lessons():  # each in a process of its own
        measure = ["--measure"] * (arguments.measure and is_measured(lesson))
        if code := subprocess.run([sys.executable, __file__, lesson.stem, *options, *measure]).returncode:
            print(f"{lesson.stem} ended with status {code}", file=sys.stderr)
            return code
    return 0


def lesson_called(name: str) -> Path:
    """The lesson whose number or name starts like that. Raises ValueError, with suggestions, for none or several."""
    wanted = name.replace(".", "").removesuffix("py").lower()
    stems = {path.stem: path for path in (ONE_PAGE, *lessons())}
    found = [stem for stem in stems if stem.startswith(f"{wanted}_")] or [s for s in stems if s.startswith(wanted)]
    if len(found) != 1:
        near = found or [stem for stem in stems if wanted in stem.partition("_")[2]]
        if not found and wanted.isdigit() and 1 <= int(wanted) <= len(lessons()):
            near = [lessons()[int(wanted) - 1].stem]  # the first one, the second one, ...
        near = near or difflib.get_close_matches(wanted, [*stems, *(stem.partition("_")[2] for stem in stems)])
        meant = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(stems)}"
        raise ValueError(f"{name!r} is {'more than one lesson' if found else 'not a lesson'}: {meant}")
    return stems[found[0]]


def answers(lesson: Path) -> str:
    """The lesson's questions, each followed by its answer, as Markdown."""
    paragraphs = [part for cell in read_cells(lesson) if cell.kind == "prose" for part in cell.paragraphs()]
    shown = [re.sub(r"^\w+:", r"**\g<0>**", part) for part in paragraphs if part.startswith((QUESTION, ANSWER))]
    return "\n\n".join([f"# {number(lesson)} {title(lesson)}", *shown])


def is_measured(lesson: Path) -> bool:
    """Whether the lesson shows long measurements, which --measure repeats."""
    return "lesson.measured(" in read_text(lesson)


def one(lesson: Path, arguments: argparse.Namespace) -> None:
    """Read a lesson, or write it as a page or a notebook."""
    if arguments.measure and not is_measured(lesson):
        raise ValueError(f"{lesson.stem} has no long measurements to repeat: leave out --measure")
    cells, out_dir = read_cells(lesson), Path(arguments.out_dir)
    if arguments.notebook:
        notebook = out_dir / f"{lesson.stem}.ipynb"
        write_notebook(cells, notebook)
        print(f"notebook: {notebook.as_posix()}")
        if not arguments.html:
            return
    folder = out_dir / lesson.stem
    options = ["--out-dir", str(folder), "--seed", str(arguments.seed), *["--measure"] * arguments.measure]
    running = Running(lesson, options)
    if arguments.html:
        print(f"running {lesson.stem} ...", flush=True)
        page = write_page(lesson, record(running, cells), exercises(lesson), out_dir)
        print(f"page: {page.as_posix()}")
    else:
        show(running, cells)
        write_text(folder / DONE, "This lesson was read to its end.\n")


def show(running: Running, cells: list[Cell]) -> None:
    """Print a lesson's prose, and its code with the numbers of its lines, each statement followed by its output.

    In a terminal, wait for the reader before each section, and for a guess after each question.
    """
    waits = sys.stdin.isatty() and sys.stdout.isatty()
    columns = shutil.get_terminal_size((127, 24)).columns  # lines of code have up to 120, behind their numbers
    for cell in cells:
        if cell.kind == "code":
            print()
            value = None
            for statement in cell.statements():
                for place, line in enumerate(statement.text.splitlines(), statement.line):
                    print("\n".join(numbered(place, line, columns)), flush=True)
                value = running.execute(statement)
            if value is not None:
                print(value)
            continue
        for paragraph in cell.paragraphs():
            if waits and paragraph.startswith("## "):
                input("\nPress Enter to continue ")
            print("\n" + wrapped(paragraph, min(columns, 100)), flush=True)
            if waits and paragraph.startswith(QUESTION):
                input("\nPress Enter to see what happens ")


def wrapped(paragraph: str, columns: int) -> str:
    """A paragraph of Markdown for a terminal: a heading underlined, text in lines of at most so many columns.

    Tables and formulas keep their lines.
    """
    for sharps, line in (("# ", "="), ("## ", "-")):
        if paragraph.startswith(sharps):
            lines = textwrap.wrap(paragraph.removeprefix(sharps), columns)
            return "\n".join([*lines, line * max(map(len, lines))])
    parts = re.split(r"\n(?=[-*>|] |\d+\. |\||    )", paragraph)
    for i, part in enumerate(parts):
        if not part.startswith(("|", "    ")):
            mark = re.match(r"[-*>] |\d+\. |", part)
            rest = " " * len(mark[0] if mark else "")
            parts[i] = textwrap.fill(" ".join(part.split()), columns, subsequent_indent=rest, **WHOLE_WORDS)
    return "\n".join(parts)


def numbered(place: int, line: str, columns: int) -> list[str]:
    """A line of code behind its number; what does not fit goes on below it, indented."""
    rest = " " * (len(line) - len(line.lstrip()) + 4)
    parts = textwrap.wrap(line, max(columns - 7, 20), subsequent_indent=rest, **WHOLE_WORDS) or [""]
    return [f"{'' if i else place:4} | {part}".rstrip() for i, part in enumerate(parts)]


def show_path(out_dir: Path) -> None:
    """Lessons with their exercises; [x] is done, > is next."""
    next_one, heading = None, ""
    shown: list[str] = []
    passed = passed_exercises()
    for lesson in lessons():
        if chapter(lesson) != heading:
            heading = chapter(lesson)
            print(f"\n{heading}")
        done = (out_dir / lesson.stem / DONE).exists()
        is_next = not done and next_one is None
        next_one = lesson if is_next else next_one
        print(f" {'>' if is_next else ' '} [{'x' if done else ' '}] {number(lesson)}  {title(lesson)}")
        new = [name for name in exercises(lesson) if name not in shown]
        shown += new
        if new:
            print(f"           exercises: {', '.join(f'{name} [x]' if name in passed else name for name in new)}")
    if next_one:
        folder = "" if out_dir == Path("runs/lessons") else f" --out-dir {quoted(out_dir)}"
        print(command_line.from_here(f"\nnext: python scripts/lesson.py {number(next_one)}{folder}"))
    else:
        print("\nyou have read all lessons")
    print(command_line.from_here("exercises: python scripts/exercise.py start NAME"))


def find(word: str) -> int:
    """Print where a concept is taught, implemented, tested and practiced; returns 1 if nothing is found."""
    if not _squeezed(word):
        raise ValueError("find needs a word, for example: python scripts/lesson.py find cache")
    found = []
    for row in concepts():
        names = [row.name, row.exercise, *(place.name for place in row.code)]
        if any(_squeezed(word) in _squeezed(name) for name in names):  # "kv cache" is also in KVCache and kv_cache
            found.append(row)
            show_concept(row)
    places = [
        f"scripts/course/lessons/{lesson.name}:{number}"
        for lesson in lessons()
        for number, line in enumerate(read_text(lesson).splitlines(), 1)
        if line.startswith(("# %%", "# ## ", '"""')) and word.lower() in line.lower()
    ]
    for place in places:
        print(f"in a lesson: {place}")
    if not found and not places:
        known = {part for row in concepts() for part in re.findall(r"\w+", row.name.lower())}
        near = [match for part in word.lower().split() for match in difflib.get_close_matches(part, known, 2)]
        meant = f": did you mean {' or '.join(near)}?" if near else ""
        print(f"{word!r} is not in the concept table or the lessons' headings{meant}", file=sys.stderr)
        return 1
    return 0


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_]", "", name.lower())


def show_concept(row: Concept) -> None:
    print(row.name)
    print(f"  lesson    scripts/course/lessons/{row.lesson}")
    for kind, places in (("code", row.code), ("test", row.tests)):
        for place in places:
            print(f"  {kind:8}  {place.path}:{place.line() or 1}  {place.name}")
    if row.exercise:
        print(command_line.from_here(f"  exercise  python scripts/exercise.py start {row.exercise}"))


if __name__ == "__main__":
    command_line.run(main)
