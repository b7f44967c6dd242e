"""Save a training run so it can continue exactly where it was, and load it again.

The idea: write everything that the next step depends on into a new folder, and let it count only once it is complete.
A run's folder holds

    checkpoint-7/               the seventh checkpoint
        config.json             the model's format and shape
        model.safetensors       its weights, under the model's own names, (out, in) like `nn.Linear`
        optimizer.safetensors   the optimizer's moments
        state.json              how far the run is, and the SHA-256 of every file that the run consists of
    vocab.json, data/, ...      its tokenizer and its data, which never change
    log.jsonl                   one line per logged step

In its simple form, saving writes these files and loading reads them. A model:

>>> import tempfile
>>> from gpt import GPT, GPTConfig
>>> folder = Path(tempfile.mkdtemp())
>>> model = GPT(GPTConfig(vocab_size=5, block_size=8, n_layer=1, n_head=1, n_embd=4))
>>> write_text(folder / "config.json", json.dumps(model.config.to_dict()))
>>> write_safetensors(folder / "model.safetensors", model.state_dict())

>>> loaded = GPT(GPTConfig.from_dict(read_json(folder / "config.json")))
>>> with SafetensorsFile(folder / "model.safetensors") as file:
...     weights = {name: file.read(name) for name in file.entries}
>>> loaded.load_state_dict(weights)  # no name is missing, and none is left over
([], [])

This page does the same for a run, its optimizer and its state included:

>>> from minigrad.optim import AdamW
>>> optimizer = AdamW(model.parameters(), lr=0.001)
>>> save_checkpoint(folder / "run", model, optimizer, {"step": 0})
>>> sorted(path.name for path in (folder / "run" / "checkpoint-1").iterdir())
['config.json', 'model.safetensors', 'optimizer.safetensors', 'state.json']
>>> checkpoint = load_checkpoint(folder / "run")
>>> optimizer.load_state_dict(checkpoint.optimizer_state)
>>> checkpoint.state
{'step': 0}
>>> shutil.rmtree(folder)

The rest of the page is about three things, each in a section below the functions that save and load:

* Only whole checkpoints count, even if the process is killed while it saves, or the disk is full. Several files cannot
  change in one instant, but a folder can be renamed in one. So a checkpoint is written as `checkpoint-7.unfinished`.
  Its rename to `checkpoint-7` makes it count, and then `checkpoint-6` is deleted. After a crash between the two steps
  both are there, and the newest counts.
* Has a file changed since it was saved? The SHA-256 of each file tells.
* A `ModelFormat` says which parts of a model the folder stores: all of a language model, or, for a model with adapters,
  only the adapters.

Loading changes nothing, so you can try out a model while it is being trained. There is no pickle, so a checkpoint from
a stranger is data and cannot run code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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

PREFIX = "checkpoint-"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MOMENTS = "optimizer.safetensors"
STATE = "state.json"
FORMAT = 1  # the version of the format, in state.json

JSON = dict[str, Any]  # what a JSON file holds
Shapes = Mapping[str, tuple[int, ...]]  # of stored arrays, by name
# What Python may raise while we read a file that holds something unexpected.
WRONG_CONTENT = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, OSError)


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, or holds something else."""


