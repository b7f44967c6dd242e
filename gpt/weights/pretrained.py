"""Load and save pretrained models: a Hugging Face folder, or (loading only) a GGUF file.

A folder has config.json, usually a tokenizer, and the tensors, in one safetensors file or in several with an index:

    model.safetensors                    all tensors; or
    model-00001-of-00002.safetensors     some tensors (a "shard"), and
    model.safetensors.index.json         {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors", ...}}

gpt2_huggingface.py and llama_huggingface.py have the tables from these settings and tensors to ours. The first begins
with a naive loader of fifteen lines: all that loading is, without the checks.

Pickled weights (pytorch_model.bin) are not loaded, because a pickle is a program and can do anything when it is loaded.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigrad import nn
from minigrad.backend import Array, module_of

from ..files import StrPath, errors_at, read_json, shortened, write_text
from ..tokenizer.tokenizer import Tokenizer
from . import gpt2_gguf, gpt2_huggingface, llama_gguf, llama_huggingface
from .gguf_file import GGUFFile, is_gguf
from .safetensors_file import SafetensorsFile, write_safetensors
from .tensor_table import Match, Source, fill, matches, their_tensors

M = TypeVar("M", bound=nn.Module)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16", "F64")
# By model_type in config.json. Each module has PREFIX, BUFFERS, EMBEDDING, rows, from_json and to_json.
ARCHITECTURES: dict[str, Any] = {"gpt2": gpt2_huggingface}
ARCHITECTURES |= dict.fromkeys(llama_huggingface.MODEL_TYPES, llama_huggingface)


def load(path: StrPath | GGUFFile, model_class: type[M]) -> M:
    """Load the model in a Hugging Face folder or a GGUF file, in float32 and in evaluation mode.

    model_class: GPT or Llama; or LanguageModel for any of its subclasses, as the folder or file says. Raises
    FileNotFoundError, or ValueError, naming the file, setting or tensor that is missing, unexpected, of a wrong shape,
    not finite, or damaged.
    """
    classes: list[Any] = [*model_class.__subclasses__(), model_class]
    models = {found.model_type: found for found in classes if getattr(found, "model_type", None) in ARCHITECTURES}
    if isinstance(path, GGUFFile) or is_gguf(path):
        return _load_gguf(path if isinstance(path, GGUFFile) else GGUFFile(path), models)
    values, config = read_config(path, *models)
    architecture = ARCHITECTURES[values["model_type"]]
    build = next(build for name, build in models.items() if ARCHITECTURES[name] is architecture)
    with open_weights(path, values["model_type"]) as weights:
        tied_to = architecture.EMBEDDING if config.tied else ""
        return fill(lambda: build(config), weights, architecture.rows(config), tied_to).eval()


def _load_gguf(file: GGUFFile, models: dict[str, Any]) -> Any:
    described: Any = gpt2_gguf if file.metadata.get("general.architecture") == "gpt2" else llama_gguf
    config = described.config_of(file)
    if described.ARCHITECTURE not in models:
        raise ValueError(f"{file.path} holds a {described.ARCHITECTURE}, not a {' or '.join(models)}")
    weights = llama_gguf.weights_of(file, config)
    return fill(lambda: models[described.ARCHITECTURE](config), weights, described.gguf_rows(config)).eval()


def save(model: Any, folder: StrPath, tokenizer: Tokenizer | None = None) -> None:
    """Save a language model and its tokenizer as a folder that transformers can load.

    Raises ValueError for a model with adapters or quantized layers, FileExistsError if the folder holds a training run,
    OSError.
    """
    architecture = ARCHITECTURES[model.model_type]
    config = architecture.to_json(model.config, end=None if tokenizer is None else tokenizer.eos_token_id)
    tensors = their_tensors(model, architecture.rows(model.config), architecture.NAME)
    write_folder(folder, config, tensors, tokenizer)


def report(folder: StrPath, model_type: str = "gpt2") -> Iterator[Match]:
    """Compare a folder with our model, tensor by tensor, without reading any numbers. `print` each match.

    Raises what `load` raises for files that are damaged or of another model. The matches show tensors that do not fit.
    """
    architecture = ARCHITECTURES[model_type]
    _, config = read_config(folder, model_type)
    with open_weights(folder, model_type) as weights:
        if config.n_layer > len(weights.entries):  # it would be a long report
            raise ValueError(f"{Path(folder) / CONFIG} asks for {config.n_layer} layers, but there are fewer tensors")
        yield from matches(weights, architecture.rows(config), architecture.EMBEDDING if config.tied else "")


# --- reading ----------------------------------------------------------------------------------------------------------


def read_config(folder: StrPath, *model_types: str) -> tuple[dict[str, Any], Any]:
    """The settings of a model of one of these types in config.json of `folder`, and our configuration made of them.

    Raises FileNotFoundError; ValueError if it is damaged or belongs to another model.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder, but a model of the type {' or '.join(model_types)} is one")
    if (folder / "adapter_config.json").exists() and not path.exists():
        raise ValueError(f"{folder} holds an adapter (adapter_config.json), for a base model that comes first")
    if not path.exists():
        raise FileNotFoundError(f"there is no model in {folder}: {CONFIG} is missing")
    values = {"model_type": "gpt2", **read_json(path)}  # old folders of GPT-2 do not say it
    model_type = values["model_type"]
    wanted = [ARCHITECTURES[name] for name in model_types]
    known = [name for name, architecture in ARCHITECTURES.items() if architecture in wanted]
    if model_type not in known:
        raise ValueError(f"{path} describes a model of the type {shortened(model_type)}; read here: {', '.join(known)}")
    if values.get("quantization_config") is not None:
        raise ValueError(f"{path} describes quantized weights (quantization_config): only floats can be read")
    with errors_at(str(path), caught=(TypeError, ValueError)):
        return values, ARCHITECTURES[model_type].from_json(values)


