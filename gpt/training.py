"""The training loop, and there is only one: forward, loss, backward, clip, step.

Pretraining, classification, instruction tuning and DPO differ in their batches and in `loss_fn`; the heartbeat is the
same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import minigrad
from minigrad import Tensor, backend, optim, switches

from .checkpoint import GPT_KIND, Checkpoint, CheckpointError, ModelKind, save_checkpoint
from .evaluation import LossFunction, language_model_loss
from .progress import progress_bar
from .run_log import RunLog

MAX_SKIPPED = 10


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train. Intervals are in steps; 0 turns off what they time.

    learning_rate: the peak, reached after `warmup_iters`, falling along a cosine to `min_lr_ratio` of it at
    `max_iters`. grad_clip: the largest global gradient norm (0: no clipping). gradient_accumulation_steps: batches per
    step. eval_interval: steps between evaluations, each with a checkpoint; there is one at the start and one at the
    end anyway. precision: "float32", or "bfloat16" for mixed precision. Raises ValueError for a number out of range.
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


@dataclasses.dataclass
class Step:
    """What happened in one step.

    count: what the loss and the metrics are means over, tokens for a language model. grad_norm: before clipping.
    skipped: loss or gradient were not finite, and the weights are as before. seconds: for all of it.
    """

    loss: float
    metrics: dict[str, float]
    count: int
    grad_norm: float
    lr: float
    skipped: bool
    seconds: float


class Trainer:
    """Trains `model` on `batches` and keeps a run's folder: checkpoints, log, and batches that went wrong.

    batches: an endless iterator with `state_dict()` (JSON-able) and `load_state_dict()`; a batch is whatever `loss_fn`
    takes. loss_fn(model, batch) -> (sum of losses, count, sums of other metrics): see
    `evaluation.language_model_loss`. evaluate() -> what to log beside the training loss, among it "val_loss".
    on_sample(step): called every `sample_interval` steps. extra_state: JSON-able, saved with each checkpoint. unit:
    what is counted. kind: what a checkpoint holds of the model.
    """

    def __init__(
        self,
        model: Any,
        batches: Any,
        config: TrainingConfig,
        out_dir: str | Path,
        loss_fn: LossFunction = language_model_loss,
        evaluate: Callable[[], dict[str, float]] | None = None,
        on_sample: Callable[[int], None] | None = None,
        extra_state: dict[str, Any] | None = None,
        unit: str = "tokens",
        kind: ModelKind = GPT_KIND,
    ):
        self.model, self.batches, self.config, self.loss_fn = model, batches, config, loss_fn
        self.kind = kind
        self.evaluate, self.on_sample = evaluate, on_sample
        self.extra_state = json.loads(json.dumps(extra_state or {}))  # what cannot be saved is found now
        self.out_dir = Path(out_dir)
        self.log = RunLog(self.out_dir, unit)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("there is nothing to train: all parameters are frozen")
        groups = optim.decay_groups(model.named_parameters(), config.weight_decay)
        self.optimizer = optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
        warmup = min(config.warmup_iters, config.max_iters)
        self.schedule = optim.WarmupCosine(self.optimizer, warmup, config.max_iters, config.min_lr_ratio)
        self.steps_done = 0
        self.count = 0  # of tokens (or whatever `unit` is) learned from so far
        self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.best_loss = math.inf
        self.saved_step: int | None = None
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
            self.skipped_in_a_row += 1
        else:
            self.optimizer.step()
            self.count += count
            self.skipped_in_a_row = 0
        self.model.zero_grad()
        self.schedule.step()
        self.steps_done += 1
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return Step(loss, metrics, count, grad_norm, lr, skipped, seconds)

    def _accumulate_gradients(self, batches: list[Any]) -> tuple[float, int, dict[str, float]]:
        """Gradients of the mean loss over all batches together: those of the sum, divided by the whole step's count."""
        total, count = 0.0, 0
        sums: dict[str, float] = {}
        for batch in batches:
            with minigrad.autocast(enabled=self.config.precision == "bfloat16"):
                loss, n, metrics = self.loss_fn(self.model, batch)
                (loss / n if len(batches) == 1 and n else loss).backward()
            total += loss.item()
            count += n
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        if count == 0:
            raise ValueError(f"step {self.steps_done + 1} has nothing to learn from: no target in its batches counts")
        if len(batches) > 1:
            for p in self.parameters:
                if p.grad is not None:
                    p.grad *= 1 / count
        return total / count, count, {name: value / count for name, value in sums.items()}

    def _keep_for_inspection(self, batches: list[Any]) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = _named_arrays("batch", batches)
        np.savez(self.out_dir / f"nonfinite-step-{self.steps_done + 1}.npz", **arrays)

    # --- the run ---

    def run(self) -> None:
        """Train until `max_iters`, evaluating and saving on the way.

        Ctrl-C finishes the step, saves and sets `interrupted`; a second one stops at once. Raises FloatingPointError
        after 10 skipped steps in a row, and where a weight or the validation loss is no longer finite; OSError where
        the run's folder cannot be written. The last good checkpoint stays.
        """
        config = self.config
        self.interrupted = False
        self.model.train()
        with self._ctrl_c_finishes_the_step(), progress_bar(config.max_iters, "training", "step") as bar:
            if self.steps_done == 0:
                self.log.rewind(-1)
                self._evaluate()
                self.save()
            bar.update(self.steps_done)
            while self.steps_done < config.max_iters and not self.interrupted:
                step = self.step()
                bar.update(1)
                n, last = self.steps_done, self.steps_done == config.max_iters
                if step.skipped or last or n == 1 or n % config.log_interval == 0:
                    self.log.step(n, config.max_iters, self.count, step)
                self._stop_if_hopeless()
                if self.on_sample is not None and _due(n, config.sample_interval) and not step.skipped:
                    self.on_sample(n)
                evaluating = last or _due(n, config.eval_interval)
                if evaluating:
                    self._evaluate()
                # After a step that was skipped, only an evaluation can tell whether the weights are still good.
                sound = self.skipped_in_a_row == 0 or (evaluating and self.evaluate is not None)
                if sound and (evaluating or self.interrupted):
                    self.save()
        self.interrupted = self.interrupted and self.steps_done < config.max_iters

    def _evaluate(self) -> None:
        if self.evaluate is not None:
            metrics = self.evaluate()
            self.best_loss = min(self.best_loss, metrics["val_loss"])
            self.log.validation(self.steps_done, metrics)
            if not math.isfinite(metrics["val_loss"]):
                raise FloatingPointError(f"the validation loss is not finite: {self._blame()}")

    def _stop_if_hopeless(self) -> None:
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient that is not finite: {self._blame()}"
            )

    def _blame(self) -> str:
        place = f"batches that were skipped are kept in {self.out_dir}"
        if self.saved_step is not None:
            place += f", with the last good checkpoint, of step {self.saved_step}"
        return f"the learning rate of {self.config.learning_rate} is too high, or the data are not finite; {place}"

    @contextlib.contextmanager
    def _ctrl_c_finishes_the_step(self) -> Iterator[None]:
        """The first Ctrl-C lets the step finish, so that no half-updated weights are saved; a second stops at once."""
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
            "count": self.count,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,  # JSON has no inf
            "schedule": self.schedule.state_dict(),
            "random": backend.random_state(),
            "batches": self.batches.state_dict(),
            "arithmetic": _arithmetic(self.parameters[0]),
            "training": dataclasses.asdict(self.config),
            "extra": self.extra_state,
        }

    def save(self) -> None:
        """Write a checkpoint of this moment into the run's folder; raises rather than save damaged weights."""
        for p in self.parameters:
            if not backend.module_of(p.data).isfinite(p.data).all():
                raise FloatingPointError(f"at step {self.steps_done} a weight is no longer finite: {self._blame()}")
        save_checkpoint(self.out_dir, self.model, self.optimizer, self.state_dict(), self.kind)
        self.saved_step = self.steps_done

    def resume(self, checkpoint: Checkpoint) -> str | None:
        """Go on from a checkpoint whose weights the model has already.

        Returns a warning where the rest will not be bit-exact, else None. Raises CheckpointError for weights without
        an optimiser, or with one of other parameters.
        """
        if checkpoint.optimizer_state is None:
            raise CheckpointError(f"the checkpoint in {self.out_dir} holds weights only: it cannot be resumed")
        state = checkpoint.state
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer_state)
            self.schedule.load_state_dict(state["schedule"])
            backend.set_random_state(state["random"])
            self.batches.load_state_dict(state["batches"])
            self.steps_done, self.count, self.seconds = state["step"], state["count"], state["seconds"]
            self.skipped_in_a_row = state["skipped_in_a_row"]
            self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
            then, now = state["arithmetic"], _arithmetic(self.parameters[0])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint in {self.out_dir} is not of a run like this: {error}") from None
        self.saved_step = self.steps_done
        self.log.rewind(self.steps_done)
        changed = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        if not changed:
            return None
        return (
            f"not as when it was saved: {', '.join(changed)}; sums are taken in another order, so that the run will "
            "equal an uninterrupted one to rounding, not bit by bit"
        )


def _arithmetic(parameter: Tensor) -> dict[str, Any]:
    """On what the last bits of a sum depend, apart from the processor."""
    return {
        "cores": backend.usable_cores(),
        "threads": backend.blas_threads(),
        "kernels": ", ".join(sorted(op.__name__ for op in switches.kernels)) or "textbook",
        "device": parameter.device,
        "NumPy": np.__version__,
    }


def _named_arrays(name: str, value: Any) -> dict[str, np.ndarray]:
    """Whatever a batch is made of, as arrays with names, such as batch_0_1 for the second part of the first batch."""
    parts: Any = None
    if isinstance(value, Mapping):
        parts = value.items()
    elif dataclasses.is_dataclass(value):
        parts = vars(value).items()
    elif isinstance(value, list | tuple) and not all(isinstance(part, int | float) for part in value):
        parts = enumerate(value)
    if parts is not None:
        return {k: v for key, part in parts for k, v in _named_arrays(f"{name}_{key}", part).items()}
    value = value.data if isinstance(value, Tensor) else value
    array = np.asarray(backend.to_numpy(value) if backend.is_array(value) else value)
    return {name: np.asarray(repr(value)) if array.dtype == object else array}  # objects would need pickle


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
