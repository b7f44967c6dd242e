"""The training loop, and there is only one: forward, loss, backward, clip, step.

Pretraining, classification, instruction tuning and DPO differ in their batches and in `loss_fn`; the heartbeat is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minigrad
from minigrad import Tensor, backend, optim

from .checkpoint import save_checkpoint
from .progress import progress_bar
from .run_log import RunLog

LossFunction = Callable[[Any, Any], tuple[Tensor, int, dict[str, float]]]
MAX_SKIPPED = 10


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train. Intervals are in steps; 0 turns off what they time.

    learning_rate: the peak, reached after `warmup_iters`, falling along a cosine to `min_lr_ratio` of it at `max_iters`.
    grad_clip: the largest global gradient norm (0: no clipping). gradient_accumulation_steps: batches per step.
    precision: "float32", or "bfloat16" for mixed precision.
    """

    max_iters: int = 1000
    learning_rate: float = 1e-3
    warmup_iters: int = 50
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0
    gradient_accumulation_steps: int = 1
    log_interval: int = 10
    eval_interval: int = 100
    sample_interval: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("max_iters", "gradient_accumulation_steps", "log_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("warmup_iters", "eval_interval", "sample_interval", "grad_clip", "learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")


def language_model_loss(model: Any, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, int, dict[str, float]]:
    """Next-token cross-entropy of a batch (ids, targets), summed; how many targets count; no further metrics."""
    ids, targets = batch
    return model.loss(ids, targets, reduction="sum"), int((targets != -100).sum()), {}


@dataclasses.dataclass
class Step:
    """What happened in one step. loss: mean over the tokens that count; grad_norm: before clipping; seconds: for all of it."""

    loss: float
    grad_norm: float
    lr: float
    tokens: int
    seconds: float
    skipped: bool
    metrics: dict[str, float]


class Trainer:
    """Trains `model` on `batches` and keeps a run's folder: checkpoints, log, and batches that went wrong.

    batches: an iterator with `state_dict()` and `load_state_dict()`. loss_fn(model, batch) -> (summed loss, count, metrics).
    evaluate() -> validation loss. on_sample(step): called every `sample_interval` steps. extra_state: saved with each checkpoint.
    """

    def __init__(
        self,
        model: Any,
        batches: Any,
        config: TrainingConfig,
        out_dir: str | Path,
        loss_fn: LossFunction = language_model_loss,
        evaluate: Callable[[], float] | None = None,
        on_sample: Callable[[int], None] | None = None,
        extra_state: dict[str, Any] | None = None,
    ):
        self.model, self.batches, self.config, self.loss_fn = model, batches, config, loss_fn
        self.evaluate, self.on_sample, self.extra_state = evaluate, on_sample, extra_state or {}
        self.out_dir = Path(out_dir)
        self.log = RunLog(self.out_dir)
        groups = optim.decay_groups(model.named_parameters(), config.weight_decay)
        self.optimizer = optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
        warmup = min(config.warmup_iters, config.max_iters)
        self.schedule = optim.WarmupCosine(self.optimizer, warmup, config.max_iters, config.min_lr_ratio)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.steps_done = 0
        self.tokens_seen = 0
        self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.best_loss = math.inf
        self.interrupted = False

    # --- one step ---

    def step(self) -> Step:
        """forward, backward (once per accumulated batch), clip, update."""
        started = time.perf_counter()
        lr = self.schedule.get_last_lr()[0]
        batches = [next(self.batches) for _ in range(self.config.gradient_accumulation_steps)]
        self.model.zero_grad()
        loss, count, metrics = self._accumulate_gradients(batches)
        grad_norm = float(optim.clip_grad_norm_(self.parameters, self.config.grad_clip or math.inf))
        skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
        if skipped:
            self._keep_for_inspection(batches)
        else:
            self.optimizer.step()
            self.tokens_seen += count
        self.model.zero_grad()
        self.schedule.step()
        self.steps_done += 1
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return Step(loss, grad_norm, lr, count, seconds, skipped, metrics)

    def _accumulate_gradients(self, batches: list[Any]) -> tuple[float, int, dict[str, float]]:
        """Gradients of the mean loss over all batches together: summed losses, divided by the whole step's count."""
        total, count, metrics = 0.0, 0, {}
        for batch in batches:
            with minigrad.autocast(enabled=self.config.precision == "bfloat16"):
                loss, n, metrics = self.loss_fn(self.model, batch)
                (loss / n if len(batches) == 1 else loss).backward()
            total += loss.item()
            count += n
        if len(batches) > 1:
            for p in self.parameters:
                if p.grad is not None:
                    p.grad *= 1 / count
        return total / count, count, metrics

    def _keep_for_inspection(self, batches: list[Any]) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        arrays = {f"batch{i}_{j}": np.asarray(part) for i, batch in enumerate(batches) for j, part in enumerate(batch)}
        np.savez(self.out_dir / f"nonfinite-step-{self.steps_done + 1}.npz", **arrays)

    # --- the run ---

    def run(self) -> None:
        """Train until `max_iters`, evaluating and saving on the way.

        Ctrl-C finishes the step, saves and sets `interrupted`. Raises FloatingPointError after 10 skipped steps in a row.
        """
        config = self.config
        self.model.train()
        with self._ctrl_c_finishes_the_step(), progress_bar(config.max_iters, "training", "step") as bar:
            bar.update(self.steps_done)
            if self.steps_done == 0:
                self._evaluate_and_save()
            while self.steps_done < config.max_iters and not self.interrupted:
                step = self.step()
                bar.update(1)
                self._check(step)
                last = self.steps_done == config.max_iters
                if step.skipped or last or self.steps_done % config.log_interval == 0 or self.steps_done == 1:
                    self.log.step(self.steps_done, config.max_iters, step)
                if _due(self.steps_done, config.sample_interval) and self.on_sample is not None:
                    self.on_sample(self.steps_done)
                if last or self.interrupted or _due(self.steps_done, config.eval_interval):
                    self._evaluate_and_save()

    def _check(self, step: Step) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if step.skipped else 0
        if self.skipped_in_a_row == MAX_SKIPPED:
            raise FloatingPointError(
                f"{MAX_SKIPPED} steps in a row had a loss or gradient that is not finite; the weights are damaged or the learning rate of "
                f"{self.config.learning_rate} is too high. The batches are in {self.out_dir}, the last good checkpoint too"
            )

    def _evaluate_and_save(self) -> None:
        if self.evaluate is not None and not self.interrupted:
            loss = self.evaluate()
            self.best_loss = min(self.best_loss, loss)
            self.log.validation(self.steps_done, loss)
        self.save()

    @contextlib.contextmanager
    def _ctrl_c_finishes_the_step(self) -> Iterator[None]:
        """The first Ctrl-C lets the step finish, so that no half-updated weights are saved; the second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        previous = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    # --- saving and going on ---

    def state_dict(self) -> dict[str, Any]:
        """Everything but weights and moments, JSON-able."""
        return {
            "step": self.steps_done,
            "tokens_seen": self.tokens_seen,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "schedule": self.schedule.state_dict(),
            "random": backend.random_state(),
            "batches": self.batches.state_dict(),
            "threads": backend.blas_threads(),
            "training": dataclasses.asdict(self.config),
            **self.extra_state,
        }

    def save(self) -> None:
        """Write a checkpoint of this moment into the run's folder."""
        save_checkpoint(self.out_dir, self.model, self.optimizer, self.state_dict())

    def load_state(self, optimizer_state: dict[str, Any], state: dict[str, Any]) -> str | None:
        """Go on from a checkpoint whose weights the model has already. Returns a warning where the rest will not be bit-exact."""
        self.optimizer.load_state_dict(optimizer_state)
        self.schedule.load_state_dict(state["schedule"])
        backend.set_random_state(state["random"])
        self.batches.load_state_dict(state["batches"])
        self.steps_done, self.tokens_seen = state["step"], state["tokens_seen"]
        self.skipped_in_a_row, self.seconds = state["skipped_in_a_row"], state["seconds"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.log.rewind(self.steps_done)
        threads = backend.blas_threads()
        if state["threads"] != threads:
            return (
                f"the run was saved with {state['threads']} threads and goes on with {threads}: sums are taken in another order, "
                "so it will equal an uninterrupted run to rounding, not bit by bit"
            )
        return None


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
