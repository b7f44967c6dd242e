"""Save a training run so it can continue exactly where it was, whatever happens while it is being saved.

A run's folder holds

    config.json             the kind of model and its shape
    model.safetensors       its weights, under the model's own names, (out, in) like `nn.Linear`
    optimizer.safetensors   the optimizer's moments
    trainer_state.json      step, random generators, data position, ... and the SHA-256 of the other files
    log.jsonl               one line per logged step

Four files cannot be renamed in one instant, but one file can. So each file is first written as NAME.new and flushed to
disk. Then one rename, of `trainer_state.json.new` to `trainer_state.json.commit`, decides: before it the old checkpoint
is valid, after it the new one. The other files are renamed last. If the machine stops before that, the next program
that opens the folder does it. While a run is writing into the folder (see folder_lock.py), loading changes nothing, so
you can try out a model while it is being trained.

A `ModelKind` says which parts of a model the folder stores: all of a language model, or, for a model with
adapters, only the adapters.

There is no pickle, so a checkpoint from a stranger is data and cannot run code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minigrad import nn
from minigrad.backend import Array
from minigrad.optim import Optimizer

from ..files import MAX_MODEL_TEXT, StrPath, errors_at, naming, open_regular, read_json, replace, shortened
from ..model.language_model import LanguageModel, architectures
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary_files import FILES as TOKENIZER_FILES
from ..weights.safetensors_file import DTYPES, Chunk, SafetensorsError, SafetensorsFile, safetensors_chunks
from .data_parallel import ALONE, Team
from .folder_lock import locked

CONFIG, WEIGHTS, MOMENTS = "config.json", "model.safetensors", "optimizer.safetensors"
STATE = "trainer_state.json"
COMMIT = STATE + ".commit"
RUN_FILES = (*TOKENIZER_FILES, "data", "log.jsonl", CONFIG, WEIGHTS, MOMENTS, STATE, COMMIT)

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
class ModelKind:
    """How to turn a kind of model into config.json and named arrays, and back.

    name: "model_type" in config.json. config(model): the rest of config.json, JSON-able. build(config, shapes): an
    empty model for the settings in config.json and the stored shapes; raises ValueError before it allocates memory if
    they do not fit (see `check_size`). tensors(model): the arrays to store and to fill, parameters or buffers, by name.
    """

    name: str
    config: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any], Shapes], nn.Module]
    tensors: Callable[[Any], Mapping[str, Array]] = nn.Module.state_dict


def plain_kind(architecture: type[LanguageModel]) -> ModelKind:
    """The kind of an architecture's models that are stored as a whole."""

    def build(values: dict[str, Any], shapes: Shapes) -> LanguageModel:
        config = architecture.config_class.from_dict(values)
        check_size(config.num_parameters(), shapes)
        with nn.init.skipped():
            return architecture(config)

    return ModelKind(f"minigrad-{architecture.family}", lambda model: model.config.to_dict(), build)


def check_size(expected: int, shapes: Shapes) -> None:
    """Raise ValueError unless the stored tensors have as many numbers as config.json promises."""
    stored = sum(math.prod(shape) for shape in shapes.values())
    if stored != expected:
        raise ValueError(f"it is one of {expected:,} numbers, but {stored:,} are stored")


IN_WORDS = {  # kinds of the fine-tuning packages, for errors
    "minigrad-gpt-quantized": ": its weights are quantized",
    "minigrad-gpt-with-head": ": it is a classifier or a reward model",
}


def kind_of(model: nn.Module) -> ModelKind:
    """The kind of a whole language model. Raises TypeError for others, and if modules were replaced."""
    for architecture in architectures():
        if isinstance(model, architecture) and model.num_parameters() == model.config.num_parameters():
            return plain_kind(architecture)
    what = type(model).__name__ + (" with other modules" if isinstance(model, LanguageModel) else "")
    raise TypeError(f"a checkpoint of a {what} needs a `kind` that says what is stored of it")


# --- saving -----------------------------------------------------------------------------------------------------------


def save_checkpoint(
    folder: StrPath,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    state: Mapping[str, Any] | None = None,
    kind: ModelKind | None = None,
) -> None:
    """Save model, optimizer and JSON-able `state` in `folder`: everything or, if anything fails, nothing.

    kind: which parts of the model to store; by default a whole language model (`kind_of`). The disk needs room for two
    checkpoints. Raises OSError, with the old checkpoint intact, if the disk is full or not writable.
    """
    with writing(folder):
        _save(Path(folder), model, optimizer, state, kind_of(model) if kind is None else kind)


