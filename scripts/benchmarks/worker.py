"""One side of a comparison, in a process of its own, so that its memory is its own: steps when told to, and reports.

Reads lines on standard input, answers each with one line of JSON: "step" -> {"seconds", "result"}, "sgemm" ->
{"flops"}, "memory" -> {"bytes"}. The parent (benchmark.py) takes turns between two of these, so that both see the
same machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig
from minigrad import optim, use_kernels
from minigrad.backend import usable_cores
from minigrad.kernels import threads


class Training:
    """forward, backward, clip, AdamW on one batch."""

    def __init__(self, config: GPTConfig, ids: np.ndarray, targets: np.ndarray):
        self.model, self.ids, self.targets = GPT(config), ids, targets
        groups = optim.decay_groups(self.model.named_parameters(), 0.1)
        self.optimizer = optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))

    def step(self) -> float:
        loss = self.model.loss(self.ids, self.targets)
        loss.backward()
        optim.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Generation:
    """Greedy generation with the KV cache, or only the reading of the prompt."""

    def __init__(self, config: GPTConfig, prompt: np.ndarray, new_tokens: int):
        self.model = GPT(config).eval()
        self.prompt, self.new_tokens = prompt, max(new_tokens, 1)

    def step(self) -> float:
        return float(len(self.model.generate(self.prompt, self.new_tokens, temperature=0)[0]))


def job(side: str, preset: str, kind: str, first: int, second: int) -> Any:
    """What `side` ("fast", "textbook", "torch") does: "train" on (batch, time), or "generate" from (prompt, new
    tokens).
    """
    rng = np.random.default_rng(0)
    config = GPTConfig.preset(preset)
    arguments: tuple[Any, ...] = (config, *rng.integers(0, config.vocab_size, (2, first, second)))
    if kind == "generate":
        arguments = (config, rng.integers(0, config.vocab_size, (1, first)), second)
    if side == "torch":
        import torch
        import torch_gpt2  # type: ignore[import-not-found]  # beside this script

        torch.set_num_threads(usable_cores())
        return (torch_gpt2.Training if kind == "train" else torch_gpt2.Generation)(*arguments)
    use_kernels(side)
    return (Training if kind == "train" else Generation)(*arguments)


def sgemm_rate(side: str, n: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations per second of an n x n float32 product, the median of `repeats`."""
    a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    if side == "torch":
        import torch

        x = torch.from_numpy(a)
        product: Any = lambda: x @ x  # noqa: E731
    else:
        product = lambda: threads.matmul(a, a)  # noqa: E731
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return 2 * n**3 / float(np.median(seconds[1:]))


def read_rate(size: int = 2**26, repeats: int = 5) -> float:
    """Bytes per second at which matrix-vector products read memory, the median of `repeats`."""
    matrix = np.ones((size // 1024, 1024), np.float32)
    vector = np.ones((1024, 1), np.float32)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        threads.matmul(matrix, vector)
        seconds.append(time.perf_counter() - started)
    return matrix.nbytes / float(np.median(seconds[1:]))


def peak_memory() -> int:
    """The most memory that this process has had, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    side, preset, kind, first, second = sys.argv[1:]
    work = job(side, preset, kind, int(first), int(second))
    for line in sys.stdin:
        command = line.strip()
        if command == "step":
            started = time.perf_counter()
            result = work.step()
            answer: dict[str, Any] = {"seconds": time.perf_counter() - started, "result": result}
        elif command == "sgemm":
            answer = {"flops": sgemm_rate(side)}
        elif command == "read":
            answer = {"bytes_per_second": read_rate()}
        elif command == "memory":
            answer = {"bytes": peak_memory()}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # no waiting for threads


if __name__ == "__main__":
    main()
