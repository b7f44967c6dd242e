"""Two or more worker processes that take turns, so all of them see the same machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigrad.backend import usable_cores

PAUSE = 0.5  # seconds before each step, in which the idle threads of the other side stop spinning


def opponent() -> list[str]:
    """["torch"] where PyTorch and transformers are installed."""
    return ["torch"] if installed("torch", "transformers") else []


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(name) for name in packages)


class Side:
    """A worker process."""

    def __init__(self, side: str, kind: str, arguments: Sequence[Any]):
        threads = {f"{library}_NUM_THREADS": str(usable_cores()) for library in ("OMP", "MKL", "OPENBLAS")}
        environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "scripts.benchmarks.side", side, kind, *map(str, arguments)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, **pipes)

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command, wait for its answer. Raises RuntimeError if the worker died."""
        commands, answers = self.process.stdin, self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(command, file=commands, flush=True)
        line = answers.readline() if answers is not None else ""
        if not line:
            raise RuntimeError(f"a worker died (exit code {self.process.wait()}); its output is above")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()  # closes its input, which ends it


def compare(sides: list[str], kind: str, arguments: Sequence[Any], steps: int, warmup: int = 2) -> dict[str, Any]:
    """By side: the median of `steps` steps, taken in turns after `warmup`; and what `side.report` says."""
    workers = {side: Side(side, kind, arguments) for side in sides}
    for worker in workers.values():
        for _ in range(warmup):
            worker.ask("step")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(steps):
        for side, worker in workers.items():
            time.sleep(PAUSE)
            if kind == "train":  # in a run, steps follow each other; after a pause, the caches hold other data
                worker.ask("step")
            seconds[side].append(worker.ask("step")["seconds"])
    results = {}
    for side, worker in workers.items():
        times = {"seconds": statistics.median(seconds[side]), "all_seconds": seconds[side]}
        results[side] = times | worker.ask("report")
        worker.close()
    return results
