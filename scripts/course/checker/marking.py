"""For teachers: a folder of submissions in; marks, a summary of the class and feedback for each student out.

A submission is a subfolder or a zip, named after the student; in it, anywhere, are files named like the exercises
("01_softplus.py" or "softplus.py"). Every file runs in a process of its own (worker.py), and is judged outside of it
with the teacher's exercises and seed, never with what the submission brings along. One that breaks stops nothing.

Each verdict is added to results.jsonl at once, as a line: a file that only grows survives an interruption at any time.
The same command continues an interrupted run, and after new submissions judges only what has changed. At the end,
results.json has the verdicts that count.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gpt.files import write_text
from minigrad.backend import usable_cores
from scripts.shared import web_page
from scripts.shared.web_page import escaped

from . import catalogue, gradebook, processes
from .checks import Verdict
from .gradebook import Results, Weights, plain
from .processes import Limits

LARGEST_FILE = 2**18  # bytes; a solution is a page of text
LARGEST_ZIP = 2**25
SPARE = re.compile(r"(backup|old|copy|archive|trash|\.|__)", re.IGNORECASE)  # folders whose files come last

Entries = dict[PurePosixPath, Callable[[], Any]]  # the files of a submission, and for each what opens it


class File(NamedTuple):
    """One student's file for one exercise: its content, or why there is none."""

    student: str
    exercise: str
    content: bytes
    problem: str = ""


def mark(
    folder: Path, exercises: dict[str, Path], weights: Weights, out_dir: Path, seed: int, limits: Limits, jobs: int = 0
) -> int:
    """Mark every submission in `folder`. Returns 0: a wrong submission is not a failure of marking it.

    weights: of the exercises. jobs: number of files judged at the same time, by default one per core.
    """
    submissions = find_submissions(folder, out_dir)
    files = [file for submission in submissions for file in collect(submission, exercises)]
    out_dir.mkdir(parents=True, exist_ok=True)
    record = Record(out_dir / "results.jsonl", exercises, seed, limits)
    waiting = [file for file in files if record.fingerprint(file) not in record.verdicts]
    print(f"Marking {len(exercises)} exercises of {len(submissions)} students; {len(files) - len(waiting)} of "
          f"{len(files)} have a verdict already. If this is stopped, the same command continues from there.",
          flush=True)  # fmt: skip
    if not processes.is_confined():
        print("On this system a submission can reach your files and your network. Mark what you do not trust in a "
              "container, or under an account that has nothing to lose.", flush=True)  # fmt: skip
    judge_all(waiting, record, jobs or usable_cores())
    results: Results = {}
    for file in files:
        results.setdefault(file.student, {})[file.exercise] = record.verdicts[record.fingerprint(file)]
    write_marks(out_dir, results, exercises, weights)
    print(summary(results, exercises))
    print(f"{out_dir} has marks.csv, results.json, a page for each student, and gradescope/.")
    return 0


# --- what was handed in -----------------------------------------------------------------------------------------------