@contextlib.contextmanager
def writing(folder: StrPath, team: Team = ALONE) -> Iterator[None]:
    """Lock a run's folder for writing inside the block, and first complete a commit that was interrupted.

    Process 0 does this for its whole team. Raises what `locked` raises.
    """
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(locked(folder))
            _finish_commit(Path(folder))

        team.once(begin)
        yield


def _save(
    folder: Path, model: nn.Module, optimizer: Optimizer | None, state: Mapping[str, Any] | None, kind: ModelKind
) -> None:
    content: dict[str, Iterable[Chunk]] = {
        CONFIG: _json({"model_type": kind.name, **kind.config(model)}),
        WEIGHTS: safetensors_chunks(kind.tensors(model)),
    }
    settings = None
    if optimizer is not None:
        settings, moments = _take_apart(optimizer.state_dict())
        content[MOMENTS] = safetensors_chunks(moments)
    try:
        hashes = {name: _write(folder / f"{name}.new", chunks) for name, chunks in content.items()}
        record = json.loads(json.dumps({"files": hashes, "optimizer": settings, "state": dict(state or {})}))
        _write(folder / f"{STATE}.new", _json({"sha256": _hash_of_record(record), **record}))
        _sync_folder(folder)
        replace(folder / f"{STATE}.new", folder / COMMIT)  # from here on the new checkpoint is the one that counts
    except BaseException as error:
        if (folder / COMMIT).exists():  # Ctrl-C just after that moment
            raise
        for name in [*content, STATE]:
            (folder / f"{name}.new").unlink(missing_ok=True)
        if isinstance(error, OSError):
            before = "the one before it is intact" if has_checkpoint(folder) else "there is none from before"
            reason = f"the checkpoint could not be saved: {error.strerror or error}; {before}"
            raise OSError(error.errno, reason, error.filename or str(folder)) from error
        raise
    _sync_folder(folder)
    with contextlib.suppress(PermissionError):  # on Windows, if somebody is reading; the next save makes up for it
        _finish_commit(folder)


def remove_checkpoint(folder: StrPath) -> None:
    """Remove the checkpoint from a run's folder, so a new run can start there."""
    for name in (STATE, COMMIT):
        (Path(folder) / name).unlink(missing_ok=True)


def _finish_commit(folder: Path) -> None:
    """Finish a commit: rename every NAME.new, then the record itself. It can be interrupted and repeated."""
    if (folder / COMMIT).exists():
        for name in _read_record(folder / COMMIT)["files"].keys() & {CONFIG, WEIGHTS, MOMENTS}:
            if (folder / f"{name}.new").exists():
                replace(folder / f"{name}.new", folder / name)
        _sync_folder(folder)
        replace(folder / COMMIT, folder / STATE)
        _sync_folder(folder)


def _take_apart(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Split an optimizer's state into JSON-able values and arrays named POSITION.NAME."""
    numbers: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Array] = {}
    for position, values in state["state"].items():
        numbers[str(position)] = {name: value for name, value in values.items() if not hasattr(value, "shape")}
        arrays |= {f"{position}.{name}": value for name, value in values.items() if hasattr(value, "shape")}
    return {"param_groups": state["param_groups"], "state": numbers}, arrays


def _json(content: Any) -> Iterator[Chunk]:
    yield json.dumps(content, indent=1, allow_nan=False).encode("utf-8")


def _write(path: Path, chunks: Iterable[Chunk]) -> str:
    """Write a file, flush it to disk, and return its SHA-256."""
    digest = hashlib.sha256()
    with naming(path), open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


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
    return any((Path(folder) / name).exists() for name in (STATE, COMMIT))


def load_state(folder: StrPath) -> dict[str, Any]:
    """The `state` of the checkpoint in `folder`, without the model. Raises CheckpointError."""
    return _read_record(_record_path(Path(folder)))["state"]


def load_config(folder: StrPath) -> dict[str, Any]:
    """The config.json of the checkpoint in `folder`. Raises CheckpointError."""
    record_path = _record_path(Path(folder))
    return _read_json(_verified(Path(folder), CONFIG, _read_record(record_path)["files"].get(CONFIG), record_path))


def stored_kind(folder: StrPath) -> str | None:
    """The name of the kind of model (see `ModelKind`) in a run's folder; None if there is none, or it is damaged."""
    try:
        return load_config(folder).get("model_type") if has_checkpoint(folder) else None
    except ValueError:  # raised again, and shown, when the folder is read
        return None


