"""A run and its folder: what the training loop (training_loop.py) needs so that it can be stopped and resumed.

    def train_something(run: Run, config: SomeConfig) -> None:
        if run.is_new:
            model, tokenizer = load_model(config.init_from)
            train_items, test_items = load_data(config.data)
            run.begin(model, tokenizer)                                 # makes its folder, and keeps the tokenizer
            run.keep_data(train=train_items, test=test_items)           # and the data there
        else:
            model, tokenizer = run.load()                               # what is in its folder
            train_items, test_items = run.load_data(read_examples)
        run.prepare(model, config.training)                             # optimizer and schedule
        batches = ShuffledBatches(train_items, ...)
        train(run, batches, one_step(run, loss_fn), validate)           # the loop

`start` calls such a function for a new run, and `resume` for one that was interrupted, which continues as if it had
never stopped. A run that ends before its first checkpoint can be started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minigrad import Tensor, backend, manual_seed, nn, optim
from minigrad.backend import to_numpy

from ..console import progress_bar, quoted, show
from ..files import errors_at
from ..tokenizer.tokenizer import Tokenizer
from .checkpoint import (
    WRONG_CONTENT,
    Checkpoint,
    CheckpointError,
    ModelFormat,
    has_checkpoint,
    inputs_of,
    load_checkpoint,
    save_checkpoint,
)
from .data_parallel import ALONE, Team, check_batch
from .folder_lock import locked
from .log import RunLog, mean_step
from .run_files import RunFiles
from .run_folder import check_unused
from .run_state import length_setting, settings_of
from .signals import finishing_the_step
from .training_config import TrainingConfig, check_moments, prepare_training
from .training_step import Gradients, LossFunction, Step, gradients_for, training_step

MAX_SKIPPED = 10  # steps in a row that are not finite
SLOW_STEP = 2.0  # seconds: a step that takes longer has a line in the log
SAVE_SECONDS = 600.0  # a checkpoint at least so often, beside those after validations


def start(stage: Callable[[Run, Any], None], config: Any, device: str = "cpu", team: Team = ALONE) -> Run:
    """Begin a run in the folder `config.out_dir`: call `stage(run, config)`. Returns the run.

    Ctrl-C, or another signal of signals.py, finishes the step, saves, and sets the run's `interrupted`; a second one
    stops at once. Raises FileExistsError if the folder already holds a run, BlockingIOError if another process is
    writing there, and what `stage` and the run's methods raise.
    """
    if team.rank == 0:
        check_unused(config.out_dir)  # at once; and again when the folder is made, before which nothing is written
    manual_seed(config.seed)
    run = Run(config, device, team)
    with run.lock:
        stage(run, config)
    return run


def resume(
    stage: Callable[[Run, Any], None],
    config_class: Any,
    out_dir: str,
    device: str = "cpu",
    team: Team = ALONE,
    length: int | None = None,
) -> Run:
    """Continue the run in `out_dir` with its own settings and data, as if it had never stopped.

    length: the steps (of PPO and GRPO: iterations) after which it now ends, instead of those that were planned. So a
    finished run can be trained longer; its learning rate then follows the schedule of the new length. Raises
    CheckpointError if there is no run with such settings, or one that cannot be continued; ValueError for a length that
    the run has exceeded.
    """
    settings_of(config_class, out_dir, length)  # raises before the folder is touched; read again once it is locked
    with locked(out_dir) if team.rank == 0 else contextlib.nullcontext():
        run = Run(settings_of(config_class, out_dir, length), device, team, is_new=False)
        stage(run, run.config)
    return run


def start_or_resume(stage: Callable[[Run, Any], None], config: Any, device: str = "cpu") -> Run:
    """`resume` the run in the folder `config.out_dir` if there is one, else `start` it."""
    if has_checkpoint(config.out_dir):
        return resume(stage, type(config), config.out_dir, device)
    return start(stage, config, device)


class Stream(Protocol):
    """Endless batches. Their state, JSON-able, is the place where a resumed run goes on."""

    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class Run(RunFiles):
    """A run: its model, its optimizer, and how far it is.

    A stage calls the methods in the order of the sections below: before the loop, in the loop, the end. An iteration is
    one training step, in PPO and GRPO several. The loop is `train` (training_loop.py), which without its conditions is

        with run.at_work(batches):
            while run.goes_on():
                run.record_validation(validate())
                run.save()
                step = run.step(run.draw(), loss_fn)
                run.record([step], {})

    team: the processes that train together; only the first of them logs and saves. `team.size` is how many there are
    now: before and after the loop, a forked team is one process.
    """

    # From `RunFiles`: config, device, team, is_new, out_dir, lock, state, and the methods that write the folder.
    # `state` (run_state.py) holds what a checkpoint keeps of this: step, count, seconds, skipped_in_a_row,
    # validated_step, last_validation, planned_steps and processes. `save` adds the rest of its fields.
    # From `begin` or `load`.
    model: nn.Module  # what a checkpoint stores
    format: ModelFormat | None
    # From `prepare`.
    trained: nn.Module  # what the optimizer changes: the model, or that with a value head
    training: TrainingConfig
    optimizer: optim.Optimizer
    schedule: optim.WarmupCosine
    parameters: list[Tensor]
    gradients: Gradients
    steps_per_iteration: int  # 0 except in PPO and GRPO
    # From `at_work`.
    batches: Stream
    bar: Any

    def __init__(self, config: Any, device: str = "cpu", team: Team = ALONE, is_new: bool = True):
        super().__init__(config, device, team, is_new)
        if team.size > 1:
            check_batch(config.batch_size, team.size)
        self.log = RunLog(self.out_dir, silent=team.rank > 0)
        self.parts: dict[str, nn.Module] = {}  # small modules beside the model, which are saved with it
        self.inputs: Mapping[str, str] = {}  # the SHA-256 of tokenizer and data
        self.step_started = 0.0
        # Signals: Ctrl-C, or another of signals.py. 0: none has come.
        self.asked_to_stop = 0  # the number of the signal that has reached this process
        self.stopped_by = 0  # the number of the signal that has reached any process of the team
        # The last checkpoint.
        self.saved_step: int | None = None
        self.last_save = time.monotonic()
        self.has_changed = True  # whether the run has changed since the last checkpoint
        self.is_time_to_save = False  # whether the next checkpoint is due, by process 0's clock: see `goes_on`
        self.resumed_at: int | None = None  # the step at which a resumed run went on
        self._checkpoint: Checkpoint | None = None  # of a resumed run, until `prepare` has taken what it holds

    # --- before the loop ---

    def begin(
        self, model: nn.Module, tokenizer: Tokenizer, format: ModelFormat | None = None, config: Any = None
    ) -> None:
        """Take the model of a new run, move it to the run's device, and keep its tokenizer in the run's folder.

        format: which parts of the model checkpoints store; None: a whole language model. config: the settings, if they
        had to be completed with those of the model.
        """
        self.make_folder()
        self.model = model.to(self.device)
        self.format = format
        self.config = self.config if config is None else config
        self.team.once(lambda: tokenizer.save(self.out_dir))

    def load(self, format: ModelFormat | None = None) -> tuple[Any, Tokenizer]:
        """The model of a resumed run, as its checkpoint has it, on the run's device, and its tokenizer."""
        self._checkpoint = load_checkpoint(self.out_dir, format=format)  # its state is `self.state` already: RunFiles
        self.model = self._checkpoint.model.to(self.device)
        self.format = format
        return self.model, Tokenizer.load(self.out_dir)

    def explain_columns(self, columns: str, unit: str = "tokens", shown: tuple[str, ...] | None = None) -> None:
        """Show what the columns mean. unit: what is counted. shown: the metrics to print; log.jsonl has all."""
        self.log.unit, self.log.shown = unit, shown
        show(f"\nWhat the columns mean:\n{columns}\n")

    def prepare(self, model: nn.Module, training: TrainingConfig, steps_per_iteration: int = 0) -> None:
        """Make the optimizer of `model` and its learning-rate schedule, for a resumed run as its checkpoint has them.

        `model` may have parameters that are not part of the saved model, as PPO's value head. steps_per_iteration: the
        number of steps in an iteration of PPO and GRPO. `eval_interval` then counts iterations, and each iteration is
        one line of the log.
        """
        self.trained, self.training, self.steps_per_iteration = model, training, steps_per_iteration
        self.optimizer, self.schedule = prepare_training(model, training)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.gradients = gradients_for(training)
        self.team.check_same_start(self.parameters)
        if self._checkpoint is None:
            self.inputs = self.team.once(lambda: inputs_of(self.out_dir))
        else:
            self._take_up(self._checkpoint)
            self._checkpoint = None  # the optimizer has copied its moments
        self.state.planned_steps = training.max_iters

    # --- in the loop ---

    @contextlib.contextmanager
    def at_work(self, batches: Stream) -> Iterator[None]:
        """In the block, Ctrl-C lets the iteration finish, a progress bar is shown, and all processes of the team work.

        batches: where the batches are drawn from. Those of a resumed run go on where it stopped.
        """
        self.batches = batches
        batch_size = getattr(self.config, "batch_size", 0)
        if not self.is_new:
            with self._errors_in_state():
                batches.load_state_dict(self.state.batches)
        try:
            with (
                finishing_the_step(self.ask_to_stop, is_team=self.team.size > 1),
                self.team.at_work(self.optimizer, batch_size),
                progress_bar(self.training.max_iters, "training", "step") as self.bar,
            ):
                # A team of one may have become several processes.
                self.state.processes = self.team.size
                self.log.silent = self.team.rank > 0
                if self.team.size > 1:
                    show(f"{self.team.size} processes share each batch of {batch_size}")
                self.bar.update(self.state.step)
                yield
        except ChildProcessError as error:  # one of the team has died
            kept = self._what_is_saved() or "; nothing is saved yet: start the run again"
            raise ChildProcessError(f"{error}{kept}") from None

    def ask_to_stop(self, number: int) -> None:
        """Let the loop end after this iteration, as if the signal of this number had come."""
        self.asked_to_stop = number

    def goes_on(self) -> bool:
        """Whether there are steps left, and nobody has asked the run to stop. Also sets `is_time_to_save`."""
        # All processes of a team agree on this: a signal may have reached one of them, and each has another clock.
        self.stopped_by = max(self.team.gather(self.asked_to_stop))
        waited, *_ = self.team.gather(time.monotonic() - self.last_save)  # by process 0's clock
        self.is_time_to_save = waited > SAVE_SECONDS
        return not self.is_finished and not self.interrupted

    def draw(self) -> list[Any]:
        """The batches of an iteration: one, or several for a step that accumulates their gradients."""
        self.step_started = time.perf_counter()
        count = 1 if self.steps_per_iteration else self.training.gradient_accumulation_steps
        drawn = [next(self.batches) for _ in range(count)]
        if self.team.size > 1:  # then each process learns from its part of each batch
            drawn = [self.team.part_of(batch, self.config.batch_size) for batch in drawn]
        return drawn

    def step(self, batches: list[Any], loss_fn: LossFunction) -> Step:
        """Take one training step (training_step.py) on these batches."""
        return training_step(
            self.trained,
            batches,
            loss_fn,
            self.optimizer,
            self.schedule,
            max_norm=self.training.grad_clip,
            gradients=self.gradients,
            team=self.team,
        )

    @property
    def is_finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.state.step >= self.training.max_iters

    @property
    def interrupted(self) -> bool:
        """Whether a signal has stopped the run before its last step."""
        return self.stopped_by > 0 and not self.is_finished

    @property
    def is_time_to_validate(self) -> bool:
        """Before the first step, every `eval_interval` steps, and after the last one."""
        interval = self.training.eval_interval * (self.steps_per_iteration or 1)
        step = self.state.step
        due = step in (0, self.training.max_iters) or is_due(step, interval)
        return due and step != self.state.validated_step and not self.interrupted

    @property
    def is_time_to_sample(self) -> bool:
        """Whether a sample of text is due, and the step was not skipped."""
        return is_due(self.state.step, self.training.sample_interval) and not self.state.skipped_in_a_row

    def record(self, steps: Sequence[Step], metrics: dict[str, float]) -> None:
        """Count the steps of an iteration, and log them if a line is due. The loop ends by this count.

        metrics: of the iteration, beside the means over its steps. Raises FloatingPointError after 10 skipped steps in
        a row.
        """
        state = self.state
        seconds = time.perf_counter() - self.step_started
        self.has_changed = True
        state.seconds += seconds
        self.bar.update(len(steps))
        for step in steps:
            state.step += 1
            state.count += 0 if step.skipped else step.count
            state.skipped_in_a_row = state.skipped_in_a_row + 1 if step.skipped else 0
            if state.skipped_in_a_row == MAX_SKIPPED:
                break  # to be logged first, and then raised below
        # A line is due after each iteration, the first and the last step, every log_interval steps, slow steps, and
        # skipped ones.
        total = self.training.max_iters
        if self.steps_per_iteration:
            self.log.step(state.step, total, mean_step(steps, metrics), seconds, state.count)
        elif (
            state.step in (1, total)
            or is_due(state.step, self.training.log_interval)
            or seconds > SLOW_STEP
            or steps[0].skipped
        ):
            self.log.step(state.step, total, steps[0], seconds, state.count)
        if state.step == 2 and not self.steps_per_iteration and seconds * total > 60:  # the first step is slower
            show(f"{total - 2:,} more steps like this one take about {seconds * (total - 2) / 60:.0f} min")
        if state.skipped_in_a_row == MAX_SKIPPED:
            words = "steps in a row had a loss or gradient that is not finite"
            raise FloatingPointError(f"{MAX_SKIPPED} {words}: {self._likely_cause()}")

    def record_validation(self, metrics: dict[str, float]) -> None:
        """Log what was measured on held-out data. Raises FloatingPointError for a "val_loss" that is not finite."""
        if metrics:
            self.log.validation(self.state.step, metrics)
        if not math.isfinite(metrics.get("val_loss", 0.0)):
            raise FloatingPointError(f"the validation loss is not finite: {self._likely_cause()}")
        self.state.last_validation = metrics
        self.state.validated_step = self.state.step
        self.has_changed = True

    def save(self) -> None:
        """Write a checkpoint into the run's folder. Raises FloatingPointError for weights that are not finite, OSError.

        While steps are skipped, the weights may be the reason: the last good checkpoint stays, except at the end, where
        there is nothing better. Resuming a finished run writes nothing.
        """
        state = self.state
        if not self.has_changed or (state.skipped_in_a_row and not self.is_finished):
            return
        for p in self.parameters:
            if not backend.module_of(p.data).isfinite(p.data).all():
                raise FloatingPointError(f"at step {state.step} a weight is no longer finite: {self._likely_cause()}")
        self.team.share_state(self.optimizer)
        if self.team.rank == 0:
            state.settings = dataclasses.asdict(self.config)
            state.random = backend.random_state()
            state.schedule = self.schedule.state_dict()
            state.batches = self.batches.state_dict()
            for name, part in self.parts.items():
                state.parts[name] = {key: to_numpy(array).tolist() for key, array in part.state_dict().items()}
            values = dataclasses.asdict(state)
            save_checkpoint(self.out_dir, self.model, self.optimizer, values, self.format, self.inputs)
        self.saved_step = state.step
        self.last_save = time.monotonic()
        self.has_changed = False

    def _likely_cause(self) -> str:
        return f"perhaps the learning rate of {self.training.learning_rate} is too high{self._what_is_saved()}"

    def _what_is_saved(self) -> str:
        saved = self.saved_step
        return "" if saved is None else f"; {self.out_dir} has the last good checkpoint, of step {saved}"

    # --- a resumed run ---

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was saved, whose weights the model already has.

        Raises CheckpointError for another run's state, ValueError for a run that has done more steps than it should.
        """
        state = self.state
        with self._errors_in_state():
            moments = (checkpoint.optimizer_state or {})["state"]  # KeyError: it was saved without an optimizer
            check_moments(moments, self.training.optimizer)
            groups = self.optimizer.state_dict()["param_groups"]  # of the run's settings
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.schedule.load_state_dict(state.schedule)
            backend.set_random_state(state.random)
            for name, part in self.parts.items():
                dtypes = {key: array.dtype for key, array in part.state_dict().items()}
                part.load_state_dict({key: np.array(rows, dtypes[key]) for key, rows in state.parts[name].items()})
        self._check_length()
        self._show_where_it_goes_on()
        self.inputs = checkpoint.inputs
        self.saved_step = self.resumed_at = state.step
        self.has_changed = state.planned_steps != self.training.max_iters  # only its length, so far
        if self.is_finished and state.planned_steps > state.step:
            state.validated_step = None  # once more: pretraining validates its last step on all of the held-out text
        self.log.rewind(state.step)

    def _check_length(self) -> None:
        """Raise ValueError if the run has done more steps than it should have."""
        if self.state.step > self.training.max_iters:
            name, length, unit = self._length()
            has_done = math.ceil(self.state.step / unit)
            raise ValueError(f"{name} {length:,} is less than the run in {self.out_dir} has done: {has_done:,}")

    def _show_where_it_goes_on(self) -> None:
        """Show the step, and what the learning rate does if the run has another length than was planned."""
        step, planned, total = self.state.step, self.state.planned_steps, self.training.max_iters
        show(f"resuming {self.out_dir} at step {step}")
        if step < total and total != planned:
            name, length, unit = self._length()
            show(
                f"this is not the run that was planned with {name} {length:,} from the start: its learning rate has "
                f"followed the schedule of {planned // unit:,}; from step {step:,} on it follows that of {length:,}"
            )

    def _length(self) -> tuple[str, int, int]:
        """The setting for the run's length, its value, and how many steps its unit is.

        ("max_iters", 500, 1), or in PPO ("total_iterations", 20, 4), where an iteration takes four steps.
        """
        part, name = length_setting(self.config)
        length = getattr(getattr(self.config, part), name)
        return name, length, self.training.max_iters // length

    def _errors_in_state(self) -> contextlib.AbstractContextManager[None]:
        return errors_at(f"the checkpoint in {self.out_dir} is not of a run like this", CheckpointError, WRONG_CONTENT)

    # --- the end ---

    def report(self, picture: Path | None) -> None:
        """Show how much was done, and where the results are."""
        state = self.state
        if state.step == self.resumed_at:
            option = f"--{length_setting(self.config)[1].replace('_', '-')}"
            show(f"\nthis run was finished already; to train it longer, resume it with a larger {option}")
        done = f"trained {state.step} steps, {state.count:,} {self.log.unit}, in {state.seconds:.0f} s"
        show(f"\n{done}; saved in {quoted(self.out_dir)}")
        show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")


def is_due(step: int, interval: int) -> bool:
    """Whether something that happens every `interval` steps happens after this step. 0 means never."""
    return interval > 0 and step % interval == 0
