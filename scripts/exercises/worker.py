"""Judges one file, in a process of its own, and prints the verdict as JSON: what it runs may do anything.

python scripts/exercises/worker.py EXERCISE_FILE LEARNERS_FILE SEED MEMORY_MB
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.exercises import catalogue, judging, source  # noqa: E402
from scripts.exercises.checks import Verdict  # noqa: E402


def verdict_on(exercise: catalogue.Exercise, path: Path, seed: int, guard: bool = True) -> Verdict:
    """Read, run and check a learner's file; `guard` makes the library's own answer refuse to run, for good."""
    text, refusal = source.read(path)
    if refusal is not None:
        return refusal
    if guard:
        source.refuse(exercise.library_objects().values())
    definitions, refusal = source.define(text, path)
    if refusal is not None:
        return refusal
    return judging.judge(exercise.checks, definitions, text, str(path), seed)


def limit_memory(megabytes: int) -> None:
    """Refuse more memory than that, where the system can (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    if megabytes:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))


def main() -> None:
    exercise_path, path, seed, megabytes = sys.argv[1:]
    limit_memory(int(megabytes))
    answers = os.dup(1)  # what the file prints goes to nobody, whichever way it prints
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            verdict = verdict_on(catalogue.load(Path(exercise_path)), Path(path), int(seed))
    except MemoryError:
        verdict = Verdict("memory", Path(path).name, f"it needs more than the {megabytes} MB that it may have")
    os.write(answers, json.dumps(dataclasses.asdict(verdict)).encode())
    os._exit(0)  # no waiting for threads that the file may have started


if __name__ == "__main__":
    main()