def load_checkpoint(folder: StrPath, with_optimizer: bool = True, kind: ModelKind | None = None) -> Checkpoint:
    """Load what `save_checkpoint` has written. Raises CheckpointError, naming the file that is missing or altered.

    kind: which parts of a model the folder stores; by default a whole language model, as config.json says.
    """
    kinds = [plain_kind(architecture) for architecture in architectures()] if kind is None else [kind]
    folder = Path(folder)
    for _ in range(10):
        before = _files_there(folder)
        try:
            checkpoint = _load(folder, with_optimizer, kinds)
        except CheckpointError:
            if _files_there(folder) == before:
                raise
        else:
            if _files_there(folder) == before:
                return checkpoint
        time.sleep(0.01)  # a training run saved meanwhile, and what was read may be of two checkpoints: again
    raise CheckpointError(f"the checkpoint in {folder} is written faster than it can be read; try again later")


def load_run(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """Load a run's model, without its optimizer, and the tokenizer it was trained with. Raises CheckpointError."""
    checkpoint = load_checkpoint(folder, with_optimizer=False)
    check_inputs(folder, checkpoint.state, data=False)
    return checkpoint.model, Tokenizer.load(folder)


# --- what a run was started with --------------------------------------------------------------------------------------


def inputs(folder: StrPath, data: bool = True) -> dict[str, str]:
    """The SHA-256 of each tokenizer and data file of a run, by its name in the run's folder.

    Hidden files in the data folder are not the run's: macOS leaves a .DS_Store in every folder that somebody looks at.
    """
    folder = Path(folder)
    paths = [folder / name for name in TOKENIZER_FILES] + (sorted((folder / "data").glob("*")) if data else [])
    hashes = {}
    for path in paths:
        if path.is_file() and not path.name.startswith("."):
            with open_regular(path, sys.maxsize if path.parent != folder else MAX_MODEL_TEXT) as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def check_inputs(folder: StrPath, state: Mapping[str, Any], data: bool = True) -> dict[str, str]:
    """Return `inputs`; raise CheckpointError if a file of the tokenizer (or data) has changed since the run started."""
    then, now = state.get("inputs", {}), inputs(folder, data)
    if not isinstance(then, dict):
        raise CheckpointError(f"the state of the checkpoint in {folder} is damaged: inputs is {shortened(then)}")
    for name in sorted(then.keys() | now.keys()) if then else ():  # empty where nothing was trained
        is_checked = not name.startswith("data/." if data else "data/")  # a hidden one is in the state of older runs
        if is_checked and then.get(name) != now.get(name):
            path = Path(folder) / name
            raise CheckpointError(f"{path} was altered or removed since the run started: put the old file back")
    return now


def check_like(found: Any, expected: Any, name: str) -> None:
    """Raise CheckpointError, naming the value, unless it has the form of the expected one.

    The keys, lengths, types and shapes must be equal. Numbers must be finite, and integers not negative. If None is
    expected, the value may be None or a number.
    """
    if isinstance(expected, dict):
        fits = isinstance(found, dict) and found.keys() == expected.keys()
        parts = [(found[key], expected[key], f"{name}.{key}") for key in expected] if fits else []
    elif isinstance(expected, list | tuple):
        fits = isinstance(found, list | tuple) and len(found) == len(expected)
        parts = [(*pair, f"{name}[{i}]") for i, pair in enumerate(zip(found, expected, strict=True))] if fits else []
    else:
        parts = []
        if hasattr(expected, "shape"):
            same = isinstance(found, np.ndarray) and found.shape == expected.shape and found.dtype == expected.dtype
            fits = same and bool(np.isfinite(found).all())
        elif isinstance(expected, bool | int | str):
            fits = type(found) is type(expected) and (type(found) is not int or found >= 0)
        else:
            fits = (found is None and expected is None) or (type(found) in (int, float) and abs(found) < math.inf)
    if not fits:
        raise CheckpointError(f"{name} is damaged: {shortened(found)}")
    for part in parts:
        check_like(*part)


def _files_there(folder: Path) -> list[tuple[int, int] | None]:
    """A value that changes with each commit, and with each rename that finishes a commit."""
    paths = [folder / name for name in (COMMIT, STATE, CONFIG, WEIGHTS, MOMENTS)]
    marks: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)
            marks.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            marks.append(None)
    return marks


def _load(folder: Path, with_optimizer: bool, kinds: Iterable[ModelKind]) -> Checkpoint:
    record_path = _record_path(folder)
    record = _read_record(record_path)
    wanted = [CONFIG, WEIGHTS] + ([MOMENTS] if with_optimizer and record["optimizer"] is not None else [])
    paths = {name: _verified(folder, name, record["files"].get(name), record_path) for name in wanted}
    config = _read_json(paths[CONFIG])
    name = config.pop("model_type", None)
    kind = next((kind for kind in kinds if kind.name == name), None)
    if kind is None:
        wanted_kinds = " or ".join(kind.name for kind in kinds)
        found = f", but a {name:.40}" if isinstance(name, str) and name.startswith("minigrad-") else ""
        found += IN_WORDS.get(name, "") if found else ""
        raise CheckpointError(f"{paths[CONFIG]} does not describe a {wanted_kinds}{found}")
    try:
        with SafetensorsFile(paths[WEIGHTS]) as file:
            with errors_at(f"{paths[CONFIG]} describes no model that can be loaded", CheckpointError):
                model = kind.build(config, file.shapes)
            _fill(model, kind, file)
        moments = _arrays(paths[MOMENTS]) if MOMENTS in paths else None
    except (SafetensorsError, OSError) as error:
        raise CheckpointError(str(error)) from None
    optimizer_state = None if moments is None else _put_together(record["optimizer"], moments, record_path)
    return Checkpoint(model, optimizer_state, record["state"])


