"""The files of a Hugging Face folder. Its tensors are in one safetensors file, or in several ("shards") with an index:

    model.safetensors                    all of them; or
    model-00001-of-00002.safetensors     some of them, and
    model.safetensors.index.json         {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors", ...}}

Pickled weights (pytorch_model.bin) are not read: a pickle is a program, and can do anything when it is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from minigrad.backend import Array, module_of

from ..files import read_json, write_text
from ..tokenizer.tokenizer import Tokenizer
from .huggingface_config import CONFIG
from .safetensors_file import Entry, SafetensorsFile, write_safetensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Causal masks, which old versions of transformers stored beside the weights. (attn.c_attn.bias is none of them.)
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


class Weights:
    """The tensors of a folder (a `translation.Source`) by their names, without `prefix`, which some models have before
    them, and without the buffers that are no weights. Close it, or use `with`.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
    """

    described_in = CONFIG
    kinds: tuple[str, ...] = ("F32", "F16", "BF16", "F64")

    def __init__(
        self,
        folder: str | os.PathLike[str],
        prefix: str = "transformer.",
        buffers: re.Pattern[str] = MASK_BUFFER,
    ):
        self.place, self._prefix, self._buffers = Path(folder), prefix, buffers
        self.entries: dict[str, Entry] = {}
        self._found: dict[str, tuple[SafetensorsFile, str]] = {}  # name -> the file it is in, and its name there
        with contextlib.ExitStack() as files:
            for path, expected in weight_files(self.place).items():
                file = files.enter_context(SafetensorsFile(path))
                if expected is not None and file.entries.keys() != expected:
                    name = min(file.entries.keys() ^ expected)
                    raise ValueError(f"{path} and {INDEX} disagree about {name}: only one of them has it")
                self._add(file)
            self._files = files.pop_all()  # open until `close`

    def _add(self, file: SafetensorsFile) -> None:
        for full_name, entry in file.entries.items():
            name = full_name.removeprefix(self._prefix)
            if self._buffers.fullmatch(name):
                continue
            if name in self.entries:
                raise ValueError(f"{file.path}: {name} is there twice, with and without {self._prefix!r} before it")
            self.entries[name] = entry
            self._found[name] = file, full_name

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._files.close()

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """A tensor as it is stored: a new array, or `out`; see `SafetensorsFile.read`."""
        file, full_name = self._found[name]
        return file.read(full_name, out)

    def path(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self._found[name][0].path


def weight_files(folder: Path) -> Mapping[Path, set[str] | None]:
    """The files with weights, and which tensors each has to hold, if an index says so."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: None}
    index = folder / INDEX
    if not index.exists():
        raise FileNotFoundError(
            f"there are no weights in {folder}: {WEIGHTS} is missing (.bin files, which can run code, are not read)"
        )
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} is damaged: it has no weight_map")
    files: dict[Path, set[str]] = {}
    for name, place in places.items():
        # A plain name: an index from a stranger must not lead out of the folder.
        if not isinstance(place, str) or not re.fullmatch(r"[\w.-]+\.safetensors", place):
            raise ValueError(f"{index}: {str(place)[:100]!r} is no name of a .safetensors file in the same folder")
        files.setdefault(folder / place, set()).add(name)
    return files


def write_folder(
    folder: str | os.PathLike[str],
    config: dict[str, Any],
    tensors: Mapping[str, Array],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer; each file whole or not at all."""
    folder = Path(folder)
    if any(folder.glob("trainer_state.json*")):
        raise FileExistsError(f"{folder} holds a training run, which would be overwritten: choose another folder")
    for name, array in tensors.items():
        if not module_of(array).isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite (nan or inf); nothing was saved")
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})  # transformers wants to be told "pt"
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / "generation_config.json", json.dumps({"_from_model_config": True, **ends}, indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save(folder)