@dataclasses.dataclass(frozen=True)
class ModelFormat:
    """How a model becomes config.json and named arrays, and how it is made of them again."""

    name: str  # "model_type" in config.json
    # config(model): the rest of config.json, JSON-able.
    config: Callable[[Any], JSON]
    # build(config, shapes): a model for the settings in config.json, whose stored arrays are read later. It raises
    # ValueError, before it allocates memory, if the shapes in the file do not fit the settings (see `whole`, below).
    build: Callable[[JSON, Shapes], nn.Module]
    # tensors(model): the arrays to store, parameters and buffers, by their names in the model.
    tensors: Callable[[Any], Mapping[str, Array]] = nn.Module.state_dict


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

    format: which parts of the model to store; by default a whole language model (`format_of`). inputs: hashes of the
    run's inputs (`inputs_of`); by default, of the tokenizer in the folder. The disk needs room for two checkpoints.
    Raises OSError, with the old checkpoint intact, if the disk is full or not writable.
    """
    folder = Path(folder)
    format = format or format_of(model)
    with _new_checkpoint(folder) as new:  # a folder, which counts as a checkpoint after the block
        # The model: its format and shape, and its weights.
        config = {"model_type": format.name, **format.config(model)}
        write_text(new / CONFIG, json.dumps(config, indent=1))
        write_safetensors(new / WEIGHTS, format.tensors(model))

        # The optimizer: its arrays, which are Adam's moments. What remains are numbers, for state.json.
        optimizer_state = None
        if optimizer is not None:
            optimizer_state = optimizer.state_dict()
            write_safetensors(new / MOMENTS, _take_arrays(optimizer_state))

        # The state of the run, and the hashes of all files, of state.json as well.
        record = {
            "format": FORMAT,
            "files": sha256_table(new, (CONFIG, WEIGHTS, MOMENTS)),
            "inputs": inputs_of(folder, data=False) if inputs is None else inputs,
            "optimizer": optimizer_state,
            "state": state or {},
        }
        # Hash it as JSON will give it back: tuples become lists, and integer keys become strings.
        record = json.loads(json.dumps(record, allow_nan=False))
        record["sha256"] = _sha256_of_record(record)
        write_text(new / STATE, json.dumps(record, indent=1))


def _take_arrays(optimizer_state: dict[str, Any]) -> dict[str, Array]:
    """Take the arrays out of what `Optimizer.state_dict` returned, because JSON cannot hold them.

    {3: {"step": 7, "exp_avg": ARRAY}}, which is what Adam remembers of parameter 3, becomes {3: {"step": 7, "exp_avg":
    None}}, and {"3.exp_avg": ARRAY} is returned. The optimizer itself keeps its arrays: its dictionaries are others.
    """
    arrays = {}
    for position, values in optimizer_state["state"].items():
        for name, value in values.items():
            if hasattr(value, "shape"):
                arrays[f"{position}.{name}"] = value
                values[name] = None
    return arrays


# --- loading ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Checkpoint:
    """What was saved: the model, the optimizer's state (or None), and the state of the run."""

    model: Any
    optimizer_state: dict[str, Any] | None
    state: JSON
    inputs: dict[str, str]  # the SHA-256 of the run's tokenizer and data: see `inputs_of`


def load_checkpoint(folder: StrPath, with_optimizer: bool = True, format: ModelFormat | None = None) -> Checkpoint:
    """Load what `save_checkpoint` has written. Raises CheckpointError, naming the file that is missing or altered.

    format: which parts of a model the folder stores; by default a whole language model, as config.json says.
    """
    formats = [format] if format else [whole(architecture) for architecture in architectures()]
    known = {each.name: each for each in formats}

    def load(path: Path) -> Checkpoint:  # path: the newest checkpoint in the folder
        # The state of the run. It has the hashes of all files, which are checked before they are read.
        record = _read_record(path)
        _check_unchanged(path, record, with_optimizer)

        # The model: config.json names its format, which builds it. Then its weights are read.
        config = read_json(path / CONFIG)
        model_type = config.pop("model_type", None)
        if model_type not in known:
            raise CheckpointError(f"{CONFIG} does not describe a {' or '.join(known)}, but a {model_type!r:.40}")
        with SafetensorsFile(path / WEIGHTS) as file:
            model = known[model_type].build(config, file.shapes)
            _load_weights(model, known[model_type], file)

        # The optimizer: its arrays return to the places where `_take_arrays` has left None.
        state = record["state"]
        optimizer_state = record["optimizer"] if with_optimizer else None
        if optimizer_state is None:  # loaded to be used, not resumed: say if its training has not ended
            _say_if_unfinished(path.parent, state.get("step", 0), state.get("planned_steps", 0))
        else:
            with SafetensorsFile(path / MOMENTS) as file:
                for key in file.entries:
                    position, name = key.split(".")
                    # "3": JSON has made the integer a string. `Optimizer.load_state_dict` takes both.
                    optimizer_state["state"][position][name] = file.read(key)
        return Checkpoint(model, optimizer_state, state, record["inputs"])

    return _read_newest(folder, load)


