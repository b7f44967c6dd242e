"""Measure training and generation beside PyTorch: the same model, batch, dtype and threads, taking turns step by
step.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpt import GPTConfig, command_line
from gpt.files import write_text
from minigrad.backend import usable_cores

WORKER = Path(__file__).parent / "benchmarks" / "worker.py"
# name -> preset, and batch and time steps; or tokens of the prompt, and new ones
TRAINING = {"baby": ("baby", 12, 256), "gpt2 4x256": ("gpt2", 4, 256), "gpt2 1x1024": ("gpt2", 1, 1024)}
GENERATION = {"gpt2 generate": ("gpt2", 32, 128), "gpt2 prefill": ("gpt2", 512, 0)}
PAUSE = 0.5  # seconds before each step, in which the idle threads of the other side stop spinning
EXAMPLES = """examples:
  python scripts/benchmark.py                      everything (about ten minutes; the extra oracle brings the opponent)
  python scripts/benchmark.py --only baby --steps 20
On x86 Linux, unset OPENBLAS_CORETYPE if your shell sets it: it can make NumPy's products slower.
"""


class Side:
    """A worker process."""

    def __init__(self, side: str, name: str):
        cores = str(usable_cores())
        threads = {f"{library}_NUM_THREADS": cores for library in ("OMP", "MKL", "OPENBLAS")}
        environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
        kind = "train" if name in TRAINING else "generate"
        preset, first, second = {**TRAINING, **GENERATION}[name]
        command = [sys.executable, str(WORKER), side, preset, kind, str(first), str(second)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", env=environment)

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command, wait for its answer. Raises RuntimeError if the worker died."""
        commands, answers = self.process.stdin, self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(command, file=commands, flush=True)
        line = answers.readline() if answers is not None else ""
        if not line:
            raise RuntimeError(f"a worker died (exit code {self.process.wait()}); what it said stands above")
        return json.loads(line)

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def compare(name: str, sides: list[str], steps: int, warmup: int = 2) -> dict[str, Any]:
    """Medians of `steps` steps of each side, taken in turns after `warmup`, its peak memory and its sgemm rate."""
    workers = {side: Side(side, name) for side in sides}
    for worker in workers.values():
        for _ in range(warmup):
            worker.ask("step")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(steps):
        for side, worker in workers.items():
            time.sleep(PAUSE)
            seconds[side].append(worker.ask("step")["seconds"])
    row: dict[str, Any] = {"name": name, "sides": {}}
    for side, worker in workers.items():
        memory = worker.ask("memory")["bytes"]  # before the other measurements, which need memory too
        row["sides"][side] = {
            "seconds": statistics.median(seconds[side]),
            "all_seconds": seconds[side],
            "peak_bytes": memory,
            "sgemm_flops": worker.ask("sgemm")["flops"],
        }
    if "fast" in workers:
        row["read_bytes_per_second"] = workers["fast"].ask("read")["bytes_per_second"]
    for worker in workers.values():
        worker.close()
    return row


def matmul_flops(config: GPTConfig, batch: int, time_steps: int) -> float:
    """Floating-point operations of all matrix products of a training step, forward and backward (twice as many).

    Every weight meets every token: 2 per weight and token. Attention's two products per layer: 2 T C per token each,
    of which causality needs half.
    """
    C, tokens = config.n_embd, batch * time_steps
    weights = config.n_layer * 12 * C * C + config.vocab_size * C
    attention = config.n_layer * 2 * 2 * time_steps * C / 2
    return 3 * tokens * (2 * weights + attention)


def weight_bytes(config: GPTConfig) -> float:
    """Bytes of weights that generating one token has to read."""
    return 4 * (config.n_layer * 12 * config.n_embd**2 + config.vocab_size * config.n_embd)


def derive(row: dict[str, Any]) -> None:
    """Add ratios, the matmul floor and the bandwidth bound."""
    name, sides = row["name"], row["sides"]
    fast = sides["fast"]
    if name in TRAINING:
        preset, batch, time_steps = TRAINING[name]
        floor = matmul_flops(GPTConfig.preset(preset), batch, time_steps) / fast["sgemm_flops"]
        row["matmul_floor_seconds"] = floor
        row["step_over_floor"] = fast["seconds"] / floor
    elif new_tokens := GENERATION[name][2]:
        row["tokens_per_second"] = {side: new_tokens / values["seconds"] for side, values in sides.items()}
        bound = row["read_bytes_per_second"] / weight_bytes(GPTConfig.preset("gpt2"))
        row["bandwidth_bound_tokens_per_second"] = bound
        row["share_of_bound"] = row["tokens_per_second"]["fast"] / bound
    if "torch" in sides:
        row["speed_against_torch"] = sides["torch"]["seconds"] / fast["seconds"]
        row["memory_against_torch"] = fast["peak_bytes"] / sides["torch"]["peak_bytes"]


def show(row: dict[str, Any]) -> None:
    print(f"\n{row['name']}")
    for side, values in row["sides"].items():
        print(
            f"  {side:<9} {values['seconds'] * 1000:9.1f} ms | peak memory {values['peak_bytes'] / 2**20:7.0f} MiB | "
            f"sgemm {values['sgemm_flops'] / 1e9:4.0f} GFLOP/s"
        )
    if "speed_against_torch" in row:
        memory = row["memory_against_torch"]
        print(f"  {row['speed_against_torch']:.2f}x PyTorch's speed, {memory:.2f} of its peak memory")
    if "step_over_floor" in row:
        print(f"  {row['step_over_floor']:.2f}x the matmul floor of {row['matmul_floor_seconds'] * 1000:.0f} ms")
    if "share_of_bound" in row:
        print(f"  {row['tokens_per_second']['fast']:.0f} tokens/s, {row['share_of_bound']:.0%} of the bandwidth bound")


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    names = [*TRAINING, *GENERATION]
    parser.add_argument("--only", action="append", choices=names, help="this comparison; may be repeated")
    parser.add_argument("--steps", type=command_line.whole_number(1), default=8, help="measured steps of each side")
    parser.add_argument("--textbook", action="store_true", help="measure the textbook kernels too")
    parser.add_argument("--out", default="runs/benchmark.json", help="where the results go")
    arguments = parser.parse_args(argv)
    sides = ["fast"] + ["textbook"] * arguments.textbook
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed (pip install -e '.[oracle]'), so that there is nothing to compare with")
    else:
        sides.append("torch")
    rows = []
    for name in arguments.only or names:
        row = compare(name, sides, arguments.steps)
        derive(row)
        show(row)
        rows.append(row)
    machine = {"processor": platform.processor() or platform.machine(), "cores": usable_cores()}
    write_text(arguments.out, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"\nresults in {arguments.out}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
