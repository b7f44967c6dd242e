"""The skeleton of a run, which all stages of fine-tuning share: `start`, `resume`, and the steps in between.

A stage is a class that fills in what differs between stages: its data, its loss, and its measurements. reward.py is the
smallest example, and a new stage is one file like it. The skeleton calls the methods of `Stage` in the order of this
file:

    start       prepare -> encode -> (write the run's folder)
    resume                 encode                (model, tokenizer and data come from the run's folder)
    both        introduce -> measure -> trainer -> loss and validate, again and again -> report -> finish

A run's folder is that of pretraining (see `gpt.training.checkpoint`), with the stage's data as JSON lines in `data/`. A
resumed run uses these files, so it continues with the same data, and you can look at them.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.accounting import activation_bytes
from gpt.console import show
from gpt.training.checkpoint import Checkpoint, CheckpointError, ModelKind, load_checkpoint, load_state, writing
from gpt.training.plots import plot_run
from gpt.training.pretraining import check_memory, check_types, check_unused, claim
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import Tensor, manual_seed

from ..data.datasets import write_jsonl
from ..data.tasks import TASKS

SMALLEST_ITEM = 1000  # a lower bound of the bytes that an item of a batch takes
SHORTEST_ITEM = 8  # tokens of an item: fewer than in any realistic data
Data = Mapping[str, Sequence[Any]]  # items by the name of their file: "train" and "test"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The settings that stages have in common. Each has its own defaults for them, and adds its own settings.

    init_from: the model to start from (`gpt.training.loading.load_model`). data: a built-in set by its name, or a file.
    batch_size: items per batch.
    """

    init_from: str = "runs/sft"
    data: str = TASKS
    out_dir: str = "runs/stage"
    batch_size: int = 32
    seed: int = 1337
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


class Stage:
    """A stage of fine-tuning. Subclasses fill in what differs between stages.

    name: stored in checkpoints. config_class: a frozen dataclass of settings with init_from, out_dir, seed and
    training. columns: the legend of the log's columns. title, shares: passed to `plot_run`. unit: the items that are
    counted, such as tokens. shown: the metrics on the screen, if there is no room for all. read: reads a data file.
    """

    name: str
    config_class: type
    columns = ""
    title = "Fine-tuning"
    shares: Sequence[str] = ()
    unit = "tokens"
    shown: Sequence[str] = ()
    read: Callable[[Path], list[Any]]

    # Set by `prepare` or `resume`, and by `encode`:
    model: Any
    tokenizer: Tokenizer
    batches: Any

    def __init__(self, config: Any, device: str = "cpu"):
        self.config, self.device = config, device

    def prepare(self) -> Data:
        """Set the model to start from and its tokenizer, and return the data. May raise: nothing is written yet."""
        raise TypeError(f"{type(self).__name__} must define prepare()")

    def encode(self, data: Data) -> None:
        """Turn the data into tokens: set the batches to train on, and keep the test data. May raise."""
        raise TypeError(f"{type(self).__name__} must define encode()")

    def introduce(self) -> None:
        """Describe the data to the user."""

    def measure(self) -> dict[str, Any]:
        """Measure the model before training. The result must be JSON-able; `trainer.extra_state` keeps it."""
        return {}

    def check_measured(self, found: Mapping[str, Any]) -> None:
        """Raise CheckpointError unless the `extra_state` of a checkpoint has what `measure` returns."""

    def kind(self) -> ModelKind | None:
        """What a checkpoint stores of the model (see `save_checkpoint`). None: a whole language model."""
        return None

    def trainer(self, extra_state: dict[str, Any]) -> Trainer:
        """The training loop. All stages share it, except those that have a loop of their own."""
        return Trainer(
            self.model,
            self.batches,
            self.config.training,
            self.config.out_dir,
            self.loss,
            evaluate=self.validate,
            extra_state=extra_state,
            unit=self.unit,
            kind=self.kind(),
        )

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, int, dict[str, Any]]:
        """The sum of a batch's losses, their number, and sums of other metrics."""
        raise TypeError(f"{type(self).__name__} must define loss()")

    def validate(self) -> dict[str, float]:
        """Metrics on held-out data, logged beside the training loss. One of them must be "val_loss"."""
        raise TypeError(f"{type(self).__name__} must define validate()")

    def report(self, trainer: Trainer) -> None:
        """Measure the trained model and show what training has changed."""

    def done(self, trainer: Trainer) -> str:
        """The amount of training, in words."""
        return f"trained {trainer.steps_done} steps, {trainer.count:,} {self.unit},"

    def plot(self, trainer: Trainer) -> Path | None:
        """Draw the run and return the picture's path, or None without matplotlib."""
        unit = self.unit.removesuffix("s")
        return plot_run(trainer.out_dir, {}, title=self.title, unit=unit, shares=self.shares)

    def finish(self, trainer: Trainer) -> None:
        """Draw the run, and show where the results are."""
        picture = self.plot(trainer)
        show(f"\n{self.done(trainer)} in {trainer.seconds:.0f} s; saved in {shlex.quote(trainer.out_dir.as_posix())}")
        show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")


