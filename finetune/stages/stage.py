"""What every stage of fine-tuning does beside learning: a folder for its run, and going on with one.

A run's folder is that of pretraining (see `gpt.training.checkpoint`) with the stage's data as JSON lines in `data/`: a
run goes on with the same data, wherever they came from, and they can be looked at.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gpt import Tokenizer
from gpt.console import show
from gpt.files import write_text
from gpt.training.checkpoint import CheckpointError
from gpt.training.pretraining import check_unused
from gpt.training.trainer import Trainer

from ..data.datasets import Example, Labelled, Preference, write_jsonl

C = TypeVar("C")


def begin_run(
    out_dir: str, tokenizer: Tokenizer, data: Mapping[str, Iterable[Example | Preference | Labelled]]
) -> None:
    """Make the run's folder, with tokenizer and data/NAME.jsonl in it. Raises FileExistsError where it is in use."""
    folder = Path(out_dir)
    check_unused(folder)
    write_text(folder / "log.jsonl", "")  # from here on the folder is ours
    tokenizer.save(folder)
    for name, items in data.items():
        write_jsonl(folder / "data" / f"{name}.jsonl", items)


def extra_state(config: Any, stage: str, **more: Any) -> dict[str, Any]:
    """What a checkpoint of a stage says of its run: for the Trainer's `extra_state`."""
    return {"stage": stage, "run": dataclasses.asdict(config), **more}


def settings_of(state: Mapping[str, Any], config_class: type[C], stage: str, out_dir: str) -> C:
    """The settings, a dataclass with others inside (`training`), of the run whose checkpoint has this `state`.

    Raises CheckpointError for a run of another stage.
    """
    extra = state.get("extra", {})
    if extra.get("stage") != stage:
        of = f"of the stage {extra['stage']!r}" if "stage" in extra else "of pretraining (scripts/train.py)"
        raise CheckpointError(f"the run in {out_dir} is {of}, not of {stage!r}: it goes on with its own script")
    try:
        settings = extra["run"]
        fields: Any = dataclasses.fields(config_class)  # type: ignore[arg-type]
        inside: dict[str, Any] = {
            f.name: f.default_factory for f in fields if dataclasses.is_dataclass(f.default_factory)
        }
        nested = {name: kind(**settings[name]) for name, kind in inside.items()}
        return config_class(**{**settings, "out_dir": out_dir, **nested})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint in {out_dir} is of another version: {error}") from None


def show_end(trainer: Trainer, script: str, done: str, picture: Path | None, advice: str) -> None:
    """Print how a run ended: what was `done`, or, after Ctrl-C, how to go on; where everything is; what to do next."""
    folder = shlex.quote(trainer.out_dir.as_posix())
    if trainer.interrupted:
        show(f"\ninterrupted; the checkpoint is of step {trainer.saved_step}; to go on:")
        show(f"  python scripts/{script}.py --init-from resume --out-dir {folder}")
        return
    show(f"\n{done} in {trainer.seconds:.0f} s; saved in {folder}")
    show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")
    show(f"{advice} {folder}")
