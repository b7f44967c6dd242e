"""Save a training run so it can continue exactly where it was, whatever happens while it is being saved.

A run's folder holds

    checkpoint-7/               the seventh checkpoint
        config.json             the model's format and shape
        model.safetensors       its weights, under the model's own names, (out, in) like `nn.Linear`
        optimizer.safetensors   the optimizer's moments
        state.json              how far the run is, and the SHA-256 of every file that the run consists of
    vocab.json, data/, ...      its tokenizer and its data, which never change
    log.jsonl                   one line per logged step

Several files cannot change in one instant, but a folder can be renamed in one. So a checkpoint is written as
`checkpoint-7.unfinished` and flushed to disk; its rename makes it count, and then the one before it is deleted. After a
crash between the two there are two of them: the newest counts. Loading changes nothing, so you can try out a model
while it is being trained.

A `ModelFormat` says which parts of a model the folder stores: all of a language model, or, for a model with adapters,
only the adapters. There is no pickle, so a checkpoint from a stranger is data and cannot run code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from minigrad import nn
from minigrad.backend import Array
from minigrad.optim import Optimizer

from ..console import quoted, show
from ..files import (
    MAX_MODEL_TEXT,
    UNFINISHED,
    StrPath,
    errors_at,
    make_folder,
    read_json,
    replace,
    sha256_of,
    write_text,
)
from ..model.language_model import LanguageModel, architectures
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary_files import FILES as TOKENIZER_FILES
from ..weights.safetensors_file import SafetensorsFile, write_safetensors

CONFIG, WEIGHTS, MOMENTS, STATE = "config.json", "model.safetensors", "optimizer.safetensors", "state.json"
PREFIX = "checkpoint-"
FORMAT = 1  # of a checkpoint's folder

T = TypeVar("T")
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, or holds something else."""


@dataclasses.dataclass
class Checkpoint:
    """What a run's folder holds: the model, the optimizer's state (or None), and the state of the run."""

    model: Any
    optimizer_state: dict[str, Any] | None
    state: dict[str, Any]
    inputs: dict[str, str]  # see `inputs_of`


# --- what is stored of a model ----------------------------------------------------------------------------------------


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
        raise ValueError(f"the model in config.json has {expected:,} numbers, but {stored:,} are stored")


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
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Save model, optimizer and JSON-able `state` in `folder`: everything or, if anything fails, nothing.

    format: which parts of the model to store; by default a whole language model (`format_of`). inputs: see
    `inputs_of`; by default of the tokenizer in the folder. The disk needs room for two checkpoints. Raises OSError,
    with the old checkpoint intact, if the disk is full or not writable.
    """
    folder, format = Path(folder), format_of(model) if format is None else format
    optimizer_state = None if optimizer is None else optimizer.state_dict()
    make_folder(folder)
    _delete_what_does_not_count(folder)  # what a crash has left
    new = folder / f"{PREFIX}{max(_numbered(folder), default=0) + 1}"
    unfinished = _unfinished(new)
    try:
        unfinished.mkdir()
        write_text(unfinished / CONFIG, json.dumps({"model_type": format.name, **format.config(model)}, indent=1))
        write_safetensors(unfinished / WEIGHTS, format.tensors(model))
        if optimizer_state is not None:
            write_safetensors(unfinished / MOMENTS, _moments(optimizer_state))
        record = {
            "format": FORMAT,
            "files": sha256_table(unfinished, (CONFIG, WEIGHTS, MOMENTS)),
            "inputs": inputs_of(folder, data=False) if inputs is None else inputs,
            "optimizer": optimizer_state,
            "state": state or {},
        }
        # As it will be read: null for the arrays in optimizer.safetensors, lists for tuples.
        record = json.loads(json.dumps(record, allow_nan=False, default=_null_for_array))
        write_text(unfinished / STATE, json.dumps({**record, "sha256": _sha256_of_record(record)}, indent=1))
        _flush_names(unfinished)
        replace(unfinished, new)  # from here on the new checkpoint is the one that counts
    except OSError as error:
        before = "the one before it is intact" if has_checkpoint(folder) else "there is none from before"
        reason = f"the checkpoint could not be saved: {error.strerror or error}; {before}"
        raise OSError(error.errno, reason, error.filename or str(folder)) from error
    else:
        _flush_names(folder)
    finally:
        _delete_what_does_not_count(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest last."""
    return [path for _, path in sorted(_numbered(folder).items()) if (path / STATE).exists()]


