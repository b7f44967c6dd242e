"""Saving a training run so that it can go on exactly where it was, whatever happens while it is being saved.

A run's folder holds

    config.json             the model's shape
    model.safetensors       its weights, under the model's own names, (out, in) like `nn.Linear`
    optimizer.safetensors   Adam's moments
    trainer_state.json      step, random generators, data position, ... and the SHA-256 of the other files
    log.jsonl               one line per logged step

Four files cannot be renamed at one instant, but a journal can: everything is written beside its target as NAME.new and flushed to the
disk; then one rename, of `trainer_state.json.new` to `trainer_state.json.commit`, decides. Before it the old checkpoint stands; after it
the new one does, and whoever opens the folder next finishes the renames if the machine died in between. No pickle: a checkpoint from a
stranger is data, and cannot run code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from minigrad import nn
from minigrad.backend import to_numpy
from minigrad.optim import Optimizer

from .config import GPTConfig
from .model import GPT

MODEL_TYPE = "minigrad-gpt"
_STATE = "trainer_state.json"
_COMMIT = _STATE + ".commit"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of something else."""


@dataclasses.dataclass
class Checkpoint:
    """What a run's folder holds: the model, the optimiser's state (None if not saved), and whatever else the run needs to go on."""

    model: GPT
    optimizer_state: dict[str, Any] | None
    state: dict[str, Any]


def save_checkpoint(
    folder: str | os.PathLike[str], model: GPT, optimizer: Optimizer | None = None, state: Mapping[str, Any] | None = None
) -> None:
    """Write model, optimiser and JSON-able `state` into `folder`: all of it, or (if anything fails) nothing.

    Raises OSError, with the folder's old checkpoint intact, where the disk is full or not writable.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _finish_commit(folder)
    written: list[Path] = []
    try:
        hashes = {}
        for name, content in _files(model, optimizer).items():
            path = folder / (name + ".new")
            written.append(path)
            _write(path, content)
            hashes[name] = _sha256(path)
        record = {"state": dict(state or {}), "files": hashes, "optimizer": _settings(optimizer)}
        path = folder / (_STATE + ".new")
        written.append(path)
        _write(path, record)
        os.replace(path, folder / _COMMIT)  # from here on the new checkpoint is the one that counts
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not save a checkpoint: {error.strerror or error}; the one before is intact", str(folder)) from None
    _finish_commit(folder)


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save_checkpoint` wrote. Raises CheckpointError naming the file that is missing, truncated or altered."""
    folder = Path(folder)
    _finish_commit(folder)
    record = _read_json(folder / _STATE)
    for name, expected in record["files"].items():
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{path} is missing; the checkpoint in {folder} cannot be used")
        if _sha256(path) != expected:
            raise CheckpointError(f"{path} was truncated or altered since it was saved; the checkpoint in {folder} cannot be used")
    config = _read_json(folder / "config.json")
    if config.pop("model_type", None) != MODEL_TYPE:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a {MODEL_TYPE}")
    with nn.init.skipped():
        model = GPT(GPTConfig.from_dict(config))
    model.load_state_dict(_read_tensors(folder / "model.safetensors"))
    optimizer_state = None
    if record["optimizer"] is not None:
        optimizer_state = _unflatten(record["optimizer"], _read_tensors(folder / "optimizer.safetensors"))
    return Checkpoint(model, optimizer_state, record["state"])


def has_checkpoint(folder: str | os.PathLike[str]) -> bool:
    return any((Path(folder) / name).exists() for name in (_STATE, _COMMIT))


def _files(model: GPT, optimizer: Optimizer | None) -> dict[str, Any]:
    files: dict[str, Any] = {
        "config.json": {"model_type": MODEL_TYPE, **model.config.to_dict()},
        "model.safetensors": {name: to_numpy(array) for name, array in model.state_dict().items()},
    }
    if optimizer is not None:
        states = optimizer.state_dict()["state"].items()
        moments = {f"{position}.{name}": value for position, state in states for name, value in state.items()}
        files["optimizer.safetensors"] = {name: to_numpy(v) for name, v in moments.items() if hasattr(v, "shape")}
    return files


def _settings(optimizer: Optimizer | None) -> dict[str, Any] | None:
    """The optimiser's state without its arrays."""
    if optimizer is None:
        return None
    full = optimizer.state_dict()
    numbers = {str(i): {k: v for k, v in state.items() if not hasattr(v, "shape")} for i, state in full["state"].items()}
    return {"param_groups": full["param_groups"], "state": numbers}


def _unflatten(settings: dict[str, Any], moments: dict[str, np.ndarray]) -> dict[str, Any]:
    state = {int(position): dict(numbers) for position, numbers in settings["state"].items()}
    for key, array in moments.items():
        position, _, name = key.partition(".")
        state.setdefault(int(position), {})[name] = array
    return {"param_groups": settings["param_groups"], "state": state}


def _write(path: Path, content: Any) -> None:
    if path.name.removesuffix(".new").endswith(".safetensors"):
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in content.items()}, path, metadata={"format": "np"})
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(None, str(error)) from None
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        return
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _finish_commit(folder: Path) -> None:
    """Do what is left of a commit: rename every NAME.new, then the record itself. Can be interrupted and done again."""
    commit = folder / _COMMIT
    if commit.exists():
        for name in _read_json(commit)["files"]:
            if (folder / (name + ".new")).exists():
                os.replace(folder / (name + ".new"), folder / name)
        os.replace(commit, folder / _STATE)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Have the renames themselves on the disk; only POSIX systems need and offer it."""
    if os.name == "posix" and folder.is_dir():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint in {path.parent}: {path.name} is missing") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged: it is no JSON text") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object")
    return content


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
