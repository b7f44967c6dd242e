"""The folder of a run: may a new run use it, and what becomes of the run that is there?"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..files import UNFINISHED, StrPath, replace, write_text
from ..tokenizer.vocabulary_files import FILES as TOKENIZER_FILES
from . import folder_lock
from .checkpoint import checkpoints, has_checkpoint
from .folder_lock import locked

LOG = "log.jsonl"


def check_unused(out_dir: StrPath, can_resume: bool = True) -> None:
    """Raise FileExistsError for a folder with files that might be overwritten. It may be new, empty, or that of a run
    that ended before its first checkpoint.

    can_resume: whether to suggest resuming the run in the folder.
    """
    folder = Path(out_dir)
    if has_checkpoint(folder):
        resume = "continue with --init-from resume, " if can_resume else ""
        raise FileExistsError(f"{folder} holds a run already: {resume}choose another --out-dir, or delete it")
    found = {path.name for path in folder.iterdir() if not path.name.endswith(UNFINISHED)} if folder.exists() else set()
    is_of_a_start = {folder_lock.NAME, LOG} <= found  # which did not reach its first checkpoint
    if found - {folder_lock.NAME} and not is_of_a_start:
        raise FileExistsError(f"{folder} holds files that are not of a run: choose another --out-dir")


@contextlib.contextmanager
def new_folder(out_dir: StrPath, can_resume: bool = True) -> Iterator[None]:
    """In the block, write a new run's folder: nobody else may, and what an unfinished start left there is deleted.

    An empty log marks it as the folder of a run, which can be started again. Raises what `check_unused` and `locked`
    raise.
    """
    check_unused(out_dir, can_resume)
    with locked(out_dir):
        check_unused(out_dir, can_resume)
        remove_run(out_dir)
        write_text(Path(out_dir) / LOG, "")
        yield


def remove_run(out_dir: StrPath) -> None:
    """Delete the run in a folder. Other files stay."""
    for path in _files_of_run(Path(out_dir)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _files_of_run(folder: Path) -> list[Path]:
    """What a run may have in its folder. The checkpoints come first: without one, the folder has no run."""
    return [*checkpoints(folder), *(folder / name for name in (*TOKENIZER_FILES, "data", LOG))]


@contextlib.contextmanager
def replacing_run(out_dir: StrPath, put_back: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Set the run in a folder aside, in one rename, while the block starts another one there; then delete it.

    If the block ends before the other run's first checkpoint, the earlier run returns to its place, and `put_back` is
    called. Other files stay.
    """
    folder = Path(out_dir)
    aside = folder.parent / f".{folder.resolve().name}.earlier"
    if has_checkpoint(folder):
        with locked(folder):  # raises if somebody is writing there
            _delete_run(aside, rest_to=folder)  # which a crash has left
        replace(folder, aside)
    try:
        yield
    finally:
        if aside.exists() and has_checkpoint(folder):
            _delete_run(aside, rest_to=folder)
        elif aside.exists():
            _delete_run(folder, rest_to=aside)
            replace(aside, folder)
            put_back()


def _delete_run(folder: Path, rest_to: Path) -> None:
    """Delete a run with its folder. What else was there moves to another folder, unless that has such a file."""
    if folder.exists():
        remove_run(folder)
        for path in folder.iterdir():
            if not (rest_to / path.name).exists():
                replace(path, rest_to / path.name)
        shutil.rmtree(folder)
