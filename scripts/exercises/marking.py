"""For teachers: a folder of submissions in, marks.csv and a feedback page per student out.

A submission is a subfolder or a zip, named after the student; in it, anywhere, are files named like the exercises
("01_softplus.py" or "softplus.py"). Every file is judged in a process of its own with limits for time and memory, with
the teacher's exercises and seed, never with what the submission brings along. One that breaks stops nothing.

This is no sandbox: a submission runs as you, and can read your files and use your network. Mark what you do not trust
in a container or under an account that has nothing to lose.
"""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gpt.console import printable, progress_bar
from gpt.files import write_text
from minigrad.backend import usable_cores

from . import processes
from .checks import Verdict

LARGEST_FILE = 2**20  # bytes; a solution is a page of text
NO_SANDBOX = (
    "Submissions were run as ordinary programs, with limits for time and memory only. This is no sandbox: mark "
    "what you "
    "do not trust in a container or under an account that has nothing to lose."
)


class Limits(NamedTuple):
    """Of one file: seconds, megabytes; jobs: how many at the same time (None: one per core)."""

    seconds: float = 20
    megabytes: int = 2048
    jobs: int | None = None


def mark(folder: Path, exercises: dict[str, Path], out_dir: Path, seed: int, limits: Limits) -> int:
    """Mark every submission in `folder`. Returns 0: that submissions are wrong is no failure of marking them."""
    submissions = find_submissions(folder, out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Verdict]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        jobs = []
        for number, submission in enumerate(submissions):
            files, problem = unpack(submission, exercises, Path(temporary) / str(number))
            jobs += [(submission, name, files.get(name), problem) for name in exercises]

        def judge(job: tuple[Path, str, Path | None, str]) -> Verdict:
            submission, name, file, problem = job
            if file is None:
                return Verdict("missing", name, problem or f"there is no file {exercises[name].name} (or {name}.py)")
            return processes.judge_file(exercises[name], file, seed, limits.seconds, limits.megabytes, cwd=file.parent)

        workers = limits.jobs or usable_cores()
        with ThreadPoolExecutor(workers) as pool, progress_bar(len(jobs), "marking", "file") as bar:
            for (submission, name, *_), verdict in zip(jobs, pool.map(judge, jobs), strict=True):
                results.setdefault(student(submission), {})[name] = verdict
                bar.update(1)
    write_marks(results, exercises, out_dir)
    for who, verdicts in results.items():
        write_text(out_dir / f"{who}.md", page(who, verdicts, seed))
    right = sum(all(v.passed for v in verdicts.values()) for verdicts in results.values())
    print(f"{len(results)} submissions, {right} of them right in everything: {out_dir / 'marks.csv'}, a page for each")
    print(NO_SANDBOX)
    return 0


def find_submissions(folder: Path, out_dir: Path) -> list[Path]:
    """Subfolders and zips, sorted by name. Raises ValueError where there are none, or two for one student."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: mark needs one with a subfolder or a zip for each student")
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "__"))]
    found = [path for path in entries if path.is_dir() or path.suffix.lower() == ".zip"]
    found = [path for path in found if path.resolve() != out_dir.resolve()]
    if not found:
        raise ValueError(f"{folder} has no subfolders and no zips, so there is nothing to mark")
    names = [student(path) for path in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{folder} has two submissions of {name}, a folder and a zip: remove one of them")
    return found


def student(submission: Path) -> str:
    return submission.name if submission.is_dir() else submission.stem


def unpack(submission: Path, exercises: dict[str, Path], target: Path) -> tuple[dict[str, Path], str]:
    """Copy the files that are asked for, and only them, each into a folder of its own; by exercise, and a problem."""
    wanted = {file: name for name, path in exercises.items() for file in (path.name, f"{name}.py")}
    files: dict[str, Path] = {}

    def keep(file_name: str, content: bytes) -> None:
        place = target / wanted[file_name]
        place.mkdir(parents=True, exist_ok=True)
        files[wanted[file_name]] = place / file_name
        files[wanted[file_name]].write_bytes(content)

    try:
        if submission.is_dir():
            for path in sorted(submission.rglob("*.py")):
                if path.name in wanted and path.is_file() and path.stat().st_size <= LARGEST_FILE:
                    keep(path.name, path.read_bytes())
        else:
            with zipfile.ZipFile(submission) as archive:
                for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                    name = Path(entry.filename).name
                    if name in wanted and "__MACOSX" not in entry.filename and entry.file_size <= LARGEST_FILE:
                        keep(name, archive.read(entry))
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        shutil.rmtree(target, ignore_errors=True)
        return {}, f"the submission cannot be opened: {error}"
    return files, ""


def write_marks(results: dict[str, dict[str, Verdict]], exercises: dict[str, Path], out_dir: Path) -> None:
    """One row per student: 1 or 0 for each exercise, their sum, and what is wrong."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["student", *exercises, "passed", "of", *(f"{name}_verdict" for name in exercises)])
    for who, verdicts in results.items():
        points = [int(verdicts[name].passed) for name in exercises]
        reasons = [_cell(verdicts[name]) for name in exercises]
        writer.writerow([_harmless(who), *points, sum(points), len(points), *reasons])
    write_text(out_dir / "marks.csv", table.getvalue())


def _cell(verdict: Verdict) -> str:
    text = verdict.status if verdict.passed else f"{verdict.status}: {verdict.diagnosis}"
    return _harmless(printable(" ".join(text.split())))


def _harmless(text: str) -> str:
    """A spreadsheet takes a cell that begins with one of these for a formula."""
    return "'" + text if text[:1] in "=+-@" else text


def page(who: str, verdicts: dict[str, Verdict], seed: int) -> str:
    """A student's feedback, in Markdown."""
    passed = sum(verdict.passed for verdict in verdicts.values())
    lines = [f"# {printable(who)}: {passed} of {len(verdicts)} passed", ""]
    for name, verdict in verdicts.items():
        lines += [f"## {name}: {'passed' if verdict.passed else verdict.status}", ""]
        if verdict.passed:
            lines += [f"Right in all {verdict.cases} cases.", ""]
            continue
        lines += [printable(f"{verdict.where}: {verdict.diagnosis}"), ""]
        if verdict.line is not None:
            lines += ["```python", f"{printable(verdict.code)}  # line {verdict.line}", "```", ""]
        if verdict.details:
            lines += ["A small case that fails:", "", "```", printable(verdict.details), "```", ""]
    lines += ["---", f"Marked with seed {seed}: the same file gets the same verdict. {NO_SANDBOX}", ""]
    return "\n".join(lines)
