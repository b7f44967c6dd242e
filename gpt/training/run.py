"""A run and its folder: what the training loop (training_loop.py) needs so that it can be stopped and resumed.

    def train_something(run: Run, config: SomeConfig) -> None:
        if run.is_new:
            model, tokenizer = load_model(config.init_from)
            train_items, test_items = load_data(config.data)
            run.begin(model, tokenizer)                                 # keeps the tokenizer in the run's folder
            run.keep_data(train=train_items, test=test_items)           # and the data
        else:
            model, tokenizer = run.load()                               # what is in its folder
            train_items, test_items = run.load_data(read_examples)
        run.prepare(model, config.training)                             # optimizer and schedule
        batches = ShuffledBatches(train_items, ...)
        train(run, batches, one_step(run, loss_fn), validate)           # the loop

`start` calls such a function for a new run, and `resume` for one that was interrupted, which continues as if it had
never stopped. A run that fails, or that Ctrl-C ends, before its first checkpoint leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from minigrad import backend, manual_seed, nn

from ..console import progress_bar, quoted, show
from ..files import write_json_lines
from ..tokenizer.tokenizer import Tokenizer
from .checkpoint import CheckpointError, ModelFormat, has_checkpoint, inputs, load_checkpoint, save_checkpoint
from .data_parallel import ALONE, Team, weights_sha256
from .folder_lock import locked
from .log import RunLog, mean_step
from .resuming import arithmetic, continue_from, continue_stream, saved_extra, state_of
from .run_folder import check_unused, claim, leaving_nothing_unfinished, length_setting, settings_of
from .signals import finishing_the_step
from .training_config import TrainingConfig, prepare_training
from .training_step import Gradients, LossFunction, Step, gradients_for, training_step

LEAST_EVALUATED = 40  # held-out items, however short the run is
MAX_SKIPPED = 10  # steps in a row that are not finite
SAVE_SECONDS = 600.0  # a checkpoint at least so often, beside those after validations


def start(train: Callable[[Run, Any], None], config: Any, device: str = "cpu", team: Team = ALONE) -> Run:
    """Begin a run in the folder `config.out_dir`: call `train(run, config)`. Returns the run.

    Ctrl-C, or another signal of signals.py, finishes the step, saves, and sets the run's `interrupted`; a second one
    stops at once. Raises FileExistsError if the folder already holds a run, BlockingIOError if another process is
    writing there, and what `train` and the run's methods raise.
    """
    with contextlib.ExitStack() as stack:
        if team.rank == 0:
            stack.enter_context(locked(config.out_dir))
            check_unused(Path(config.out_dir))
            stack.enter_context(leaving_nothing_unfinished(config.out_dir))
            claim(config.out_dir)
        manual_seed(config.seed)
        run = Run(config, device, team)
        train(run, config)
    return run


def resume(
    train: Callable[[Run, Any], None],
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
    with locked(out_dir) if team.rank == 0 else contextlib.nullcontext():
        run = Run(settings_of(config_class, out_dir, length), device, team, is_new=False)
        train(run, run.config)
    return run


def start_or_resume(train: Callable[[Run, Any], None], config: Any, device: str = "cpu") -> Run:
    """`resume` the run in the folder `config.out_dir` if there is one, else `start` it."""
    if has_checkpoint(config.out_dir):
        return resume(train, type(config), config.out_dir, device)
    return start(train, config, device)


class Stream(Protocol):
    """Endless batches. Their state, JSON-able, is the place where a resumed run goes on."""

    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class Run:
    """A run and its folder.

    config: settings with `out_dir`, `seed` and, except for pretraining, the name of a `stage`. team: the processes that
    train together; only the first of them logs and saves. extra: JSON-able, saved with each checkpoint, and there again
    when the run is resumed.
    """

    def __init__(self, config: Any, device: str = "cpu", team: Team = ALONE, is_new: bool = True):
        self.config, self.device, self.team, self.is_new = config, device, team, is_new
        if team.processes > 1:
            team.check_batch(config.batch_size)
        self.out_dir = Path(config.out_dir)
        self.log = RunLog(self.out_dir, silent=team.rank > 0)
        self.parts: dict[str, nn.Module] = {}  # small modules beside the model, which are saved with it
        # model, format: from `begin` or `load`. trained, optimizer, schedule, training, gradient_fn: from `prepare`.
        # batches: from `at_work`.
        # How far the run is: saved with each checkpoint.
        self.extra: dict[str, Any] = {}
        self.steps_done = 0
        self.count = 0  # of the items (tokens, pairs, ...) that were learned from
        self.seconds = 0.0
        self.skipped_in_a_row = 0
        self.validated_step: int | None = None
        self.last_validation: dict[str, float] = {}
        self.stream_state: dict[str, Any] = {}  # where the stream of batches goes on
        # What has happened in this process.
        self.resumed_at: int | None = None  # the step at which a resumed run went on
        self.step_started = 0.0
        self.saved_step: int | None = None
        self.last_save = time.monotonic()
        self.asked_to_stop = 0  # the number of a signal that has reached this process: Ctrl-C, or another of signals.py
        self.stopped_by = 0  # the number of one that has reached any process of the team
        self.interrupted = False  # whether that was before the last step
        self._saved: tuple[Any, ...] = ()  # progress at the last `save`: the same again needs no new checkpoint
        self._checkpoint: Any = None  # of a resumed run, until `prepare` has taken what it holds
        if is_new:
            self.extra["most_tested"] = max(self._items_to_learn_from() // 3, LEAST_EVALUATED)
        else:
            self.extra, self.inputs = saved_extra(config.out_dir)

    # --- before the loop ---

    def begin(
        self, model: nn.Module, tokenizer: Tokenizer, format: ModelFormat | None = None, config: Any = None
    ) -> None:
        """Take the model of a new run, move it to the run's device, and keep its tokenizer in the folder.

        format: which parts of the model checkpoints store; None: a whole language model. config: the settings, if they
        had to be completed with those of the model.
        """
        self.model, self.format = model.to(self.device), format
        self.config = self.config if config is None else config
        self.team.once(lambda: tokenizer.save(self.out_dir))

    def keep_data(self, **data: Sequence[Any]) -> None:
        """Keep the items of each part, train=[...], as JSON lines, data/train.jsonl, so you can look at them."""
        for name, items in data.items():
            write_json_lines(self.out_dir / "data" / f"{name}.jsonl", [item.as_json() for item in items])

    def load(self, format: ModelFormat | None = None) -> tuple[Any, Tokenizer]:
        """The model of a resumed run, as its checkpoint has it, on the run's device, and its tokenizer."""
        self._checkpoint = load_checkpoint(self.out_dir, format=format)
        self.model, self.format = self._checkpoint.model.to(self.device), format
        return self.model, Tokenizer.load(self.out_dir)

    def load_data(self, read: Callable[[Path], Any], names: Sequence[str] = ("train", "test")) -> list[Any]:
        """What a run has kept with `keep_data` under these names. read: reads one file."""
        return [read(self.out_dir / "data" / f"{name}.jsonl") for name in names]

    @property
    def max_eval_items(self) -> int:
        """The most held-out items (of a text: sequences) to evaluate: a third of the number that the run learns from.

        Reading an item takes a third of the time of learning from it, and so does asking the model a question. So the
        evaluation of a short run takes no longer than its training. The number depends on the run's settings alone. A
        run that is trained longer keeps it, because its results are compared with those before training.
        """
        return self.extra["most_tested"]

    def _items_to_learn_from(self) -> int:
        part, name = length_setting(self.config)
        settings = getattr(self.config, part)
        batch_size = getattr(settings, "batch_size", 0) or self.config.batch_size  # PPO's, GRPO's: with the length
        return getattr(settings, name) * self.config.training.gradient_accumulation_steps * batch_size

    def check_unchanged(self, name: str, model: nn.Module, source: str) -> None:
        """Raise CheckpointError unless a model that the run needs beside its own is the one that it was started with.

        name: what the model is to the run, such as its reference. source: where it was loaded from.
        """
        now = weights_sha256(model.parameters())
        then = self.extra.setdefault(f"{name}_sha256", now)
        if then != now:
            raise CheckpointError(
                f"the {name.replace('_', ' ')} in {source} is not the one that the run in {self.out_dir} was started "
                "with: put the old one back, or start a new run"
            )

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
        self.gradient_fn: Gradients = gradients_for(training, self.team.gradients if self.team.processes > 1 else None)
        self.team.check_same_start(self.parameters)
        self.arithmetic = arithmetic(self.parameters[0], self.team)
        if self._checkpoint is None:
            self.inputs = self.team.once(lambda: inputs(self.out_dir))
        else:
            self._saved = continue_from(self, self._checkpoint)
            self._checkpoint = None  # the optimizer has copied its moments

    # --- in the loop ---

    @contextlib.contextmanager
    def at_work(self, batches: Stream) -> Iterator[None]:
        """In the block, Ctrl-C lets the iteration finish, a progress bar is shown, and all processes of the team work.

        batches: where the batches are drawn from. Those of a resumed run go on where it stopped.
        """
        self.batches = batches
        if not self.is_new:
            continue_stream(self, batches)
        with (
            finishing_the_step(self),
            self.team.at_work(self),
            progress_bar(self.training.max_iters, "training", "step") as self.bar,
        ):
            self.log.silent = self.team.rank > 0
            self.bar.update(self.steps_done)
            yield

    def goes_on(self) -> bool:
        """Whether there is something left to do, and nobody has asked the run to stop."""
        self.step_started = time.perf_counter()
        # If one process was interrupted, all of them stop after the same step. Process 0's clock decides for all.
        states = self.team.gather((self.asked_to_stop, time.monotonic() - self.last_save))
        self.stopped_by = max(number for number, _ in states)
        self.is_time_to_save = states[0][1] > SAVE_SECONDS
        self.interrupted = self.stopped_by > 0 and not self.is_finished
        return not self.is_finished and not self.interrupted

    def draw(self) -> list[Any]:
        """The batches of an iteration: one, or several for a step that accumulates their gradients."""
        self.step_started = time.perf_counter()
        count = 1 if self.steps_per_iteration else self.training.gradient_accumulation_steps
        n = 0 if self.team.size == 1 else self.config.batch_size
        return [self.team.part_of(next(self.batches), n) for _ in range(count)]

    def step(self, batches: list[Any], loss_fn: LossFunction) -> Step:
        """Take one training step (training_step.py) on these batches."""
        max_norm = self.training.grad_clip
        return training_step(self.trained, batches, loss_fn, self.optimizer, self.schedule, max_norm, self.gradient_fn)

    @property
    def is_finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.steps_done >= self.training.max_iters

    @property
    def is_time_to_validate(self) -> bool:
        """Before the first step, every `eval_interval` steps, and after the last one."""
        interval = self.training.eval_interval * (self.steps_per_iteration or 1)
        due = self.steps_done in (0, self.training.max_iters) or is_due(self.steps_done, interval)
        return due and self.steps_done != self.validated_step and not self.interrupted

    @property
    def is_time_to_sample(self) -> bool:
        """Whether a sample of text is due, and the step was not skipped."""
        return is_due(self.steps_done, self.training.sample_interval) and not self.skipped_in_a_row

    def record(self, steps: Sequence[Step], metrics: dict[str, float]) -> None:
        """Count the steps of an iteration, and log them if a line is due. The loop ends by this count.

        metrics: of the iteration, beside the means over its steps. Raises FloatingPointError after 10 skipped steps in
        a row.
        """
        seconds = time.perf_counter() - self.step_started
        self.seconds += seconds
        self.bar.update(len(steps))
        for step in steps:
            self.steps_done += 1
            if step.skipped:
                self.skipped_in_a_row += 1
                if self.skipped_in_a_row >= MAX_SKIPPED:
                    break
            else:
                self.count += step.count
                self.skipped_in_a_row = 0
        # A line is due after each iteration, the first and the last step, every log_interval steps, and skipped ones.
        n, total = self.steps_done, self.training.max_iters
        is_line_due = n in (1, total) or is_due(n, self.training.log_interval) or self.skipped_in_a_row > 0
        if self.steps_per_iteration or is_line_due:
            step = mean_step(steps, metrics) if self.steps_per_iteration else steps[0]
            self.log.step(n, total, step, seconds, self.count)
        if self.skipped_in_a_row >= MAX_SKIPPED:
            words = "steps in a row had a loss or gradient that is not finite"
            raise FloatingPointError(f"{self.skipped_in_a_row} {words}: {self._likely_cause()}")

    def record_validation(self, metrics: dict[str, float]) -> None:
        """Log what was measured on held-out data. Raises FloatingPointError for a "val_loss" that is not finite."""
        if metrics:
            self.log.validation(self.steps_done, metrics)
        if not math.isfinite(metrics.get("val_loss", 0.0)):
            raise FloatingPointError(f"the validation loss is not finite: {self._likely_cause()}")
        self.last_validation, self.validated_step = metrics, self.steps_done

    def save(self) -> None:
        """Write a checkpoint into the run's folder. Raises FloatingPointError for weights that are not finite, OSError.

        While steps are skipped, the weights may be the reason: the last good checkpoint stays, except at the end, where
        there is nothing better. Resuming a finished run writes nothing.
        """
        progress = (self.steps_done, self.validated_step, json.dumps(self.extra))
        if progress == self._saved:
            return  # nothing is new
        if self.skipped_in_a_row and self.steps_done != self.training.max_iters:
            return
        for p in self.parameters:
            if not backend.module_of(p.data).isfinite(p.data).all():
                at = f"at step {self.steps_done} a weight is no longer finite"
                raise FloatingPointError(f"{at}: {self._likely_cause()}")
        self.team.share_state(self.optimizer)
        if self.team.rank == 0:
            save_checkpoint(self.out_dir, self.model, self.optimizer, state_of(self), self.format)
        self.saved_step, self._saved, self.last_save = self.steps_done, progress, time.monotonic()

    def _likely_cause(self) -> str:
        cause = f"perhaps the learning rate of {self.training.learning_rate} is too high"
        kept = f"{self.out_dir} has the last good checkpoint, of step {self.saved_step}"
        return cause if self.saved_step is None else f"{cause}; {kept}"

    # --- the end ---

    def report(self, done: str, picture: Path | None) -> None:
        """Show how much was `done`, and where the results are."""
        if self.steps_done == self.resumed_at:
            option = f"--{length_setting(self.config)[1].replace('_', '-')}"
            show(f"\nthis run was finished already; to train it longer, resume it with a larger {option}")
        show(f"\n{done} in {self.seconds:.0f} s; saved in {quoted(self.out_dir)}")
        show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")


def is_due(step: int, interval: int) -> bool:
    """Whether something that happens every `interval` steps happens after this step. 0 means never."""
    return interval > 0 and step % interval == 0
