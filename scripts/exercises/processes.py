"""Judging a file in a process with a time limit, so that an infinite loop ends, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .checks import Verdict

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
SECONDS = 20.0


def environment() -> dict[str, str]:
    """One thread each: arrays are small, and several may run side by side."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def judge_file(
    exercise: Path, path: Path, seed: int = 0, seconds: float = SECONDS, megabytes: int = 0, cwd: Path | None = None
) -> Verdict:
    """The verdict on a learner's file; never raises for what the file does."""
    command = [sys.executable, str(WORKER), str(exercise.resolve()), str(path.resolve()), str(seed), str(megabytes)]
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, timeout=seconds, cwd=cwd,
                              stdin=subprocess.DEVNULL)  # fmt: skip
    except subprocess.TimeoutExpired:
        sentence = f"no end after {seconds:g} seconds: is there a loop that never ends?"
        return Verdict("timeout", path.name, sentence, seconds=seconds)
    try:
        return Verdict(**json.loads(done.stdout))
    except (ValueError, TypeError):
        if b"MemoryError" in done.stderr:
            return Verdict("memory", path.name, f"it needs more than the {megabytes} MB that it may have")
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        sentence = f"the process that ran it broke off (exit status {done.returncode}){': ' + last if last else ''}"
        return Verdict("error", path.name, sentence)
