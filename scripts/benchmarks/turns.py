"""The sides take turns, each in a process of its own: all of them see the same machine, and each has its own memory.

The two ends of such a process: `take_turns` tells it when to take a step, and `main` is what runs in it. Each line that
it reads on standard input, "step" or "report", it answers with a line of JSON.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt.memory_check import peak_memory, private_memory
from gpt.training.data_parallel import ALONE, Team
from minigrad.backend import usable_cores

Figures = dict[str, Any]
PAUSE = 0.5  # seconds before each step, in which the idle threads of the other side stop spinning
# side -> the file with its jobs, and what it needs; all other sides are ours
PYTORCH = ("pytorch", "torch", "transformers")
OPPONENTS = {
    "torch": PYTORCH,
    "torch.compile": PYTORCH,
    "torch bfloat16": PYTORCH,
    "PEFT": (*PYTORCH, "peft"),
    "llama.cpp": ("llama_cpp", "llama_cpp"),
}


def is_ours(side: str) -> bool:
    """Whether this is a side of ours, and not the textbook."""
    return side not in OPPONENTS and side != "textbook"


def is_installed(side: str) -> bool:
    """Whether the packages are there that this side needs."""
    _, *packages = OPPONENTS.get(side, ("ours",))
    return all(importlib.util.find_spec(name) for name in packages)


# --- the end that tells -----------------------------------------------------------------------------------------------


class Side:
    """A process in which a side does a job."""

    def __init__(self, side: str, job: str, arguments: Sequence[Any]):
        threads = {f"{library}_NUM_THREADS": str(usable_cores()) for library in ("OMP", "MKL", "OPENBLAS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmarks.turns", json.dumps([side, job, *arguments])],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def ask(self, command: str) -> Figures:
        """Send a command, and wait for its answer. Raises RuntimeError if the process died."""
        pipes: Any = self.process
        with contextlib.suppress(BrokenPipeError):
            print(command, file=pipes.stdin, flush=True)
        line = pipes.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker died (exit code {self.process.wait()}); its output is above")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()  # closes its input, which ends it


def take_turns(sides: Sequence[str], job: str, arguments: Sequence[Any], steps: int, warmup: int) -> Figures:
    """By side, if it is installed: the seconds of each step, their median, and its report."""
    workers = {side: Side(side, job, arguments) for side in sides if is_installed(side)}
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    for worker in workers.values():
        for _ in range(warmup):
            worker.ask("step")
    for _ in range(steps):
        for side, worker in workers.items():
            time.sleep(PAUSE)
            if job == "train":  # in a run, steps follow each other; after a pause, the caches hold other data
                worker.ask("step")
            seconds[side].append(worker.ask("step")["seconds"])
    figures = {}
    for side, worker in workers.items():
        times = {"seconds": statistics.median(seconds[side]), "all_seconds": seconds[side]}
        figures[side] = times | worker.ask("report")
        worker.close()
    return figures


# --- the end that is told ---------------------------------------------------------------------------------------------


def main() -> None:
    side, job, *arguments = json.loads(sys.argv[1])
    name, *_ = OPPONENTS.get(side, ("ours",))
    jobs = importlib.import_module(f"scripts.benchmarks.{name}")
    if name == "ours":
        jobs.select_kernels(side)
    memory = {}

    def steps(team: Team = ALONE) -> Iterator[None]:
        """What a job loops over: one step for each command. All processes of a team obey those of process 0."""
        at_first = peak_memory()
        while (command := team.once(sys.stdin.readline)) == "step\n":
            started = time.perf_counter()
            yield
            if team.rank == 0:
                print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
        if command != "report\n":
            os._exit(0)  # nobody asks any more
        memory["peak_bytes"] = peak_memory()
        memory["resident_bytes"] = resident_memory()
        memory["job_bytes"] = memory["peak_bytes"] - at_first
        others = sum(team.gather(private_memory())[1:])  # what the other processes have for themselves
        for kind in memory:
            memory[kind] += others

    getattr(jobs, job)(steps, side, *arguments)
    print(json.dumps(memory | jobs.rates(side)), flush=True)
    os._exit(0)  # no waiting for threads


def resident_memory() -> int:
    """The memory that this process has now, in bytes; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory()
    return int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
