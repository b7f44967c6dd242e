"""Save a training run so it can continue exactly where it was, whatever happens while it is being saved.

A run's folder holds

    checkpoint-7/               the seventh checkpoint; earlier ones are deleted
        config.json             the model's format and shape
        model.safetensors       its weights, under the model's own names, (out, in) like `nn.Linear`
        optimizer.safetensors   the optimizer's moments
    trainer_state.json          which checkpoint counts, the SHA-256 of its files, and the step, random generators, ...
    log.jsonl                   one line per logged step

Several files cannot change in one instant, but one file can be renamed in one. So a checkpoint is written to a folder
of its own and flushed to disk. Then one rename, of `trainer_state.json`, decides: before it the old checkpoint counts,
and after it the new one. Whatever does not count is deleted. Loading changes nothing, so you can try out a model while
it is being trained.

A `ModelFormat` says which parts of a model the folder stores: all of a language model, or, for a model with adapters,
only the adapters. There is no pickle, so a checkpoint from a stranger is data and cannot run code.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minigrad import nn
from minigrad.backend import Array
from minigrad.optim import Optimizer

from ..console import quoted, show
from ..files import MAX_MODEL_TEXT, UNFINISHED, StrPath, errors_at, read_json, sha256_of, write_text
from ..model.language_model import LanguageModel, architectures
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary_files import FILES as TOKENIZER_FILES
from ..weights.safetensors_file import SafetensorsError, SafetensorsFile, write_safetensors
from .folder_lock import locked

CONFIG, WEIGHTS, MOMENTS = "config.json", "model.safetensors", "optimizer.safetensors"
STATE = "trainer_state.json"

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, or holds something else."""


@dataclasses.dataclass
class Checkpoint:
    """The contents of a run's folder: the model, the optimizer's state (or None), and the state of the run."""

    model: Any
    optimizer_state: dict[str, Any] | None
    state: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ModelFormat:
    """How to turn a model into config.json and named arrays, and back.

    name: "model_type" in config.json. config(model): the rest of config.json, JSON-able. build(config, shapes): an
    empty model for the settings in config.json and the stored shapes; raises ValueError before it allocates memory if
    they do not fit (see `check_size`). tensors(model): the arrays to store and to fill, parameters or buffers, by name.
    """

    name: str
    config: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any], Shapes], nn.Module]
    tensors: Callable[[Any], Mapping[str, Array]] = nn.Module.state_dict


def whole(architecture: type[LanguageModel]) -> ModelFormat:
    """The format of an architecture's models that are stored as a whole."""

    def build(values: dict[str, Any], shapes: Shapes) -> LanguageModel:
        config = architecture.config_class.from_dict(values)
        check_size(config.num_parameters(), shapes)
        with nn.init.skipped():
            return architecture(config)

    return ModelFormat(f"minigrad-{architecture.family}", lambda model: model.config.to_dict(), build)


def check_size(expected: int, shapes: Shapes) -> None:
    """Raise ValueError unless the stored tensors have as many numbers as config.json promises."""
    stored = sum(math.prod(shape) for shape in shapes.values())
    if stored != expected:
        raise ValueError(f"it is one of {expected:,} numbers, but {stored:,} are stored")


def format_of(model: nn.Module) -> ModelFormat:
    """The format of a whole language model. Raises TypeError for others, and if modules were replaced."""
    for architecture in architectures():
        if isinstance(model, architecture) and model.num_parameters() == model.config.num_parameters():
            return whole(architecture)
    what = type(model).__name__ + (" with other modules" if isinstance(model, LanguageModel) else "")
    raise TypeError(f"a checkpoint of a {what} needs a `format` that says what is stored of it")


# --- saving -----------------------------------------------------------------------------------------------------------


def save_checkpoint(
    folder: StrPath,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    state: Mapping[str, Any] | None = None,
    format: ModelFormat | None = None,
) -> None:
    """Save model, optimizer and JSON-able `state` in `folder`: everything or, if anything fails, nothing.

    format: which parts of the model to store; by default a whole language model (`format_of`). The disk needs room for
    two checkpoints. Raises OSError, with the old checkpoint intact, if the disk is full or not writable.
    """
    folder, format = Path(folder), format_of(model) if format is None else format
    settings, moments = (None, None) if optimizer is None else _take_apart(optimizer.state_dict())
    with locked(folder):
        new = folder / f"checkpoint-{max(checkpoints(folder), default=0) + 1}"
        try:
            new.mkdir()
            write_text(new / CONFIG, json.dumps({"model_type": format.name, **format.config(model)}, indent=1))
            write_safetensors(new / WEIGHTS, format.tensors(model))
            if moments is not None:
                write_safetensors(new / MOMENTS, moments)
            _sync_folder(new)
            _sync_folder(folder)
            hashes = {path.name: sha256_of(path) for path in new.iterdir()}
            content = {"checkpoint": new.name, "files": hashes, "optimizer": settings, "state": dict(state or {})}
            record = json.loads(json.dumps(content, allow_nan=False))
            # Its rename decides: from here on the new checkpoint is the one that counts.
            write_text(folder / STATE, json.dumps({"sha256": _hash_of_record(record), **record}, indent=1))
        except OSError as error:
            before = "the one before it is intact" if has_checkpoint(folder) else "there is none from before"
            reason = f"the checkpoint could not be saved: {error.strerror or error}; {before}"
            raise OSError(error.errno, reason, error.filename or str(folder)) from error
        else:
            _sync_folder(folder)
        finally:
            _delete_what_does_not_count(folder)


