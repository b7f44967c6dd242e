"""The folder of a run: may a new run use it, and can an old one be continued from it?"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..files import UNFINISHED, replace, write_text
from ..settings import from_json
from ..tokenizer.vocabulary_files import FILES as TOKENIZER_FILES
from . import folder_lock
from .checkpoint import CheckpointError, files_of_checkpoint, has_checkpoint, load_state

# --- a new run --------------------------------------------------------------------------------------------------------


def check_unused(out_dir: Path, can_resume: bool = True) -> None:
    """Raise FileExistsError for a folder with files that might be overwritten. It may be new, empty, or that of a run
    that never started.

    can_resume: whether to suggest resuming the run in the folder.
    """
    if has_checkpoint(out_dir):
        resume = "continue with --init-from resume, " if can_resume else ""
        raise FileExistsError(f"{out_dir} holds a run already: {resume}choose another --out-dir, or delete it")
    found = {path.name for path in out_dir.iterdir()} if out_dir.exists() else set()
    found -= {name for name in found if name == folder_lock.NAME or name.endswith(UNFINISHED)}
    if found and "log.jsonl" not in found:
        raise FileExistsError(f"{out_dir} holds files that are not of a run: choose another --out-dir")


def claim(out_dir: str | os.PathLike[str]) -> None:
    """Mark a folder as that of a run by an empty log. A run that stops before its first checkpoint can start again."""
    write_text(Path(out_dir) / "log.jsonl", "")


@contextlib.contextmanager
def leaving_nothing_unfinished(out_dir: str | os.PathLike[str]) -> Iterator[None]:
    """If the block fails, or Ctrl-C ends it, before the folder has a checkpoint: delete what it has written there.

    Files that were there before, such as those of an earlier attempt, stay.
    """
    before = set(Path(out_dir).glob("*"))
    try:
        yield
    except BaseException:
        written = set() if has_checkpoint(out_dir) else set(Path(out_dir).glob("*")) - before
        for path in written:
            with contextlib.suppress(OSError):  # Windows does not delete files that are open
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


@contextlib.contextmanager
def replacing_run(out_dir: str | os.PathLike[str], put_back: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Set the run in a folder aside while the block starts another one there, and delete it afterwards.

    If the block ends before the other run's first checkpoint, the earlier run returns to its place, and `put_back` is
    called. Other files in the folder stay.
    """
    folder, aside = Path(out_dir), Path(out_dir) / ".earlier"
    if has_checkpoint(folder):
        _move(_files_of_run(folder)[::-1], aside)
        claim(folder)
    try:
        yield
    finally:
        if aside.exists() and not has_checkpoint(folder):
            _move(_files_of_run(aside), folder)
            put_back()
        shutil.rmtree(aside, ignore_errors=True)


def _files_of_run(folder: Path) -> list[Path]:
    """What belongs to a run in its folder. With the last ones, it is a run that can be continued."""
    paths = [folder / name for name in (*TOKENIZER_FILES, "data", "log.jsonl")] + files_of_checkpoint(folder)
    return [path for path in paths if path.exists()]


def _move(paths: Iterable[Path], target: Path) -> None:
    """Move a run's files in this order, so that a folder with the checkpoint's record has all of them."""
    target.mkdir(exist_ok=True)
    for path in paths:
        shutil.rmtree(target / path.name, ignore_errors=True)  # the data of a run that did not start
        replace(path, target / path.name)


# --- a run that is continued ------------------------------------------------------------------------------------------


def settings_of(config_class: Any, out_dir: str, length: int | None = None) -> Any:
    """The settings of the run in `out_dir`, a `config_class`. length: another length of the run than it had.

    Raises CheckpointError if there is no run, or if it is a run of another stage.
    """
    extra = load_state(out_dir).get("extra", {})
    wanted, found = getattr(config_class, "stage", None), extra.get("stage")
    if found != wanted:
        kind, other = ("pretraining" if stage is None else f"the stage {stage!r}" for stage in (found, wanted))
        raise CheckpointError(f"the run in {out_dir} is of {kind}, and one of {other} is needed: give another folder")
    try:
        config = from_json(config_class, {**extra["run"], "out_dir": out_dir})
        part, name = length_setting(config)
        longer = {} if length is None else {part: dataclasses.replace(getattr(config, part), **{name: length})}
        return dataclasses.replace(config, **longer)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint in {out_dir} is of another version: {error}") from None


def length_setting(config: Any) -> tuple[str, str]:
    """The place of the setting that says how long a run is: "training", "max_iters", or the iterations of PPO and GRPO.

    Its second part is also the name of the option.
    """
    for part, settings in vars(config).items():
        if hasattr(settings, "total_iterations"):
            return part, "total_iterations"
    return "training", "max_iters"