def load_run(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """Load a run's model, without its optimizer, and the tokenizer it was trained with. Raises CheckpointError."""
    return load_checkpoint(folder, with_optimizer=False).model, Tokenizer.load(folder)


def load_state(folder: StrPath) -> JSON:
    """The `state` of the checkpoint in `folder`, without the model. Raises CheckpointError."""
    return _read_newest(folder, _read_record)["state"]


def stored_model_type(folder: StrPath) -> str | None:
    """The name of the `ModelFormat` in a run's folder; None if there is no checkpoint, or it is damaged."""
    try:
        return _read_newest(folder, lambda path: read_json(path / CONFIG)).get("model_type")
    except CheckpointError:  # raised again, and shown, when the folder is read
        return None


def _read_record(path: Path) -> JSON:
    """What state.json says."""
    record = read_json(path / STATE)
    sha256 = record.pop("sha256", None)
    version = record.get("format")
    if version != FORMAT:
        raise CheckpointError(f"{STATE} has format {version!r:.20}, and this version of minigrad reads format {FORMAT}")
    if sha256 != _sha256_of_record(record):
        raise CheckpointError(f"{STATE} was altered since it was saved")
    return record


def _load_weights(model: nn.Module, format: ModelFormat, file: SafetensorsFile) -> None:
    """Put the file's arrays in the places of the model's, one at a time, so the model is never in memory twice."""
    shapes = {name: array.shape for name, array in format.tensors(model).items()}
    _check_shapes(shapes, file.shapes)
    for name in shapes:
        new = file.read(name)
        # "transformer.h.0.ln_1.weight" is the attribute "weight" of the module "transformer.h.0.ln_1".
        module_name, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_name)
        old = getattr(module, attribute)  # a Parameter, or a buffer, which is a bare array
        # The model was built in float32, but a run in float64 is loaded as such.
        fits = new.dtype == old.dtype or new.dtype.kind == old.dtype.kind == "f"
        if not fits or not np.isfinite(new).all():
            raise CheckpointError(
                f"{WEIGHTS}: {name} is {new.dtype}, not {old.dtype}, or holds numbers that are not finite"
            )
        if isinstance(old, nn.Parameter):
            old.data = new
        else:
            setattr(module, attribute, new)


def _check_shapes(expected: Shapes, stored: Shapes) -> None:
    """Raise CheckpointError for the first tensor that only the model or only the file has, or in another shape."""
    for name in sorted({*expected, *stored}):  # the names in either
        if expected.get(name) != stored.get(name):
            found = f"has shape {stored[name]}" if name in stored else "is missing"
            wanted = f"the shape {expected[name]}" if name in expected else "no such tensor"
            raise CheckpointError(f"{WEIGHTS}: {name} {found}, but the model has {wanted}")


_shown: set[str] = set()  # the lines that this process has shown


def _say_if_unfinished(folder: Path, step: int, planned: int) -> None:
    """Say on standard error, once, that the run whose model is used has not ended."""
    resume = f"resume it with --init-from resume --out-dir {quoted(folder)}"
    text = f"the run in {folder} has done step {step:,} of {planned:,}; {resume}"
    if step < planned and text not in _shown:
        _shown.add(text)
        show(text, sys.stderr)


# --- which checkpoint counts? -----------------------------------------------------------------------------------------


def has_checkpoint(folder: StrPath) -> bool:
    """Whether `folder` has a checkpoint to continue from."""
    return bool(checkpoints(folder))


def checkpoints(folder: StrPath) -> list[Path]:
    """The complete checkpoints in a folder, the newest last. The older ones are about to be deleted."""
    paths = [Path(folder) / f"{PREFIX}{number}" for number in _numbers(folder)]
    return [path for path in paths if (path / STATE).exists()]


def _numbers(folder: StrPath) -> list[int]:
    """The N of everything named checkpoint-N: our checkpoints, and perhaps files of other programs, which stay."""
    endings = [path.name.removeprefix(PREFIX) for path in Path(folder).glob(f"{PREFIX}*")]
    return sorted(int(ending) for ending in endings if ending.isdecimal())