def find_submissions(folder: Path, out_dir: Path) -> list[Path]:
    """Subfolders and zips, sorted by name. Raises ValueError where there are none, or two for one student."""
    found = [path for path in sorted(folder.glob("*")) if path.is_dir() or path.suffix.lower() == ".zip"]
    found = [path for path in found if not path.name.startswith((".", "__")) and path.resolve() != out_dir.resolve()]
    if not found:
        raise ValueError(f"{folder} is not a folder with a subfolder or a zip for each student")
    names = [student(path) for path in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{folder} has two submissions of {min(twice)}, a folder and a zip: remove one of them")
    return found


def student(submission: Path) -> str:
    return submission.name if submission.is_dir() else submission.stem


def collect(submission: Path, exercises: dict[str, Path]) -> list[File]:
    """For each exercise the student's file."""
    files = []
    for name in exercises:
        try:
            files.append(File(student(submission), name, find_file(name, exercises, entries_of(submission))))
        except Exception as error:  # a zip may be damaged in any way
            files.append(File(student(submission), name, b"", f"nothing to mark: {error}"))
    return files


def entries_of(submission: Path) -> Entries:
    """The Python files in a submission. Links are left out: they lead elsewhere."""
    if submission.is_symlink():
        raise ValueError("it is a link")
    if submission.is_dir():
        files = [path for path in submission.rglob("*.py") if path.is_file() and not path.is_symlink()]
        return {PurePosixPath(path.relative_to(submission)): functools.partial(open, path, "rb") for path in files}
    if submission.stat().st_size > LARGEST_ZIP:
        raise ValueError(f"it is larger than {LARGEST_ZIP // 2**20} MB")
    archive = zipfile.ZipFile(submission)
    names = {PurePosixPath(entry.filename.replace("\\", "/")): entry for entry in archive.infolist()}
    return {name: functools.partial(archive.open, entry) for name, entry in names.items() if name.suffix == ".py"}


def find_file(exercise: str, exercises: dict[str, Path], entries: Entries) -> bytes:
    """The content of the file for an exercise. Raises ValueError where there is none, or anything for a damaged zip.

    Of several the one nearest to the top counts, and those in a backup folder come last.
    """
    full = exercises[exercise].name
    short = f"{exercise}.py"
    found = [entry for entry in entries if entry.name in (full, short)]
    if not found:
        known = {name for each, path in exercises.items() for name in (path.name, f"{each}.py")}
        close = difflib.get_close_matches(short, [entry.name for entry in entries if entry.name not in known], 1)
        advice = f", but there is {close[0]!r}: if that is it, rename it" if close else ""
        raise ValueError(f"there is no file {full} (or {short}){advice}")
    entry = min(found, key=lambda e: (any(map(SPARE.match, e.parts[:-1])), len(e.parts), e.name != full, e))
    with entries[entry]() as file:
        content: bytes = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{entry} is too large: at most {LARGEST_FILE:,} bytes")
    return content


# --- judging ----------------------------------------------------------------------------------------------------------


class Record:
    """results.jsonl: a line for each verdict, with a fingerprint of everything that it depends on.

    verdicts: by fingerprint, without those of before for which the checker failed.
    """

    def __init__(self, path: Path, exercises: dict[str, Path], seed: int, limits: Limits):
        ours = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]
        self.base = {name: hashlib.sha256(b"".join([file.read_bytes(), *ours])).hexdigest()
                     for name, file in exercises.items()}  # fmt: skip
        self.path, self.exercises, self.seed, self.limits = path, exercises, seed, limits
        self.verdicts: dict[str, Verdict] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # of the last line of a run that was killed
                entry = json.loads(line)
                if entry["verdict"]["status"] != "unjudged":
                    self.verdicts[entry["fingerprint"]] = Verdict(**entry["verdict"])

    def fingerprint(self, file: File) -> str:
        parts = [file.student, file.exercise, file.problem, self.base[file.exercise], self.seed, self.limits]
        return hashlib.sha256(json.dumps(parts).encode() + file.content).hexdigest()

    def add(self, file: File, verdict: Verdict) -> None:
        key = self.fingerprint(file)
        entry = {"student": file.student, "exercise": file.exercise, "fingerprint": key, "verdict": verdict.facts()}
        self.verdicts[key] = verdict
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(f"\n{json.dumps(entry)}")  # a line of its own, even if the one before was cut off


def judge_all(files: list[File], record: Record, jobs: int) -> None:
    """Judge files, some at the same time. One that exceeds its time is judged once more, with nothing beside it."""
    jobs = min(jobs, max(len(files), 1), 61)  # Windows cannot wait for more processes
    task = functools.partial(judge, record.exercises, record.seed, record.limits)
    alone: list[File] = []
    with ProcessPoolExecutor(jobs, initializer=end_with_parent) as pool:
        for done, (file, verdict) in enumerate(zip(files, pool.map(task, files)), 1):
            if verdict.status == "timeout":
                alone.append(file)
            else:
                record.add(file, verdict)
            if done % 20 == 0 or done == len(files):
                print(f"{done} of {len(files)} judged", flush=True)
        for i, file in enumerate(alone):
            print(f"out of time, judged again alone: {i + 1} of {len(alone)}", flush=True)
            record.add(file, pool.submit(task, file).result())


