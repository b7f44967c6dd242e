"""The texts that a learner reads in the terminal: a verdict, the list of exercises, the start of one."""

import shutil
import textwrap
from pathlib import Path

from gpt.console import printable

from .checks import Exercise, Verdict
from .workspace import Workspace

HEADINGS = {
    "unfinished": "not finished",
    "wrong": "not right yet",
    "error": "an exception was raised",
    "syntax": "cannot be read",
    "refused": "not yours",
    "timeout": "does not end",
    "memory": "too much memory",
    "unjudged": "not judged, through no fault of yours",
}


def verdict_text(name: str, verdict: Verdict, workspace: Workspace) -> str:
    """The verdict: what is wrong, in which line, and the smallest case that shows it; or what comes next."""
    file, following = workspace.file(name), workspace.following(name)
    if verdict.passed:
        after = f"next: {following}, {workspace.exercise(following).title}" if following else "That was the last one."
        return f"{name}: correct in all {verdict.cases} cases tried.\n{after}"
    lines = [f"{name}: {HEADINGS[verdict.status]}  ({verdict.where})", ""]
    width = shutil.get_terminal_size((112, 24)).columns - 2
    lines += textwrap.wrap(verdict.diagnosis, max(width, 40), initial_indent="  ", subsequent_indent="  ")
    blocks = {f"{file}, line {verdict.line}": verdict.code, "The smallest case that fails": verdict.details,
              "In this case it prints": "\n".join(verdict.printed)}  # fmt: skip
    for heading, block in blocks.items():
        lines += ["", f"  {heading}:", textwrap.indent(block, "    ")] if block else []
    return printable("\n".join(lines))


def list_text(workspace: Workspace) -> str:
    """All exercises, [x] where passed, > at the current one, with number, minutes, difficulty and the hints used."""
    current, passed = workspace.current(), set(workspace.passed)
    width = max(map(len, workspace.paths))
    rows = []
    for number, name in enumerate(workspace.paths, 1):
        exercise = workspace.exercise(name)
        mark, arrow = "x" if name in passed else " ", ">" if name == current else " "
        hints = workspace.state["hints"].get(name, 0)
        used = f" ({hints} hint{'s' * (hints > 1)})" if hints else ""
        rows.append(f"{arrow} [{mark}] {number:2} {name:{width}}  {exercise.effort:14}  {exercise.title}{used}")
    return "\n".join([*rows, "", progress_text(len(passed), len(workspace.paths))])


def pacing_text(weeks: list[dict[str, int]], hours: int) -> str:
    """The table of `catalogue.weeks`."""
    minutes = [sum(week.values()) for week in weeks]
    rows = [f"{i:4}  {minutes[i - 1]:7}  {', '.join(week)}" for i, week in enumerate(weeks, 1)]
    said = f"{sum(minutes)} minutes by the exercises' own estimates, in weeks of at most {hours} hours"
    return "\n".join(["week  minutes  exercises", *rows, "", said])


def progress_text(done: int, total: int) -> str:
    """
    >>> progress_text(3, 12)
    '[#######.......................] 3 of 12 passed'
    """
    filled = 30 * done // total
    return f"[{'#' * filled}{'.' * (30 - filled)}] {done} of {total} passed"


def start_text(exercise: Exercise, file: Path) -> str:
    """What the exercise is, where its file is, and which lessons it belongs to."""
    from scripts.course.lessons.cells import title
    from scripts.course.lessons.concepts import lessons_of, number
    from scripts.shared.command_line import from_here

    effort = f" ({exercise.effort})" if exercise.effort else ""
    lessons = lessons_of(exercise.name)
    about = f"{exercise.name}: {exercise.title}{effort}\nThe exercise is in {file}: read it, and complete its TODO."
    lines = [f"lesson {number(each)}, {title(each)}: python scripts/lesson.py {number(each)}" for each in lessons]
    return "\n".join([about, *map(from_here, lines)])