def _numbered(folder: Path) -> dict[int, Path]:
    """What is named checkpoint-N, by number: our checkpoints, and perhaps those of other programs, which stay."""
    paths = {path.name.removeprefix(PREFIX): path for path in folder.glob(f"{PREFIX}*")}
    return {int(number): path for number, path in paths.items() if number.isdecimal()}


def _unfinished(checkpoint: Path) -> Path:
    """The place of a checkpoint that is being written, or deleted."""
    return checkpoint.with_name(checkpoint.name + UNFINISHED)


def _delete_what_does_not_count(folder: Path) -> None:
    """Delete what is older than the newest checkpoint, or unfinished. On Windows, what somebody is reading stays."""
    for older in checkpoints(folder)[:-1]:
        with contextlib.suppress(OSError):
            replace(older, _unfinished(older))  # so that no half of it is ever taken for a checkpoint
    for path in folder.glob(f"{PREFIX}*{UNFINISHED}"):
        shutil.rmtree(path, ignore_errors=True)


def _flush_names(folder: Path) -> None:
    """Flush the names in a folder to disk. Only POSIX systems need this, and only they offer it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _moments(optimizer_state: dict[str, Any]) -> dict[str, Array]:
    """The arrays of an optimizer's state, by the names POSITION.NAME."""
    return {
        f"{position}.{name}": value
        for position, values in optimizer_state["state"].items()
        for name, value in values.items()
        if hasattr(value, "shape")
    }


def _null_for_array(value: Any) -> None:
    """In state.json, null stands for an array, which has a place in optimizer.safetensors."""
    if not hasattr(value, "shape"):
        raise TypeError(f"JSON cannot hold {value!r}")


def _sha256_of_record(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8")).hexdigest()


# --- loading ----------------------------------------------------------------------------------------------------------


def has_checkpoint(folder: StrPath) -> bool:
    """Whether `folder` has a checkpoint to continue from."""
    return bool(checkpoints(Path(folder)))


def load_state(folder: StrPath) -> dict[str, Any]:
    """The `state` of the checkpoint in `folder`, without the model. Raises CheckpointError."""
    return _read_newest(Path(folder), _read_record)["state"]


def stored_model_type(folder: StrPath) -> str | None:
    """The name of the `ModelFormat` in a run's folder; None if there is no checkpoint, or it is damaged."""
    try:
        return _read_newest(Path(folder), lambda path: read_json(path / CONFIG)).get("model_type")
    except CheckpointError:  # raised again, and shown, when the folder is read
        return None


def load_checkpoint(folder: StrPath, with_optimizer: bool = True, format: ModelFormat | None = None) -> Checkpoint:
    """Load what `save_checkpoint` has written. Raises CheckpointError, naming the file that is missing or altered.

    format: which parts of a model the folder stores; by default a whole language model, as config.json says.
    """
    formats = [whole(architecture) for architecture in architectures()] if format is None else [format]
    return _read_newest(Path(folder), lambda path: _load(path, with_optimizer, formats))


def load_run(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """Load a run's model, without its optimizer, and the tokenizer it was trained with. Raises CheckpointError."""
    return load_checkpoint(folder, with_optimizer=False).model, Tokenizer.load(folder)


# What reading files may raise whose content is not as expected.
WRONG_CONTENT = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, OSError)


def _read_newest(folder: Path, read: Callable[[Path], T]) -> T:
    """What `read` finds in the newest checkpoint, whatever somebody has written into it; or a CheckpointError."""
    while True:
        found = checkpoints(folder)
        if not found:
            raise CheckpointError(f"there is no checkpoint in {folder}: no {PREFIX}N/{STATE}")
        newest = found[-1]
        try:
            with errors_at(f"{newest} cannot be loaded", CheckpointError, WRONG_CONTENT):
                return read(newest)
        except CheckpointError:
            was_deleted_meanwhile = not newest.exists() and has_checkpoint(folder)  # by a run that has saved another
            if not was_deleted_meanwhile:
                raise


def _load(path: Path, with_optimizer: bool, formats: Sequence[ModelFormat]) -> Checkpoint:
    record = _read_record(path)
    check_sha256(path, record["files"], (CONFIG, WEIGHTS, MOMENTS) if with_optimizer else (CONFIG, WEIGHTS))
    check_inputs(path.parent, record["inputs"], data=with_optimizer)
    config = read_json(path / CONFIG)
    name = config.pop("model_type", None)
    format = next((format for format in formats if format.name == name), None)
    if format is None:
        known = " or ".join(format.name for format in formats)
        raise CheckpointError(f"{CONFIG} does not describe a {known}, but a {name!r:.40}")
    with SafetensorsFile(path / WEIGHTS) as file:
        model = format.build(config, file.shapes)
        _fill(model, format.tensors(model), file)
    if not with_optimizer or record["optimizer"] is None:
        state = record["state"]
        _say_if_the_run_has_not_ended(path.parent, state.get("step", 0), state.get("planned_steps", 0))
        return Checkpoint(model, None, state, record["inputs"])
    with SafetensorsFile(path / MOMENTS) as file:
        for key in file.entries:
            position, name = key.split(".")  # in JSON, the keys of an object are strings
            record["optimizer"]["state"][position][name] = file.read(key)
    return Checkpoint(model, record["optimizer"], record["state"], record["inputs"])


def _read_record(path: Path) -> dict[str, Any]:
    """What state.json says, of all that belongs to a checkpoint."""
    record = read_json(path / STATE)
    sha256 = record.pop("sha256", None)
    if record.get("format") != FORMAT:
        found = f"has format {record.get('format')!r:.20}"
        raise CheckpointError(f"{STATE} {found}, and this version of minigrad reads format {FORMAT}")
    if sha256 != _sha256_of_record(record):
        raise CheckpointError(f"{STATE} was altered since it was saved")
    return record


@functools.cache  # once, however often the model is loaded
def _say_if_the_run_has_not_ended(folder: Path, step: int, planned: int) -> None:
    """Say on standard error that the model of a run is used before the run has ended."""
    if step < planned:
        resume = f"resume it with --init-from resume --out-dir {quoted(folder)}"
        show(f"the run in {folder} has done step {step:,} of {planned:,}; {resume}", sys.stderr)


def _fill(model: nn.Module, tensors: Mapping[str, Array], file: SafetensorsFile) -> None:
    """Read the model's tensors, one at a time."""
    shapes = {name: array.shape for name, array in tensors.items()}
    if different := sorted(shapes.items() ^ file.shapes.items()):
        name = different[0][0]
        found = f"has shape {file.shapes[name]}" if name in file.shapes else "is missing"
        wanted = f"the shape {shapes[name]}" if name in shapes else "no such tensor"
        raise CheckpointError(f"{WEIGHTS}: {name} {found}, but the model has {wanted}")
    parameters = dict(model.named_parameters())
    for name, ours in tensors.items():
        array = file.read(name)
        # Floats of another precision take the place of the model's: a run in float64 is loaded as such.
        both_are_floats = array.dtype.kind == ours.dtype.kind == "f"
        if (array.dtype != ours.dtype and not both_are_floats) or not np.isfinite(array).all():
            problem = f"is {array.dtype}, not {ours.dtype}, or holds numbers that are not finite"
            raise CheckpointError(f"{WEIGHTS}: {name} {problem}")
        if array.dtype == ours.dtype:
            ours[...] = array
        elif name in parameters:
            parameters[name].data = array
        else:  # a buffer
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, array)