def judge(exercises: dict[str, Path], seed: int, limits: Limits, file: File) -> Verdict:
    """The verdict on one file. It runs in a process of the pool."""
    if file.problem:
        return Verdict("missing", file.exercise, file.problem)
    path = Path(f"{file.exercise}.py")
    verdict = processes.judge(load(exercises[file.exercise]), file.content, path, seed, limits, credit=True)
    return dataclasses.replace(verdict, shown=None)  # which cannot be sent to another process


load = functools.cache(catalogue.load)


def end_with_parent() -> None:
    """Prepare a process of the pool: it leaves Ctrl-C to its parent, and ends when its parent has ended."""

    def wait() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()


# --- what the teacher and the students read ---------------------------------------------------------------------------


def write_marks(out_dir: Path, results: Results, exercises: dict[str, Path], weights: Weights) -> None:
    """Write marks and verdicts, and each student's feedback: for Gradescope, which shows it at once, and as a page."""
    write_text(out_dir / "marks.csv", gradebook.marks_csv(results, weights))
    write_text(out_dir / "results.json", gradebook.results_json(results, weights))
    write_text(out_dir / "summary.txt", summary(results, exercises))
    assessed = {name for name, path in exercises.items() if load(path).is_assessment}
    for who, verdicts in results.items():
        at_once = verdicts | {name: gradebook.withheld(verdicts[name]) for name in assessed}
        write_text(out_dir / "gradescope" / who / "results.json", gradebook.gradescope_json(at_once, weights))
        later = verdicts | {name: dataclasses.replace(verdicts[name], details="", printed=[]) for name in assessed}
        write_text(out_dir / f"{who}.html", page(who, later, weights))


def summary(results: Results, exercises: dict[str, Path]) -> str:
    """The number of students who passed each exercise, and how often each diagnosis was given."""
    lines = []
    for name in exercises:
        verdicts = [of_student[name] for of_student in results.values()]
        lines.append(f"{name}: {sum(v.passed for v in verdicts)} of {len(verdicts)} passed")
        # Sentences that differ only in numbers are one diagnosis: the first of them is shown.
        sentences: dict[str, list[str]] = {}
        for verdict in verdicts:
            if not verdict.passed:
                sentence = " ".join(plain(verdict.diagnosis or verdict.status).split())
                sentences.setdefault(re.sub(r"-?\d[\d.e+-]*", "#", sentence), []).append(sentence)
        for same in sorted(sentences.values(), key=len, reverse=True):
            lines.append(f"  {len(same):4} of {len(verdicts)}: {same[0][:200]}")
    perfect = sum(all(v.passed for v in verdicts.values()) for verdicts in results.values())
    if unjudged := [f"{who}'s {name}" for who in results for name, v in results[who].items() if v.status == "unjudged"]:
        lines.append(f"NOT GRADED, as the checker itself failed: {', '.join(unjudged)}. Grade them by hand.")
    return "\n".join([*lines, f"{perfect} of {len(results)} students passed everything", ""])


def page(who: str, verdicts: dict[str, Verdict], weights: Weights) -> str:
    """A student's feedback, as a page. What comes from the submission is shown as text."""
    title = f"{plain(who)}: {sum(verdict.passed for verdict in verdicts.values())} of {len(verdicts)} passed"
    body = [f'<p class="kind">minigrad: feedback on exercises</p><h1>{escaped(title)}</h1>']
    for name, verdict in verdicts.items():
        body.append(f"<h2>{name}: {'passed' if verdict.passed else verdict.status}</h2>")
        for text in map(escaped, gradebook.feedback(verdict, weights[name])):
            body.append(f'<pre class="output">{text}</pre>' if "\n" in text else f"<p>{text}</p>")
    return web_page.page(title, "\n".join(body), "report")
