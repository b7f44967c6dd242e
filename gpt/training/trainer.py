"""The training loop: steps (training_step.py), and around them evaluations, checkpoints, a log, Ctrl-C and resuming.

On a GPU a step does not wait for its own loss, not even to decide whether it has to be skipped: see steps.py. Several
processes can train one model together, as a team: see data_parallel.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minigrad
from minigrad import Tensor, backend, nn, optim, switches
from minigrad.muon import Muon, muon_groups

from ..console import progress_bar
from .checkpoint import Checkpoint, CheckpointError, ModelKind, check_inputs, check_like, inputs, save_checkpoint
from .data_parallel import ALONE, Team
from .evaluation import language_model_loss
from .log import RunLog
from .steps import Step, UnreadStep, keep_batches, read_steps
from .training_step import LossFunction, TrainingStep

PRECISIONS = ("float32", "tf32", "bfloat16")
OPTIMIZERS = ("adamw", "muon")
MAX_SKIPPED = 10
MAX_UNREAD = 100  # steps on a GPU


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The settings of training. Intervals are in steps; eval_interval and sample_interval may be 0: never.

    learning_rate: the peak. The rate rises to it during the warm-up, the first `warmup_iters` steps, and then falls
    along a cosine to `min_lr_ratio` times the peak at `max_iters`. grad_clip: the largest gradient norm over all
    parameters (0: no clipping). gradient_accumulation_steps: batches per step, which count as one large batch.
    eval_interval: steps between evaluations, each with a checkpoint; the start and the end always have one. precision:
    of matrix products, "float32", "tf32" or "bfloat16" (see minigrad/precision.py). optimizer: "adamw", or "muon" for
    the matrices of the blocks with AdamW for the rest. checkpoint_activations: save memory, compute each block's
    activations twice (see minigrad/nn/activation_checkpointing.py). Raises ValueError for a value out of range.
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
    optimizer: str = "adamw"
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        for name in ("max_iters", "gradient_accumulation_steps", "log_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("warmup_iters", "eval_interval", "sample_interval", "grad_clip", "learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")


class Trainer(TrainingStep):
    """Trains `model` on `batches` and keeps a run's folder: checkpoints, log, and batches that went wrong.

    batches: an endless iterator of batches for `loss_fn`, with `state_dict()` (JSON-able) and `load_state_dict()`.
    loss_fn(model, batch) -> (sum of losses, count, sums of other metrics): see `evaluation.language_model_loss`.
    evaluate() -> metrics to log beside the training loss; one of them is "val_loss". on_sample(step): called every
    `sample_interval` steps. extra_state: JSON-able, saved with each checkpoint. unit: the name of the counted items.
    kind: what a checkpoint stores of the model (see `save_checkpoint`). team: the processes that train together, each
    on its own share of the batches; only rank 0 logs and saves.
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
        kind: ModelKind | None = None,
        team: Team = ALONE,
    ):
        if all(not p.requires_grad for p in model.parameters()):
            raise ValueError("there is nothing to train: all parameters are frozen")
        if config.checkpoint_activations:
            nn.checkpoint_activations(model)
        optimizer = new_optimizer(model, config)
        warmup = min(config.warmup_iters, config.max_iters)
        schedule = optim.WarmupCosine(optimizer, warmup, config.max_iters, config.min_lr_ratio)
        accumulates = config.gradient_accumulation_steps > 1 or team.size > 1
        super().__init__(model, loss_fn, optimizer, schedule, config.grad_clip or math.inf, accumulates)
        self.batches, self.config, self.kind, self.team = batches, config, kind, team
        self.evaluate, self.on_sample = evaluate, on_sample
        self.extra_state = json.loads(json.dumps(extra_state or {}))  # fails now, not at the first checkpoint
        self.out_dir = Path(out_dir)
        self.inputs = inputs(self.out_dir)
        self.log = RunLog(self.out_dir, unit, silent=team.rank > 0)
        self.steps_done = 0
        self.count = 0  # of tokens (or whatever `unit` is) learned from so far
        self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.best_loss = math.inf
        self.saved_step: int | None = None
        self.interrupted = False
        self._unread: list[UnreadStep] = []
        self._to_report: list[Step] = []  # steps that were skipped
        team.use_different_dropout()

    # --- one step; learn_from() is in training_step.py ---

    def step(self, batches: list[Any] | None = None) -> Step:
        """Learn from these batches; None: draw the next ones.

        On the CPU the returned Step has all its numbers. On a GPU the next `read()` fills them in (steps.py).
        """
        started = time.perf_counter()
        if batches is None:
            batches = [next(self.batches) for _ in range(self.config.gradient_accumulation_steps)]
        lr = self.schedule.get_last_lr()[0]
        mixed = self.config.precision != "float32"
        with minigrad.autocast(self.config.precision if mixed else "bfloat16", enabled=mixed):
            sums, count, norm = self.learn_from(batches)
        self.steps_done += 1
        step = Step(self.steps_done, count, lr)
        self._unread.append(UnreadStep(step, started, batches, sums, norm))
        # On the CPU the numbers are there; on a GPU, not too many batches should have to be kept.
        if self.parameters[0].device == "cpu" or len(self._unread) == MAX_UNREAD:
            self.read()
        return step

    def sum_gradients(self, batches: Sequence[Any]) -> tuple[dict[str, Any], int]:
        """Sum the gradients of all processes of the team, which together have the batches of the step."""
        sums, count = super().sum_gradients(batches)
        self.team.sum_gradients(self.parameters)
        return self.team.add_up(sums, count)

    def read(self) -> None:
        """Fill in the numbers of the steps since the last call. This waits for a GPU."""
        unread, self._unread = self._unread, []
        for one, step in zip(unread, read_steps(unread, time.perf_counter()), strict=True):
            if step.skipped:
                process = f"-process-{self.team.rank}" if self.team.size > 1 else ""
                keep_batches(self.out_dir / f"nonfinite-step-{step.number}{process}.npz", one.batches)
                self._to_report.append(step)
                self.skipped_in_a_row += 1
            else:
                self.count += step.count
                self.skipped_in_a_row = 0
            step.learned = self.count
            self.seconds += step.seconds

    # --- the run ---

    def run(self) -> None:
        """Train until `max_iters`, with evaluations and checkpoints.

        Ctrl-C finishes the step, saves and sets `interrupted`; a second Ctrl-C stops at once. Raises FloatingPointError
        after 10 skipped steps in a row, and if a weight or the validation loss is no longer finite; OSError if the
        run's folder cannot be written; ValueError if the processes of the team differ. The last good checkpoint stays.
        """
        config = self.config
        self.model.train()
        self.team.check_same(dataclasses.asdict(config))
        self.team.check_same_start(self.parameters)
        with self._running("training") as bar:
            stopping = False
            while self.steps_done < config.max_iters and not stopping:
                step = self.step()
                bar.update(1)
                n, last = step.number, step.number == config.max_iters
                to_log = last or n == 1 or due(n, config.log_interval)
                to_sample = self.on_sample is not None and due(n, config.sample_interval)
                to_evaluate = last or due(n, config.eval_interval)

                # Only here are a GPU's numbers asked for. What comes next must know which steps were skipped.
                if to_log or to_sample or to_evaluate or self._to_report:
                    self._read_and_log(step if to_log else None)
                self._stop_if_hopeless()
                if self.on_sample is not None and to_sample and not step.skipped and self.team.rank == 0:
                    self.on_sample(n)
                if to_evaluate:
                    self._evaluate()

                # If one process was interrupted, all of them stop after the same step.
                stopping = any(self.team.gather(self.interrupted))
                if stopping:
                    self._read_and_log(None)
                # After a step that was skipped, only an evaluation can tell whether the weights are still good.
                trusted = self.skipped_in_a_row == 0 or (to_evaluate and self.evaluate is not None)
                if trusted and (to_evaluate or stopping):
                    self.save()
            self.interrupted = stopping

    @contextlib.contextmanager
    def _running(self, doing: str) -> Iterator[Any]:
        """Around the loop: Ctrl-C, a progress bar, and an evaluation and a checkpoint before the first step."""
        self.interrupted = False
        with self._ctrl_c_finishes_the_step(), progress_bar(self.config.max_iters, doing, "step") as bar:
            if self.steps_done == 0:
                self.log.rewind(-1)  # drop the log of an earlier run
                self._evaluate()
                self.save()
            bar.update(self.steps_done)
            yield bar
        self.interrupted = self.interrupted and self.steps_done < self.config.max_iters

    def _read_and_log(self, wanted: Step | None) -> None:
        """Read the numbers of all steps so far. Log the skipped steps and the step that is `wanted`."""
        self.read()
        steps, self._to_report = self._to_report, []
        if wanted is not None and not wanted.skipped:
            steps.append(wanted)
        for step in steps:
            self.log.step(self.config.max_iters, step)

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
        """The first Ctrl-C lets the step finish, so no half-updated weights are saved; the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        numbers = [signal.SIGINT]
        if self.team.size > 1 and hasattr(signal, "SIGUSR1"):  # mpiexec passes on this one, but ends all on Ctrl-C
            numbers.append(signal.SIGUSR1)
        previous = [signal.signal(number, on_interrupt) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)

    # --- saving and going on ---

    def state_dict(self) -> dict[str, Any]:
        """Everything except the weights and the optimizer's state, JSON-able."""
        self.read()
        return {
            "step": self.steps_done,
            "count": self.count,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,  # JSON has no inf
            "schedule": self.schedule.state_dict(),
            "random": backend.random_state(),
            "batches": self.batches.state_dict(),
            "arithmetic": _arithmetic(self.parameters[0], self.team),
            "training": dataclasses.asdict(self.config),
            "inputs": self.inputs,
            "extra": self.extra_state,
        }

    def save(self) -> None:
        """Write a checkpoint into the run's folder. Raises FloatingPointError for weights that are not finite."""
        for p in self.parameters:
            if not backend.module_of(p.data).isfinite(p.data).all():
                raise FloatingPointError(f"at step {self.steps_done} a weight is no longer finite: {self._blame()}")
        if self.team.rank == 0:
            save_checkpoint(self.out_dir, self.model, self.optimizer, self.state_dict(), self.kind)
        self.saved_step = self.steps_done

    def resume(self, checkpoint: Checkpoint) -> str | None:
        """Continue from a checkpoint whose weights the model already has.

        Returns a warning if the rest of the run will not be bit-exact, else None. Raises CheckpointError for weights
        without an optimizer, or with an optimizer of other parameters.
        """
        if checkpoint.optimizer_state is None:
            raise CheckpointError(f"the checkpoint in {self.out_dir} holds weights only: it cannot be resumed")
        state = dict(checkpoint.state)
        if isinstance(state.get("training"), dict):  # settings that are newer than the run have their defaults
            state["training"] = dataclasses.asdict(TrainingConfig()) | state["training"]
        check_inputs(self.out_dir, state)
        try:
            free = ("arithmetic", "inputs", "extra")
            expected = {name: value for name, value in self.state_dict().items() if name not in free}
            check_like({name: state[name] for name in expected}, expected, "the state")
            schedule = {**expected["schedule"], "steps_done": state["step"]}
            if (state["training"], state["schedule"]) != (expected["training"], schedule):
                raise ValueError("its settings of training, or its learning rates, are those of another run")
            if state["step"] > self.config.max_iters:
                raise ValueError(f"it is at step {state['step']} of {self.config.max_iters}")
            self._check_moments(checkpoint.optimizer_state, state["step"])
            self.optimizer.load_state_dict(checkpoint.optimizer_state)
            self.schedule.load_state_dict(state["schedule"])
            backend.set_random_state(state["random"])
            self.team.use_different_dropout()
            self.batches.load_state_dict(state["batches"])
            self.steps_done, self.count, self.seconds = state["step"], state["count"], state["seconds"]
            self.skipped_in_a_row = state["skipped_in_a_row"]
            self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
            then, now = {"processes": 1, **state["arithmetic"]}, _arithmetic(self.parameters[0], self.team)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"the checkpoint in {self.out_dir} is not of a run like this: {error}") from None
        self.saved_step = self.steps_done
        self.log.rewind(self.steps_done)
        changed = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        if not changed:
            return None
        return (
            f"changed since the run was saved: {', '.join(changed)}; sums are taken in another order, so the run will "
            "equal an uninterrupted one up to rounding, but not bit for bit"
        )

    def _check_moments(self, saved: dict[str, Any], steps: int) -> None:
        """Raise CheckpointError for a state that the optimizer cannot have after this number of steps."""
        ours, theirs = self.optimizer.state_dict()["param_groups"], saved["param_groups"]
        if [len(group["params"]) for group in ours] == [len(group["params"]) for group in theirs]:
            # Otherwise load_state_dict says so. The learning rate is the schedule's.
            ours, theirs = ([{**group, "lr": 0} for group in groups] for groups in (ours, theirs))
            if json.loads(json.dumps(ours)) != theirs:
                raise CheckpointError("the optimizer was saved with other settings")
        parameters = [(p, group) for group in self.optimizer.param_groups for p in group["params"]]
        for position, state in saved["state"].items():
            if position < len(parameters):
                (p, group), name = parameters[position], f"the optimizer's state {position}"
                is_adams = not group.get("orthogonalize")
                adams, muons = {"step": 0, "exp_avg": p.data, "exp_avg_sq": p.data}, {"momentum_buffer": p.data}
                check_like(state, adams if is_adams else muons, name)
                if is_adams and ((state["exp_avg_sq"] < 0).any() or state["step"] > steps):
                    raise CheckpointError(f"{name} cannot be that of step {steps}")


def new_optimizer(model: nn.Module, config: TrainingConfig) -> optim.Optimizer:
    """The optimizer of a run for all parameters that are not frozen."""
    named, decay = model.named_parameters(), config.weight_decay
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        return optim.AdamW(optim.decay_groups(named, decay), lr=config.learning_rate, betas=betas)
    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    return Muon(muon_groups(named, blocks.parameters(), decay), lr=config.learning_rate, betas=betas)


def _arithmetic(parameter: Tensor, team: Team) -> dict[str, Any]:
    """The versions and settings that decide the last bits of a sum, apart from the processor."""
    kernels = switches.kernels if parameter.device == "cpu" else switches.cuda_kernels
    return {
        "cores": backend.usable_cores(),
        "threads": backend.blas_threads(),
        "kernels": ", ".join(sorted(op.__name__ for op in kernels)) or "textbook",
        "device": parameter.device,
        "NumPy": np.__version__,
        "processes": team.size,
    }


def due(step: int, interval: int) -> bool:
    """Whether something that happens every `interval` steps happens after this step. 0 means never."""
    return interval > 0 and step % interval == 0