def _record_path(folder: Path) -> Path:
    """The file with the valid state. An interrupted commit is completed first, unless the folder is not writable or
    another process is writing there.
    """
    if (folder / COMMIT).exists():
        with contextlib.suppress(OSError), locked(folder) as certain:
            if certain:
                _finish_commit(folder)
    return folder / COMMIT if (folder / COMMIT).exists() else folder / STATE


def _read_record(path: Path) -> dict[str, Any]:
    record = _read_json(path)
    expected = record.pop("sha256", None)
    if set(record) != {"files", "optimizer", "state"}:
        raise CheckpointError(f"{path} is not from minigrad")
    with errors_at(f"{path} is damaged", CheckpointError):
        found = _hash_of_record(record)
    if found != expected or not all(isinstance(record[name], dict) for name in ("files", "state")):
        raise CheckpointError(f"{path} was altered since it was saved")
    return record


def _hash_of_record(record: dict[str, Any]) -> str:
    """Raises ValueError for numbers that are not finite, which a checkpoint never has."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode("utf-8")).hexdigest()


def _verified(folder: Path, name: str, sha256: str | None, record_path: Path) -> Path:
    """A file of the checkpoint. It is NAME.new if the commit is not finished."""
    candidates = [folder / f"{name}.new", folder / name] if record_path.name == COMMIT else [folder / name]
    present = [path for path in candidates if path.exists()]
    for path in present:
        try:
            if name != CONFIG:
                SafetensorsFile(path).close()  # a header that does not fit the file saves hashing gigabytes
            with open_regular(path, MAX_MODEL_TEXT if name == CONFIG else sys.maxsize) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return path
        except SafetensorsError:
            continue
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    problem = "was truncated or altered since it was saved" if present else "is missing"
    raise CheckpointError(f"{folder / name} {problem}; the checkpoint in {folder} cannot be used")


def _fill(model: nn.Module, kind: ModelKind, file: SafetensorsFile) -> None:
    """Read the model's tensors, one at a time."""
    wanted = {name: array.shape for name, array in kind.tensors(model).items()}
    for name, shape in file.shapes.items():
        if wanted.get(name) != shape:
            expected = f"the shape {wanted[name]}" if name in wanted else "no such tensor"
            raise CheckpointError(f"{file.path}: {name} has shape {shape}, but the model has {expected}")
    if missing := [name for name in wanted if name not in file.entries]:
        raise CheckpointError(f"{file.path}: {missing[0]} is missing")
    parameters = dict(model.named_parameters())
    if len(stored := {file.entries[name].dtype for name in wanted if name in parameters}) > 1:
        raise CheckpointError(f"{file.path}: the parameters are of several types, {' and '.join(sorted(stored))}")
    for name in wanted:
        if name in parameters:
            parameters[name].data = _read(file, name, parameters[name].data)
        else:  # a buffer
            owner, _, attribute = name.rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, attribute, _read(file, name, getattr(module, attribute)))


def _read(file: SafetensorsFile, name: str, out: Array) -> np.ndarray:
    """Read a tensor that replaces `out`: finite, with its dtype or the other floating-point dtype."""
    dtype = np.dtype(DTYPES[file.entries[name].dtype])
    if dtype != out.dtype and not {dtype, out.dtype} <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise CheckpointError(f"{file.path}: {name} is {dtype}, not {out.dtype}")
    array = file.read(name, out)
    if not np.isfinite(array).all():
        raise CheckpointError(f"{file.path}: {name} holds numbers that are not finite")
    return array


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def _put_together(settings: Any, moments: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    """The inverse of `_take_apart`."""
    try:
        state = {int(position): dict(numbers) for position, numbers in settings["state"].items()}
        for key, array in moments.items():
            position, _, name = key.partition(".")
            state[int(position)][name] = array
        return {"param_groups": settings["param_groups"], "state": state}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{path} describes no optimizer that fits {MOMENTS}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"there is no checkpoint in {path.parent}: {path.name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(str(error)) from None