# --- has a file changed? ----------------------------------------------------------------------------------------------


def sha256_table(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of those files that are there, by their names in the folder."""
    table = {}
    for path in (folder / name for name in names):
        if path.is_file():
            if path.suffix == ".safetensors":
                SafetensorsFile(path).close()  # raises early for a file that was cut off
            limit = MAX_MODEL_TEXT if path.suffix in (".json", ".txt") else sys.maxsize
            table[path.relative_to(folder).as_posix()] = sha256_of(path, limit)
    return table


def check_sha256(folder: Path, table: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise CheckpointError, naming the file, unless these files are as the table says: not altered, removed, added."""
    for name in names:
        found = sha256_table(folder, [name]).get(name)
        if found != table.get(name):
            problem = "is missing" if found is None else "was truncated, altered or added since it was saved"
            raise CheckpointError(f"{name} {problem}: put the old file back, or start a new run")


def inputs_of(folder: Path, data: bool = True) -> dict[str, str]:
    """The SHA-256 of a run's tokenizer, and of its data, which may be large: a run computes it once.

    Hidden files are not the run's: macOS leaves a .DS_Store in every folder that somebody looks at.
    """
    paths = (folder / "data").glob("[!.]*") if data else ()
    return sha256_table(folder, [*TOKENIZER_FILES, *(f"data/{path.name}" for path in sorted(paths))])


def check_inputs(folder: Path, table: Mapping[str, str], data: bool = True) -> None:
    """Raise CheckpointError if the tokenizer (or the data) is not what the run has learned from.

    An empty table belongs to a model that was saved without a tokenizer.
    """
    names = sorted({*table, *TOKENIZER_FILES}) if table else []
    check_sha256(folder, table, [name for name in names if data or not name.startswith("data/")])