@contextlib.contextmanager
def open_weights(folder: StrPath, model_type: str = "gpt2") -> Iterator[Source]:
    """In the block, the tensors of a folder by their names, without the prefix that some folders put before them, and
    without the buffers that are not weights.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
    """
    folder = Path(folder)
    architecture = ARCHITECTURES[model_type]
    places: dict[str, tuple[SafetensorsFile, str]] = {}  # name -> the file it is in, and its name there
    with contextlib.ExitStack() as files:
        for path, expected in weight_files(folder).items():
            file = files.enter_context(SafetensorsFile(path))
            if expected is not None and file.entries.keys() != expected:
                name = min(file.entries.keys() ^ expected)
                raise ValueError(f"{path} and {INDEX} disagree about {name}: only one of them has it")
            for full_name in file.entries:
                name = full_name.removeprefix(architecture.PREFIX)
                if not architecture.BUFFERS.fullmatch(name):
                    places[name] = file, full_name

        def read(name: str, rows: slice) -> np.ndarray:
            file, full_name = places[name]
            return file.read(full_name, rows)

        entries = {name: file.entries[full_name] for name, (file, full_name) in places.items()}
        yield Source(folder, CONFIG, FLOATS, entries, read, lambda name: places[name][0].path)


def weight_files(folder: Path) -> Mapping[Path, set[str] | None]:
    """The weight files, and the tensors that each must have according to the index, if there is one."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: None}
    index = folder / INDEX
    if not index.exists():
        refused = ".bin files, which can run code, are not read"
        raise FileNotFoundError(f"there are no weights in {folder}: {WEIGHTS} is missing ({refused})")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} is damaged: it has no weight_map")
    files: dict[Path, set[str]] = {}
    for name, place in places.items():
        # A plain name: an index from a stranger must not lead out of the folder.
        if not isinstance(place, str) or not re.fullmatch(r"[\w.-]+\.safetensors", place):
            raise ValueError(f"{index}: {str(place)[:100]!r} is not the name of a .safetensors file in the same folder")
        files.setdefault(folder / place, set()).add(name)
    return files


# --- writing ----------------------------------------------------------------------------------------------------------


def write_folder(
    folder: StrPath, config: dict[str, Any], tensors: Mapping[str, Array], tokenizer: Tokenizer | None = None
) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer, each as a whole or not at all."""
    folder = Path(folder)
    if any(folder.glob("checkpoint-*/state.json")):
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
