"""A small GPT trained twice, on the CPU and on the GPU, from the same weights on the same batches: the same losses?"""

import dataclasses
import time
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig
from gpt.training.batches import RandomBatches
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import train_textbook
from gpt.training.training_step import language_model_loss
from minigrad import manual_seed, use_kernels

TOLERANCE = 5e-3  # nats: what differs in the last digit at first grows with every step


@dataclasses.dataclass(frozen=True)
class Run:
    """The sizes of the training run. Its text can be learned: three tokens may follow each token."""

    steps: int = 100
    batch: int = 8
    config: GPTConfig = GPTConfig(vocab_size=97, block_size=64, n_layer=4, n_head=4, n_embd=128)


def check(run: Run | None = None) -> dict[str, Any]:
    """Losses of both, their largest difference, and the milliseconds of a step."""
    run = Run() if run is None else run
    here, there = (losses(run, device) for device in ("cpu", "cuda"))
    difference = float(np.abs(np.subtract(here["losses"], there["losses"])).max())
    passed = difference <= TOLERANCE and there["losses"][-1] < there["losses"][0]
    return {"passed": passed, "difference": difference, "cpu": here, "cuda": there}


def losses(run: Run, device: str) -> dict[str, Any]:
    """The loss of every step."""
    manual_seed(0)
    text = np.cumsum(np.random.default_rng(0).integers(1, 4, 20_000)) % run.config.vocab_size
    model = GPT(run.config).to(device)
    batches = RandomBatches(text, run.batch, run.config.block_size, seed=1)
    config = TrainingConfig(max_iters=run.steps, learning_rate=1e-3, warmup_iters=run.steps // 10)
    found, times = [], [time.perf_counter()]
    with use_kernels("fast"):
        prepared = prepare_training(model, config)  # optimizer, schedule
        for _ in range(run.steps):
            found += train_textbook(model, batches, language_model_loss, *prepared, steps=1)
            times.append(time.perf_counter())
    return {"losses": found, "seconds": float(np.median(np.diff(times)))}


def lines(result: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    out = []
    for device in ("cpu", "cuda"):
        first, *_, last = result[device]["losses"]
        out.append(f"{device:<5} loss {first:.4f} -> {last:.4f}, {result[device]['seconds'] * 1000:.1f} ms per step")
    verdict = "" if result["passed"] else "  WRONG"
    out.append(f"largest difference of a loss {result['difference']:.1e} (allowed {TOLERANCE:.0e}){verdict}")
    return out