def _delete_what_does_not_count(folder: Path) -> None:
    """Delete earlier checkpoints, and one that was not finished. On Windows, what somebody is reading stays for now.

    A folder of such a name with other files in it is not ours, such as those of Hugging Face's Trainer, and stays.
    """
    try:
        counts = read_json(folder / STATE).get("checkpoint")
    except FileNotFoundError:
        counts = None
    except (OSError, ValueError):  # reported when it is loaded
        return
    for path in checkpoints(folder).values():
        names = {file.name for file in path.iterdir() if not file.name.endswith(UNFINISHED)}
        if path.name != counts and names <= {CONFIG, WEIGHTS, MOMENTS}:
            shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> dict[int, Path]:
    """The folders named checkpoint-N, by number."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal() and path.is_dir()]
    return {int(path.name[11:]): path for path in found}


def files_of_checkpoint(folder: Path) -> list[Path]:
    """Where its files and folders are, or would be; with the last one, the folder has a checkpoint."""
    return [*checkpoints(folder).values(), folder / STATE]


def remove_checkpoint(folder: StrPath) -> None:
    """Remove the checkpoint from a run's folder, so a new run can start there."""
    (Path(folder) / STATE).unlink(missing_ok=True)


def _take_apart(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Split an optimizer's state into JSON-able values and arrays named POSITION.NAME."""
    numbers: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Array] = {}
    for position, values in state["state"].items():
        numbers[str(position)] = {name: value for name, value in values.items() if not hasattr(value, "shape")}
        arrays |= {f"{position}.{name}": value for name, value in values.items() if hasattr(value, "shape")}
    return {"param_groups": state["param_groups"], "state": numbers}, arrays


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk. Only POSIX systems need this, and only they offer it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- loading ----------------------------------------------------------------------------------------------------------


def has_checkpoint(folder: StrPath) -> bool:
    """Whether `folder` has a checkpoint to continue from."""
    return (Path(folder) / STATE).exists()


def load_state(folder: StrPath) -> dict[str, Any]:
    """The `state` of the checkpoint in `folder`, without the model. Raises CheckpointError."""
    return _read_record(Path(folder))[1]["state"]


def stored_model_type(folder: StrPath) -> str | None:
    """The name of the `ModelFormat` in a run's folder; None if there is no checkpoint, or it is damaged."""
    try:
        return _read_json(_verified(CONFIG, *_read_record(Path(folder)))).get("model_type")
    except ValueError:  # raised again, and shown, when the folder is read
        return None


def load_checkpoint(folder: StrPath, with_optimizer: bool = True, format: ModelFormat | None = None) -> Checkpoint:
    """Load what `save_checkpoint` has written. Raises CheckpointError, naming the file that is missing or altered.

    format: which parts of a model the folder stores; by default a whole language model, as config.json says.
    """
    formats = [whole(architecture) for architecture in architectures()] if format is None else [format]
    folder = Path(folder)
    while True:
        path, record = _read_record(folder)
        try:
            return _load(path, record, with_optimizer, formats)
        except CheckpointError:
            if _read_record(folder) == (path, record):
                raise  # else a run has saved meanwhile, and deleted the checkpoint that was being read: again


