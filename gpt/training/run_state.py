"""How far a run is: what a checkpoint keeps of it beside the weights and the optimizer's moments."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..files import StrPath, errors_at
from ..settings import Checked, from_json
from .checkpoint import CheckpointError, load_state

LEAST_EVALUATED = 40  # held-out items, however short the run is


@dataclasses.dataclass
class RunState(Checked):
    """The state of a run. It is written as JSON and read back by its fields. Raises ValueError for impossible ones."""

    # What it is to do.
    stage: str | None
    settings: dict[str, Any]
    planned_steps: int = 0
    max_eval_items: int = 0  # see `new_state`
    processes: int = 1
    # What it has done.
    step: int = 0
    count: int = 0  # items (tokens, pairs, ...) that were learned from
    seconds: float = 0.0
    skipped_in_a_row: int = 0
    validated_step: int | None = None
    last_validation: dict[str, Any] = dataclasses.field(default_factory=dict)
    # Where it goes on.
    schedule: dict[str, Any] = dataclasses.field(default_factory=dict)
    random: dict[str, Any] = dataclasses.field(default_factory=dict)
    batches: dict[str, Any] = dataclasses.field(default_factory=dict)
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)  # the weights of small modules beside the model
    # The SHA-256 of other models that the run needs, such as its reference, by name.
    sha256: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step > self.planned_steps:
            raise ValueError(f"it is at step {self.step} of {self.planned_steps}")


def new_state(config: Any) -> RunState:
    """The state of a run that begins.

    It evaluates at most a third as many held-out items (of a text: sequences) as it learns from, so that in a short run
    the evaluation takes no longer than the training. A run that is trained longer keeps the number, because its results
    are compared with those before training.
    """
    items = max(_items_to_learn_from(config) // 3, LEAST_EVALUATED)
    return RunState(getattr(config, "stage", None), {}, max_eval_items=items)


def _items_to_learn_from(config: Any) -> int:
    """How many items the batches of a run with these settings have."""
    part, name = length_setting(config)
    settings = getattr(config, part)
    batch_size = settings.batch_size if part != "training" else config.batch_size  # PPO's and GRPO's: with the length
    return getattr(settings, name) * config.training.gradient_accumulation_steps * batch_size


def read_state(folder: StrPath) -> RunState:
    """The state of the run in a folder. Raises CheckpointError if there is none."""
    state = load_state(folder)
    if not state:  # saved by `save_checkpoint` alone
        raise CheckpointError(f"{folder} holds a model and no run: give the folder of a run")
    with errors_at(f"the checkpoint in {folder} is not of a run", CheckpointError):
        return from_json(RunState, state)


def settings_of(config_class: Any, out_dir: StrPath, length: int | None = None) -> Any:
    """The settings of the run in `out_dir`, a `config_class`.

    length: a new number of steps (of PPO and GRPO: iterations) that takes the place of the planned one.
    Raises CheckpointError if there is no run, or if it is a run of another stage.
    """
    state, wanted = read_state(out_dir), getattr(config_class, "stage", None)
    if state.stage != wanted:
        names = f"is of {_in_words(state.stage)}, and one of {_in_words(wanted)} is needed"
        raise CheckpointError(f"the run in {out_dir} {names}: give another folder")
    with errors_at(f"the checkpoint in {out_dir} is of another version", CheckpointError):
        config = from_json(config_class, {**state.settings, "out_dir": str(out_dir)})
    if length is None:
        return config
    part, name = length_setting(config)
    with_length = dataclasses.replace(getattr(config, part), **{name: length})
    return dataclasses.replace(config, **{part: with_length})


def _in_words(stage: str | None) -> str:
    return "pretraining" if stage is None else f"the stage {stage!r}"


def length_setting(config: Any) -> tuple[str, str]:
    """Where the settings say how long a run is: ("training", "max_iters"), or in PPO ("ppo", "total_iterations")."""
    for part, settings in vars(config).items():
        if hasattr(settings, "total_iterations"):
            return part, "total_iterations"
    return "training", "max_iters"