@contextlib.contextmanager
def _new_checkpoint(folder: Path) -> Iterator[Path]:
    """In the block, write the files of the next checkpoint into this new folder.

    After the block it takes the place of the checkpoint before it. If the block fails, it is deleted. Raises OSError,
    which says what is left, if a file could not be written.
    """
    make_folder(folder)
    _delete_old_and_unfinished(folder)  # what a crash has left
    new = folder / f"{PREFIX}{max(_numbers(folder), default=0) + 1}"
    unfinished = Path(f"{new}{UNFINISHED}")
    try:
        unfinished.mkdir()
        yield unfinished
        _flush_names(unfinished)
        replace(unfinished, new)  # from here on the new checkpoint is the one that counts
    except OSError as error:
        before = "the one before it is intact" if has_checkpoint(folder) else "there is none from before"
        reason = f"the checkpoint could not be saved: {error.strerror or error}; {before}"
        raise OSError(error.errno, reason, error.filename or str(folder)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a block that failed; after the rename there is none
    _flush_names(folder)  # so the rename is on the disk before the old checkpoint is deleted
    _delete_old_and_unfinished(folder)


def _delete_old_and_unfinished(folder: Path) -> None:
    """Delete all but the newest checkpoint, and what is unfinished. On Windows, what somebody is reading stays."""
    for old in checkpoints(folder)[:-1]:
        with contextlib.suppress(OSError):
            # Renamed first: if the process is killed while it deletes files, what is left must not count.
            replace(old, Path(f"{old}{UNFINISHED}"))
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


def _read_newest(folder: StrPath, read: Callable[[Path], Any]) -> Any:
    """read(the newest checkpoint in the folder). Raises CheckpointError, whatever somebody has written into it."""
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}: no {PREFIX}N/{STATE}")
    newest = found[-1]
    try:
        with errors_at(f"{newest} cannot be loaded", CheckpointError, WRONG_CONTENT):
            return read(newest)
    except CheckpointError:
        if newest.exists():
            raise
    # A run that saved meanwhile has deleted it: read the newer one.
    return _read_newest(folder, read)


# --- has a file changed? ----------------------------------------------------------------------------------------------


def _check_unchanged(path: Path, record: JSON, with_optimizer: bool) -> None:
    """Raise CheckpointError if a file of a checkpoint, or of the run's tokenizer and data, is not as it was saved.

    with_optimizer: the run is to be continued, so its optimizer and its data count.
    """
    check_sha256(path, record["files"], (CONFIG, WEIGHTS, MOMENTS) if with_optimizer else (CONFIG, WEIGHTS))
    inputs = record["inputs"]
    if inputs:  # a model can be saved without a tokenizer
        names = {*inputs, *TOKENIZER_FILES} if with_optimizer else TOKENIZER_FILES
        check_sha256(path.parent, inputs, sorted(names))


def check_sha256(folder: Path, table: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise CheckpointError, naming the file, if one of these files is not as in the table: altered, removed, added."""
    for name in names:
        now = sha256_table(folder, [name]).get(name)
        if now != table.get(name):
            problem = "is missing" if now is None else "was truncated, altered or added since it was saved"
            raise CheckpointError(f"{name} {problem}: put the old file back, or start a new run")


def sha256_table(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of those files that are there, by their names in the folder."""
    table = {}
    for name in names:
        path = folder / name
        if path.is_file():
            if path.suffix == ".safetensors":
                SafetensorsFile(path).close()  # its header shows at once whether the file was cut off
            # A text of many gigabytes, which somebody has put there, is refused before it is read.
            limit = MAX_MODEL_TEXT if path.suffix in (".json", ".txt") else sys.maxsize
            table[name] = sha256_of(path, limit)
    return table


def inputs_of(folder: Path, data: bool = True) -> dict[str, str]:
    """The SHA-256 of a run's tokenizer, and of its data, which may be large: a run computes it once.

    Hidden files are not the run's: macOS leaves a .DS_Store in every folder that somebody looks at.
    """
    names = list(TOKENIZER_FILES)
    if data:
        names += sorted(f"data/{path.name}" for path in (folder / "data").glob("[!.]*"))
    return sha256_table(folder, names)


def _sha256_of_record(record: JSON) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8")).hexdigest()


# --- what is stored of a model? ---------------------------------------------------------------------------------------


def whole(architecture: type[LanguageModel]) -> ModelFormat:
    """The format of an architecture's models that are stored as a whole."""

    def build(values: JSON, shapes: Shapes) -> LanguageModel:
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
    what = type(model).__name__
    if isinstance(model, LanguageModel):
        if model.num_parameters() == model.config.num_parameters():
            return whole(type(model))
        what += " with other modules"
    raise TypeError(f"a checkpoint of a {what} needs a `format` that says what is stored of it")