def load_run(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """Load a run's model, without its optimizer, and the tokenizer it was trained with. Raises CheckpointError."""
    checkpoint = load_checkpoint(folder, with_optimizer=False)
    check_inputs(folder, checkpoint.state, data=False)
    return checkpoint.model, Tokenizer.load(folder)


def _read_record(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that says which checkpoint counts, and what it says."""
    path = folder / STATE
    record = _read_json(path)
    expected = record.pop("sha256", None)
    if set(record) != {"checkpoint", "files", "optimizer", "state"}:
        raise CheckpointError(f"{path} is not from minigrad, or from an older version")
    place = re.fullmatch("checkpoint-[0-9]+", str(record["checkpoint"]))
    if _hash_of_record(record) != expected or not place or not isinstance(record["files"], dict):
        raise CheckpointError(f"{path} was altered since it was saved")
    return path, record


def _hash_of_record(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8")).hexdigest()


def _verified(name: str, record_path: Path, record: dict[str, Any]) -> Path:
    """The path of one of the checkpoint's files, which has the SHA-256 that the record says."""
    folder = record_path.parent
    path = folder / record["checkpoint"] / name
    problem = "was truncated or altered since it was saved"
    try:
        if name != CONFIG:
            SafetensorsFile(path).close()  # a header that does not fit the file saves hashing gigabytes
        if sha256_of(path, MAX_MODEL_TEXT if name == CONFIG else sys.maxsize) == record["files"].get(name):
            return path
    except FileNotFoundError:
        problem = "is missing"
    except SafetensorsError:
        pass
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise CheckpointError(f"{path} {problem}; the checkpoint in {folder} cannot be used")


def _load(path: Path, record: dict[str, Any], with_optimizer: bool, formats: Sequence[ModelFormat]) -> Checkpoint:
    config_path = _verified(CONFIG, path, record)
    config = _read_json(config_path)
    name = config.pop("model_type", None)
    format = next((format for format in formats if format.name == name), None)
    if format is None:
        known = " or ".join(format.name for format in formats)
        found = f", but a {name:.40}" if isinstance(name, str) and name.startswith("minigrad-") else ""
        raise CheckpointError(f"{config_path} does not describe a {known}{found}")
    with SafetensorsFile(_verified(WEIGHTS, path, record)) as file:
        with errors_at(f"{config_path} describes no model that can be loaded", CheckpointError):
            model = format.build(config, file.shapes)
        _fill(model, format.tensors(model), file)
    if not with_optimizer or record["optimizer"] is None:
        state = record["state"]
        _say_if_unfinished(path.parent, state.get("step", 0), state.get("training", {}).get("max_iters", 0))
        return Checkpoint(model, None, record["state"])
    with SafetensorsFile(_verified(MOMENTS, path, record)) as file:
        moments = {name: file.read(name) for name in file.entries}
    return Checkpoint(model, _put_together(record["optimizer"], moments), record["state"])


@functools.cache  # once, however often the model is loaded
def _say_if_unfinished(folder: Path, step: int, last: int) -> None:
    """Say on standard error that the model of a run is used before the run has ended."""
    if step < last:
        show(
            f"the run in {folder} has done step {step:,} of {last:,}; "
            f"resume it with --init-from resume --out-dir {quoted(folder)}",
            sys.stderr,
        )


def _fill(model: nn.Module, tensors: Mapping[str, Array], file: SafetensorsFile) -> None:
    """Read the model's tensors, one at a time."""
    shapes = {name: array.shape for name, array in tensors.items()}
    if different := sorted(shapes.items() ^ file.shapes.items()):
        name = different[0][0]
        found = f"has shape {file.shapes[name]}" if name in file.shapes else "is missing"
        wanted = f"the shape {shapes[name]}" if name in shapes else "no such tensor"
        raise CheckpointError(f"{file.path}: {name} {found}, but the model has {wanted}")
    parameters = dict(model.named_parameters())
    for name, ours in tensors.items():
        array = file.read(name)
        if (array.dtype != ours.dtype and {array.dtype.kind, ours.dtype.kind} != {"f"}) or not np.isfinite(array).all():
            problem = f"is {array.dtype}, not {ours.dtype}, or holds numbers that are not finite"
            raise CheckpointError(f"{file.path}: {name} {problem}")
        if array.dtype == ours.dtype:
            ours[...] = array
        elif name in parameters:
            parameters[name].data = array
        else:  # a buffer
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, array)


def _put_together(settings: dict[str, Any], moments: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `_take_apart`."""
    state = {int(position): dict(numbers) for position, numbers in settings["state"].items()}
    for key, array in moments.items():
        position, _, name = key.partition(".")
        state[int(position)][name] = array
    return {"param_groups": settings["param_groups"], "state": state}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"there is no checkpoint in {path.parent}: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


# --- what a run was started with --------------------------------------------------------------------------------------


def inputs(folder: StrPath, data: bool = True) -> dict[str, str]:
    """The SHA-256 of each tokenizer and data file of a run, by its name in the run's folder.

    Hidden files in the data folder are not the run's: macOS leaves a .DS_Store in every folder that somebody looks at.
    """
    folder = Path(folder)
    paths = [folder / name for name in TOKENIZER_FILES] + (sorted((folder / "data").glob("*")) if data else [])
    return {
        path.relative_to(folder).as_posix(): sha256_of(path, MAX_MODEL_TEXT if path.parent == folder else sys.maxsize)
        for path in paths
        if path.is_file() and not path.name.startswith(".")
    }


def check_inputs(folder: StrPath, state: Mapping[str, Any], data: bool = True) -> dict[str, str]:
    """Return `inputs`; raise CheckpointError if a file of the tokenizer (or data) has changed since the run started."""
    then, now = state.get("inputs", {}), inputs(folder, data)
    for name in sorted(then.keys() | now.keys()) if then else ():  # empty where nothing was trained
        is_checked = data or not name.startswith("data/")
        if is_checked and then.get(name) != now.get(name):
            path = Path(folder) / name
            raise CheckpointError(f"{path} was altered or removed since the run started: put the old file back")
    return now