def start(kind: type[Stage], config: Any, device: str = "cpu") -> Trainer:
    """Run a stage from its beginning. Ctrl-C saves, and then `interrupted` of the returned trainer is set.

    Raises FileExistsError if `config.out_dir` already holds a run, BlockingIOError if a run is using it, and what the
    stage's `prepare` and `Trainer.run` raise.
    """
    with writing(config.out_dir):
        check_unused(Path(config.out_dir))
        manual_seed(config.seed)
        stage = kind(config, device)
        data = stage.prepare()
        stage.model.to(device)
        _check_memory(stage)
        stage.encode(data)
        claim(config.out_dir)
        stage.tokenizer.save(config.out_dir)
        for name, items in data.items():
            write_jsonl(Path(config.out_dir) / "data" / f"{name}.jsonl", items)
        return _train(stage)


def resume(kind: type[Stage], out_dir: str, device: str = "cpu") -> Trainer:
    """Continue the run in `out_dir` with its own settings and data. Raises CheckpointError if there is no run."""
    with writing(out_dir):
        stage = kind(settings_of(kind, out_dir), device)
        checkpoint = load_checkpoint(out_dir, kind=stage.kind())
        stage.model, stage.tokenizer = checkpoint.model, Tokenizer.load(out_dir)
        stage.model.to(device)
        _check_memory(stage)
        files = sorted((Path(out_dir) / "data").glob("*.jsonl"))
        stage.encode({path.stem: kind.read(path) for path in files})
        return _train(stage, checkpoint)


def _train(stage: Stage, checkpoint: Checkpoint | None = None) -> Trainer:
    stage.introduce()
    if stage.columns:
        show(f"\nWhat the columns mean:\n{stage.columns}\n")
    if checkpoint is None:
        before = stage.measure()
    else:
        before = checkpoint.state["extra"]
        stage.check_measured(before)
    trainer = stage.trainer({**before, "stage": stage.name, "run": dataclasses.asdict(stage.config)})
    if stage.shown:
        trainer.log.shown = stage.shown
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {trainer.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    if not trainer.interrupted:
        stage.report(trainer)
        stage.finish(trainer)
    return trainer


def _check_memory(stage: Stage) -> None:
    """Raise ValueError for batches that do not fit into this machine's memory together with the model."""
    shape, config = stage.model.config, stage.config
    own = getattr(config, "ppo", getattr(config, "grpo", config))
    size = getattr(own, "batch_size", 1) * getattr(own, "num_generations", 1)  # a stage may have no such setting
    needed = SMALLEST_ITEM * size * config.training.gradient_accumulation_steps
    if all(parameter.requires_grad for parameter in stage.model.parameters()):
        needed += activation_bytes(shape, size, SHORTEST_ITEM, kernels="fast")
    else:  # some frozen layers save nothing for backward: the tokens' hidden states in one MLP remain
        needed += 4 * size * SHORTEST_ITEM * (shape.n_embd + shape.n_inner)
    check_memory(needed, f"a step on batches of {size:,}")


def settings_of(kind: type[Stage], out_dir: str) -> Any:
    """The settings of the run in `out_dir`, a `kind.config_class`.

    Raises CheckpointError if there is no run, or if it is a run of another stage.
    """
    extra = load_state(out_dir).get("extra")
    extra = extra if isinstance(extra, dict) else {}
    if extra.get("stage") != kind.name:
        of = f"of the stage {extra['stage']!r}" if "stage" in extra else "of pretraining"
        raise CheckpointError(f"the run in {out_dir} is {of}, not of {kind.name!r}: it goes on with its own script")
    try:
        settings = {**extra["run"], "out_dir": out_dir}
        for field in dataclasses.fields(kind.config_class):
            if dataclasses.is_dataclass(field.default_factory):  # settings inside the settings, such as `training`
                settings[field.name] = field.default_factory(**settings[field.name])
        return check_types(kind.config_class(**settings))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint in {out_dir} is of another version: {error}") from None
