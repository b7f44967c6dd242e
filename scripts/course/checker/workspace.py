"""The learner's folder: one file per exercise, and progress.json. Nothing of the learner's is ever written over."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.console import silenced
from gpt.files import sha256_of, write_text
from gpt.training.folder_lock import locked

from ..progress import read_progress
from . import catalogue, processes
from .checks import Exercise, Verdict


class Workspace:
    """A folder with a learner's files, and what was passed there.

    folder: made when the first file is. paths: the files of the exercises by name, in the order of the course.
    """

    def __init__(self, folder: Path, paths: dict[str, Path], seed: int = 0):
        self.folder, self.paths, self.seed = folder, paths, seed
        self.record = folder / "progress.json"

    @property
    def state(self) -> dict[str, Any]:
        """progress.json as it is at this moment: another terminal may have written to it."""
        return read_progress(self.record)

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """The state, to be changed in the block. Meanwhile no other process can change it, so nothing gets lost."""
        with silenced(), locked(self.folder):
            state = self.state
            yield state
            write_text(self.record, json.dumps(state, indent=1) + "\n")

    def exercise(self, name: str) -> Exercise:
        return catalogue.load(catalogue.path_of(name, self.paths))

    def file(self, name: str) -> Path:
        return self.folder / catalogue.path_of(name, self.paths).name

    @property
    def passed(self) -> list[str]:
        """The exercises that have passed with the file as it is now, in the order of the course."""
        return [name for name in self.paths if self.has_passed(name)]

    def has_passed(self, name: str) -> bool:
        file = self.file(name)
        return file.exists() and self.state["passed"].get(name) == sha256_of(file)

    def passed_text(self, name: str) -> str:
        """The text of a file that has passed. Raises ValueError, with what to do next, for any other."""
        if not self.has_passed(name):
            command = "check" if self.file(name).exists() else "start"
            terminal = f"in a terminal: python scripts/exercise.py {command} {name}"
            raise ValueError(f"{name} has not passed as it is now: next, {command} it ({terminal})")
        return self.file(name).read_text(encoding="utf-8-sig")

    def current(self) -> str | None:
        """The exercise that was started last, or the first one that is not passed; None at the end of the course."""
        names = (self.state["current"], *self.paths)
        return next((name for name in names if name in self.paths and not self.has_passed(name)), None)

    def following(self, name: str) -> str | None:
        """The next exercise that is not passed, after this one and then from the beginning; None if all are."""
        names = list(self.paths)
        place = names.index(name) + 1
        return next((n for n in names[place:] + names[:place] if not self.has_passed(n)), None)

    def start(self, name: str) -> Path:
        """Make an exercise the current one, and write its stub unless there is a file already."""
        file = self.file(name)
        if not file.exists():
            write_text(file, self.exercise(name).stub)
        with self.changing() as state:
            state["current"] = name
        return file

    def check(self, name: str, debug: bool = False) -> Verdict:
        """Judge the file as it is now, and remember whether it passes. debug: then see `processes.debug`."""
        file, exercise = self.start(name).resolve(), self.exercise(name)
        content = file.read_bytes()
        verdict = processes.judge(exercise, content, file, self.seed)
        if debug:
            processes.debug(exercise, verdict, content, file)
        with self.changing() as state:
            # Nothing is known if the checker failed, or if another terminal has meanwhile passed a newer file.
            if verdict.status != "unjudged" and not (self.has_passed(name) and file.read_bytes() != content):
                state["passed"].pop(name, None)
                state["passed"] |= {name: hashlib.sha256(content).hexdigest()} if verdict.passed else {}
        return verdict

    def withheld(self, name: str) -> str:
        """Why a right solution is not shown, as text or beside the learner's; "" if it is. All commands and pages ask.

        It is shown once the file passes or all three hints have been read; never in an assessment, nor in a folder that
        a teacher handed out with `stubs --no-solutions`. The library is open, so this is a courtesy and not a lock.
        """
        state = self.state
        if self.exercise(name).is_assessment:
            return f"{name} is graded: its solution is not shown"
        if not state["solutions"]:
            return "solutions are switched off for this folder"
        is_open = self.has_passed(name) or state["hints"].get(name, 0) >= 3
        return "" if is_open else "a right solution is shown once yours passes, or after the third hint"

    def hint(self, name: str) -> tuple[int, str]:
        """The next of the three hints, and its number; the last one again after that. An assessment has none.

        The third one is the line itself: it is not given where solutions are switched off.
        """
        exercise = self.exercise(name)
        if not exercise.hints:
            raise ValueError(f"there are no hints for {name}: assessments have none")
        with self.changing() as state:
            level = min(state["hints"].get(name, 0) + 1, 3)
            if level == 3 and not state["solutions"]:
                raise ValueError("the third hint is the line itself, and solutions are switched off for this folder")
            state["hints"][name] = level
        return level, exercise.hints[level - 1]

    def reset(self, name: str) -> Path | None:
        """Write the stub again. Returns the path under which the old file is kept beside it, if there was one."""
        file = self.file(name)
        kept = None
        with self.changing() as state:
            if file.exists():
                numbers = (n for n in range(1, 10_000) if not file.with_suffix(f".old{n}.txt").exists())
                kept = file.replace(file.with_suffix(f".old{next(numbers)}.txt"))
            state["passed"].pop(name, None)
            state["hints"].pop(name, None)
        self.start(name)
        return kept
