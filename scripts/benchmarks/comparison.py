"""Rows: which sides do which job, and what is printed of it."""

import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.benchmarks.turns import Figures, is_ours, take_turns

BASES = ("fast", "float32", "torch", "torch.compile", "torch bfloat16", "PEFT")  # sides that others are compared with


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is timed, and against what.

    job, arguments: a function of ours.py, pytorch.py and llama_cpp.py. sides: each is compared with those after it that
    are in BASES. textbook: is the textbook's form measured as well? tokens: that a step generates. flops: of a step's
    matrix products. read_bytes: of the weights that a step must read. memory: the kind that is compared, "peak" or
    "resident". prepare: writes what the job reads into a folder, which becomes the job's first argument.
    """

    job: str
    arguments: tuple[Any, ...]
    sides: tuple[str, ...]
    textbook: bool = False
    tokens: int = 0
    flops: float = 0
    read_bytes: float = 0
    memory: str = "peak"
    warmup: int = 2
    prepare: Callable[[Path], None] | None = None

    def measure(self, steps: int) -> Figures:
        """Each side's figures, and the seconds that this machine needs at least."""
        arguments = self.arguments
        with tempfile.TemporaryDirectory() as folder:
            if self.prepare is not None:
                self.prepare(Path(folder))
                arguments = (folder, *arguments)
            sides = take_turns(self.sides, self.job, arguments, steps, self.warmup)
        *_, rates = (figures for side, figures in sides.items() if is_ours(side))
        floor = self.flops / rates["product_flops"] + self.read_bytes / rates["read_bytes_per_second"]
        if self.textbook:  # by itself: one more model in memory would slow down the others
            sides |= take_turns(["textbook"], self.job, arguments, min(steps, 3), warmup=1)
        return {"sides": sides, "floor_seconds": floor}

    def lines(self, row: Figures) -> list[str]:
        """Return the lines to print."""
        sides = row["sides"]
        lines = [self.side_line(side, figures) for side, figures in sides.items()]
        for one, other in itertools.combinations(sides, 2):
            if other in BASES:
                lines.append(f"{one} beside {other}: {self.ratios(sides[one], sides[other])}")
        floor = row["floor_seconds"]
        times = {side: figures["seconds"] for side, figures in sides.items() if is_ours(side)}
        if self.flops:
            ratios = ", ".join(f"{side} {seconds / floor:.2f}" for side, seconds in times.items())
            lines.append(f"{ratios} of the matmul floor of {floor * 1000:.0f} ms")
        if self.read_bytes:
            *_, (side, seconds) = times.items()  # the one with float32 weights
            bound = f"the bandwidth bound of {self.tokens / floor:.0f} tokens/s"
            lines.append(f"{side}: {floor / seconds:.0%} of {bound}")
        return lines

    def side_line(self, side: str, figures: Figures) -> str:
        """The time, speed and memory of a side, and what multiplied its matrices."""
        line = f"{side:<14} {figures['seconds'] * 1000:9.1f} ms"
        if self.tokens:
            line += f" | {self.tokens / figures['seconds']:6.1f} tokens/s"
        line += f" | {self.memory} memory {figures[f'{self.memory}_bytes'] / 2**20:6.0f} MiB"
        if "product_flops" in figures:
            line += f" | products {figures['product_flops'] / 1e9:4.0f} GFLOP/s"
        return f"{line} ({figures['library']})"

    def ratios(self, one: Figures, other: Figures) -> str:
        """The speed of one side over that of another, in each pair of steps; and its memory."""
        pairs = zip(one["all_seconds"], other["all_seconds"], strict=True)
        speeds = [theirs / mine for mine, theirs in pairs]
        spread = f"{min(speeds):.2f} to {max(speeds):.2f} in {len(speeds)} pairs of steps"
        memory = one[f"{self.memory}_bytes"] / max(other[f"{self.memory}_bytes"], 1)
        return f"{statistics.median(speeds):.2f}x the speed ({spread}), {memory:.2f} of the {self.memory} memory"


@dataclasses.dataclass(frozen=True)
class Series:
    """Comparisons that print a line each. cases: the sides and the arguments of each."""

    job: str
    cases: list[tuple[tuple[str, ...], tuple[Any, ...]]]

    def measure(self, steps: int) -> Figures:
        """The figures of the sides, by case."""
        cases = [take_turns(sides, self.job, arguments, min(steps, 4), warmup=1) for sides, arguments in self.cases]
        return {"cases": cases}

    def lines(self, row: Figures) -> list[str]:
        """Return the lines to print: milliseconds, MiB beside the inputs, and the last side over the first."""
        lines = []
        for (_, arguments), sides in zip(self.cases, row["cases"], strict=True):
            line = " x ".join(map(str, arguments))
            for side, figures in sides.items():
                line += f" | {side} {figures['seconds'] * 1e3:7.1f} ms {figures['job_bytes'] / 2**20:5.0f} MiB"
            first, *others = sides.values()
            for last in others[-1:]:  # there are no others where PyTorch is not installed
                more = (last["job_bytes"] - first["job_bytes"]) / 2**20
                line += f": {last['seconds'] / first['seconds']:.2f}x the time, {more:+.0f} MiB"
            lines.append(line)
        return lines
