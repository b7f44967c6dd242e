"""A run: what surrounds every training loop, so that the loop itself can be read on the page of its stage.

    def train_something(run: Run, config: SomeConfig) -> None:
        model, tokenizer = run.model_from(lambda: load_model(config.init_from))    # on resuming: the checkpoint's
        train, test = run.data(lambda: load_data(config.data), read_examples)      # on resuming: those in its folder
        optimizer, schedule = run.prepare(model, config.training)
        with run:                                                  # a lock on the folder, Ctrl-C, a progress bar
            for batches in run.batches(ShuffledBatches(train, ...), validate):
                run.record(training_step(model, batches, loss_fn, optimizer, schedule, max_norm, run.gradients))

`start` calls such a function for a new run, and `resume` for one that was interrupted. `model_from`, `data` and `keep`
get a function instead of a value, because it is called for a new run only; a resumed run reads the result from its
folder. What goes through them is written when the loop begins. (The tokens of a text are written before, because they
are read from disk.) A run that fails, or that Ctrl-C ends, before its first checkpoint leaves nothing behind. Between
two steps, `batches` evaluates the model and saves it, and ends the loop after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from minigrad import autocast, backend, manual_seed, nn, optim

from ..console import progress_bar, quoted, show
from ..files import write_json_lines
from ..tokenizer.tokenizer import Tokenizer
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    ModelKind,
    check_inputs,
    check_like,
    has_checkpoint,
    inputs,
    load_checkpoint,
    load_state,
    save_checkpoint,
    writing,
)
from .data_parallel import ALONE, Team, weights_sha256
from .log import RunLog, mean_step
from .run_folder import (
    arithmetic,
    check_moments,
    check_unused,
    claim,
    keep_batches,
    leaving_nothing_unfinished,
    length_setting,
    settings_of,
)
from .training_config import TrainingConfig, prepare_training
from .training_step import Gradients, Step, gradients_for

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
LEAST_TESTED = 40  # held-out items, however short the run is
MAX_SKIPPED = 10  # steps in a row that are not finite


def start(train: Callable[[Run, Any], None], config: Any, device: str = "cpu", team: Team = ALONE) -> Run:
    """Begin a run in the folder `config.out_dir`: call `train(run, config)`. Returns the run.

    Ctrl-C finishes the step, saves, and sets the run's `interrupted`; a second Ctrl-C stops at once. Raises
    FileExistsError if the folder already holds a run, BlockingIOError if another process is writing there, and what
    `train` and `Run.batches` raise.
    """
    with writing(config.out_dir, team):
        team.once(lambda: check_unused(Path(config.out_dir)))
        manual_seed(config.seed)
        run = Run(config, device, team)
        with leaving_nothing_unfinished(run.out_dir) if team.rank == 0 else contextlib.nullcontext():
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
    with writing(out_dir, team):
        run = Run(settings_of(config_class, out_dir, length), device, team, is_new=False)
        check_inputs(out_dir, load_state(out_dir))  # before they are read
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
    train together; only the first of them logs and saves. extra: JSON-able, saved with each checkpoint.
    """

    def __init__(self, config: Any, device: str = "cpu", team: Team = ALONE, is_new: bool = True):
        self.config, self.device, self.team, self.is_new = config, device, team, is_new
        self.out_dir = Path(config.out_dir)
        self.log = RunLog(self.out_dir, silent=team.rank > 0)
        self.extra: dict[str, Any] = {}
        self.parts: dict[str, Any] = {}  # objects whose `state_dict()`, JSON-able, belongs to the checkpoint
        self.steps_done = 0
        self.resumed_at: int | None = None  # the step at which a resumed run goes on
        self.count = 0  # of the items (tokens, pairs, ...) that were learned from
        self.seconds = 0.0
        self.best_loss = math.inf
        self.measured: dict[str, float] = {}  # what the last validation of this process found
        self.skipped_in_a_row = 0
        self.saved_step: int | None = None
        self.interrupted = False  # by Ctrl-C, before the last step
        self.asked_to_stop = False  # also in the last step or the evaluation after it, which is no interruption
        self._checkpoint: Checkpoint | None = None
        # Called when the loop begins: all checks passed.
        self.write_at_start: list[Callable[[], Any]] = [partial(claim, self.out_dir)] if is_new else []

    # --- before the loop: what is made for a new run, and found in the folder of a resumed one ---

    def model_from(self, make: Callable[[], tuple[M, Tokenizer]], kind: ModelKind | None = None) -> tuple[M, Tokenizer]:
        """The model to train, on the run's device, and its tokenizer.

        kind: what a checkpoint stores of the model (see `save_checkpoint`). None: a whole language model.
        """
        self.kind = kind
        if self.is_new:
            model, tokenizer = make()
            self.write_at_start.append(lambda: tokenizer.save(self.out_dir))
        else:
            self._checkpoint = load_checkpoint(self.out_dir, kind=kind)
            model, tokenizer = self._checkpoint.model, Tokenizer.load(self.out_dir)
        self.model: nn.Module = model.to(self.device)
        return model, tokenizer

    def data(
        self,
        make: Callable[[], Sequence[Sequence[T]]],
        read: Callable[[Path], Sequence[T]],
        names: Sequence[str] = ("train", "test"),
    ) -> list[Sequence[T]]:
        """The items of each of `names`: those of `make` for a new run, else `read` from the run's folder.

        They are kept there as JSON lines, `data/train.jsonl` and so on, so you can look at them.
        """
        paths = [self.out_dir / "data" / f"{name}.jsonl" for name in names]
        if not self.is_new:
            return [read(path) for path in paths]
        made = list(make())
        for path, items in zip(paths, made, strict=True):
            self.write_at_start.append(partial(write_json_lines, path, [item.as_json() for item in items]))  # type: ignore[attr-defined]
        return made

    def keep(self, name: str, make: Callable[[], T], like: Any = None) -> T:
        """Return what `make()` gave before training, such as a measurement. It is JSON-able and kept in a checkpoint.

        like: a value with the same keys and types (see `check_like`). Raises CheckpointError for a damaged checkpoint.
        """
        if self._checkpoint is None:
            self.extra[name] = json.loads(json.dumps(make()))
        else:
            self.extra[name] = self._checkpoint.state["extra"].get(name)
            if like is not None:
                check_like(self.extra[name], like, f"the state's {name}")
        return self.extra[name]

    def check_unchanged(self, name: str, model: nn.Module, source: str) -> None:
        """Raise CheckpointError unless a model that the run needs beside its own is the one that it was started with.

        name: what the model is to the run, such as its reference. source: where it was loaded from.
        """
        now = weights_sha256(model.parameters())
        then = self.keep(f"{name}_sha256", lambda: now)
        if then not in (now, None):  # None: the run is older than this check
            raise CheckpointError(
                f"the {name.replace('_', ' ')} in {source} is not the one that the run in {self.out_dir} was started "
                "with: put the old one back, or start a new run"
            )

    def explain_columns(self, columns: str, unit: str = "tokens", shown: tuple[str, ...] | None = None) -> None:
        """Show what the columns mean. unit: what is counted. shown: the metrics to print; log.jsonl has all."""
        self.log.unit, self.log.shown = unit, shown
        show(f"\nWhat the columns mean:\n{columns}\n")

    def prepare(self, model: nn.Module, training: TrainingConfig) -> tuple[optim.Optimizer, optim.WarmupCosine]:
        """The optimizer of `model` and its learning-rate schedule. `model` may have parameters that are not part of the
        saved model, as PPO's value head.
        """
        self.training = training
        self.optimizer, self.schedule = prepare_training(model, training)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        return self.optimizer, self.schedule

    @property
    def most_tested(self) -> int:
        """The most held-out items (of a text: sequences) to evaluate: a third of the number that the run learns from.

        Reading an item takes a third of the time of learning from it, and asking the model a question about as long. So
        the evaluation of a short run does not take longer than its training, but depends on the run's settings alone. A
        run that is trained longer keeps its number, because its results are compared with those before training.
        """

        def third() -> int:
            part, name = length_setting(self.config)
            settings = getattr(self.config, part)
            batch_size = getattr(settings, "batch_size", 0) or self.config.batch_size  # PPO's, GRPO's: with the length
            learned = getattr(settings, name) * self.config.training.gradient_accumulation_steps * batch_size
            return max(learned // 3, LEAST_TESTED)

        return self.keep("most_tested", third) or sys.maxsize  # None: the run began when there was no limit

    @property
    def gradients(self) -> Gradients:
        """How `training_step` computes gradients: with accumulation, low precision or a team, as the settings say."""
        return gradients_for(self.training, self.team.gradients if self.team.size > 1 else None)

    # --- the loop ---

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:
            stack.enter_context(writing(self.out_dir, self.team))
            stack.enter_context(self._ctrl_c_finishes_the_step())
            self.bar = stack.enter_context(progress_bar(self.training.max_iters, "training", "step"))
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

    def batches(
        self,
        stream: Stream,
        validate: Callable[[], dict[str, float]] | None = None,
        steps_per_iteration: int | None = None,
    ) -> Iterator[list[Any]]:
        """The batches of each step, until `max_iters` steps are done or Ctrl-C is pressed.

        validate() -> metrics on held-out data; it is called, and a checkpoint saved, before the first step, every
        `eval_interval` steps, and after the last step. steps_per_iteration: the number of steps on each batch in PPO
        and GRPO. `eval_interval` then counts iterations, and each iteration is one line of the log.

        Raises FloatingPointError after 10 skipped steps in a row, and if a weight or the validation loss is no longer
        finite; OSError if the folder cannot be written; ValueError if the processes of the team differ. The last good
        checkpoint stays.
        """
        training, total = self.training, self.training.max_iters
        self.stream, self.steps_per_iteration = stream, steps_per_iteration
        self.team.check_same(dataclasses.asdict(training))
        self.team.check_same_start(self.parameters)
        if self._checkpoint is not None:
            self.restore(self._checkpoint)
        else:
            self.team.use_different_dropout()
            self.team.once(self._write_beginning)
            self.inputs = inputs(self.out_dir)
        if self.saved_step is None:
            self._validate(validate)
            self.save()
        self.bar.update(self.steps_done)

        # PPO and GRPO get one batch per iteration, and divide it themselves.
        per_step = 1 if steps_per_iteration else training.gradient_accumulation_steps
        interval = training.eval_interval * (steps_per_iteration or 1)
        stopping = any(self.team.gather(self.interrupted))
        while self.steps_done < total and not stopping:
            self._started = time.perf_counter()
            yield [next(stream) for _ in range(per_step)]  # the caller learns from them

            to_validate = self.steps_done == total or is_due(self.steps_done, interval)
            is_sound = to_validate and self._validate(validate)
            # If one process was interrupted, all of them stop after the same step.
            stopping = any(self.team.gather(self.interrupted))
            # After a step that was skipped, only a validation can tell whether the weights are still good. At the end
            # they are saved without one, as in PPO and GRPO: all that was learned since the last checkpoint is in them.
            is_good = self.skipped_in_a_row == 0 or is_sound or self.steps_done == total
            if is_good and (to_validate or stopping):
                self.save()
        self.asked_to_stop = stopping
        self.interrupted = stopping and self.steps_done < total

    def record(self, *steps: Step, **metrics: float) -> None:
        """Count a step, or all steps of an iteration, and log them in one line if a line is due.

        metrics: of an iteration, beside the means over its steps.
        """
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        self.bar.update(len(steps))
        for step in steps:
            self.steps_done += 1
            if step.skipped:
                process = f"-process-{self.team.rank}" if self.team.size > 1 else ""
                keep_batches(self.out_dir / f"nonfinite-step-{self.steps_done}{process}.npz", step.batches)
                self.skipped_in_a_row += 1
                if self.skipped_in_a_row >= MAX_SKIPPED:
                    break
            else:
                self.count += step.count
                self.skipped_in_a_row = 0
        n, total = self.steps_done, self.training.max_iters
        is_wanted = self.steps_per_iteration is not None or n in (1, total) or is_due(n, self.training.log_interval)
        if is_wanted or self.skipped_in_a_row:
            step = steps[0] if self.steps_per_iteration is None else mean_step(steps, metrics)
            self.log.step(n, total, step, seconds, self.count)
        if self.skipped_in_a_row >= MAX_SKIPPED:
            words = "steps in a row had a loss or gradient that is not finite"
            raise FloatingPointError(f"{self.skipped_in_a_row} {words}: {self._likely_cause()}")

    @property
    def is_time_to_sample(self) -> bool:
        """Whether a sample of text is due, and the step was not skipped."""
        due = is_due(self.steps_done, self.training.sample_interval)
        return due and not self.skipped_in_a_row and self.team.rank == 0

    def _validate(self, validate: Callable[[], dict[str, float]] | None) -> bool:
        """Log what `validate()` measures. Returns whether a validation loss has shown that the weights are good."""
        with autocast(enabled=False):  # in float32, also where rollouts have the precision of the steps
            metrics = self.measured = {} if validate is None else validate()
        if metrics:
            self.log.validation(self.steps_done, metrics)
        if "val_loss" not in metrics or self.steps_per_iteration is not None:
            return False  # the loss on given answers is not what PPO and GRPO lower
        if not math.isfinite(metrics["val_loss"]):
            raise FloatingPointError(f"the validation loss is not finite: {self._likely_cause()}")
        self.best_loss = min(self.best_loss, metrics["val_loss"])
        return True

    def _likely_cause(self) -> str:
        place = f"batches that were skipped are kept in {self.out_dir}"
        if self.saved_step is not None:
            place += f", with the last good checkpoint, of step {self.saved_step}"
        return f"the learning rate of {self.training.learning_rate} is too high, or the data are not finite; {place}"

    @contextlib.contextmanager
    def _ctrl_c_finishes_the_step(self) -> Iterator[None]:
        """The first Ctrl-C lets the step finish, so no half-updated weights are saved; the second stops at once."""
        self.interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        import signal  # a browser has none

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

    # --- saving and resuming ---

    def state_dict(self) -> dict[str, Any]:
        """Everything except the weights and the optimizer's state, JSON-able."""
        stage = getattr(self.config, "stage", None)
        return {
            "step": self.steps_done,
            "count": self.count,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,  # JSON has no inf
            "schedule": self.schedule.state_dict(),
            "random": backend.random_state(),
            "batches": self.stream.state_dict(),
            "arithmetic": arithmetic(self.parameters[0], self.team),
            "training": dataclasses.asdict(self.training),
            "inputs": self.inputs,
            "extra": {
                **self.extra,
                **({} if stage is None else {"stage": stage}),
                "run": dataclasses.asdict(self.config),
                **{name: part.state_dict() for name, part in self.parts.items()},
            },
        }

    def save(self) -> None:
        """Write a checkpoint into the run's folder. Raises FloatingPointError for weights that are not finite."""
        for p in self.parameters:
            if not backend.module_of(p.data).isfinite(p.data).all():
                at = f"at step {self.steps_done} a weight is no longer finite"
                raise FloatingPointError(f"{at}: {self._likely_cause()}")
        if self.team.rank == 0:
            save_checkpoint(self.out_dir, self.model, self.optimizer, self.state_dict(), self.kind)
        self.saved_step = self.steps_done

    def _write_beginning(self) -> None:
        for write in self.write_at_start:
            write()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint whose weights the model already has.

        Shows a warning if the rest of the run will not be bit-exact. Raises CheckpointError for weights without an
        optimizer, or with a state that a run of these settings cannot have.
        """
        if checkpoint.optimizer_state is None:
            raise CheckpointError(f"the checkpoint in {self.out_dir} holds weights only: it cannot be resumed")
        state = dict(checkpoint.state)
        if isinstance(state.get("training"), dict):  # settings that are newer than the run have their defaults
            state["training"] = dataclasses.asdict(TrainingConfig()) | state["training"]
        self.inputs = check_inputs(self.out_dir, state)
        try:
            free = ("arithmetic", "inputs", "extra")
            expected = {name: value for name, value in self.state_dict().items() if name not in free}
            if isinstance(state["batches"], dict) and state["batches"].keys() != expected["batches"].keys():
                raise ValueError("it drew its batches as older versions did; a new run can begin from its model")
            check_like({name: state[name] for name in expected}, expected, "the state")
            planned, total = state["training"]["max_iters"], self.training.max_iters
            state["training"] = {**state["training"], "max_iters": total}  # `resume` may have been given another length
            schedule = {**expected["schedule"], "steps_done": state["step"]}
            if (state["training"], state["schedule"]) != (expected["training"], schedule):
                raise ValueError("its settings of training, or its learning rates, are those of another run")
            if state["step"] > planned:
                raise ValueError(f"it is at step {state['step']} of {planned}")
            check_moments(self.optimizer, checkpoint.optimizer_state, state["step"])
            self.optimizer.load_state_dict(checkpoint.optimizer_state)
            self.schedule.load_state_dict(state["schedule"])
            backend.set_random_state(state["random"])
            self.team.use_different_dropout()
            self.stream.load_state_dict(state["batches"])
            for name, part in self.parts.items():
                part.load_state_dict(state["extra"][name])
            self.steps_done, self.count, self.seconds = state["step"], state["count"], state["seconds"]
            self.skipped_in_a_row = state["skipped_in_a_row"]
            self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
            then, now = {"processes": 1, **state["arithmetic"]}, arithmetic(self.parameters[0], self.team)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"the checkpoint in {self.out_dir} is not of a run like this: {error}") from None
        part, name = length_setting(self.config)
        length = getattr(getattr(self.config, part), name)
        done, per = self.steps_done, total // length  # steps of an iteration of PPO and GRPO, or 1
        if done > total:
            raise ValueError(f"{name} {length:,} is less than the run in {self.out_dir} has done: {-(-done // per):,}")
        # A run that now ends here, sooner than planned, is validated and saved once more.
        self.saved_step = self.resumed_at = None if done == total < planned else done
        self.log.rewind(done)
        changed = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        warning = (
            f"; changed since the run was saved: {', '.join(changed)}; sums are taken in another order, so the run "
            "will equal an uninterrupted one up to rounding, but not bit for bit"
        )
        show(f"resuming {self.out_dir} at step {done}{warning if changed else ''}")
        if done < total != planned:
            show(
                f"this is not the run that was planned with {name} {length:,} from the start: its learning rate has "
                f"followed the schedule of {planned // per:,}; from step {done:,} on it follows that of {length:,}"
            )
        self.team.once(self._write_beginning)

    def finish(self, done: str, picture: Path | None) -> None:
        """Show how much was `done`, and where the results are."""
        if self.steps_done == self.resumed_at:
            option = f"--{length_setting(self.config)[1].replace('_', '-')}"
            show(f"\nthis run was finished already; to train it longer, resume it with a larger {option}")
        show(f"\n{done} in {self.seconds:.0f} s; saved in {quoted(self.out_dir)}")
        show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")


def is_due(step: int, interval: int) -> bool:
    """Whether something that happens every `interval` steps happens after this step. 0 means never."""
    return interval > 0 and step % interval == 0
