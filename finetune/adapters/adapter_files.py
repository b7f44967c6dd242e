"""Adapter folders: LoRA's trained parameters, saved without the base model, in the format of PEFT.

    adapter_config.json           rank, alpha, which modules
    adapter_model.safetensors     A and B of each adapted layer, and the modules that were trained whole

Ours load in PEFT, and PEFT's load here (names and layouts are in peft_format.py). An adapter has a few megabytes
and is useless without its base model, so the file's metadata, which PEFT ignores, has the SHA-256 of the base weights.

PEFT's format cannot express that only some slices of `c_attn` are adapted. Such an adapter is saved with the rank of
all its slices together, and with zeros in B for the other outputs. It computes the same function; but if it is trained
further, those zeros are trained as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gpt.files import StrPath, errors_at, read_json, write_text
from gpt.weights.safetensors_file import SafetensorsFile, write_safetensors
from minigrad import nn
from minigrad.backend import to_device, to_numpy
from minigrad.in_place import announce_update

from .applying import attach, lora_layers, new_layers
from .lora import LoRAConfig
from .peft_format import CONV1D, PREFIX, A, AdapterError, B, as_stored, from_peft, peft_alpha, to_peft
from .targets import ends_with, full_names, is_inside, is_linear, tied_partners

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_SHA256 = "base_sha256"  # in the metadata of adapter_model.safetensors
FLOATS = ("F64", "F32", "F16", "BF16")


def base_fingerprint(model: nn.Module, modules_to_save: Iterable[str] = ()) -> str:
    """The SHA-256 of a model's frozen weights: names, shapes and numbers, without adapters and `modules_to_save`.

    It is the same before and after adapters are attached and trained, and changes when they are merged.
    """
    digest = hashlib.sha256()
    whole = full_names(model, modules_to_save)
    for name, array in sorted(model.state_dict().items()):
        if name.endswith((".lora_A", ".lora_B")) or is_inside(name, whole):
            continue
        host = to_numpy(array)
        host = host.astype("<f4" if host.dtype.kind == "f" else host.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name.replace('.base.', '.')} {host.dtype.str} {host.shape}\n".encode())
        digest.update(np.ascontiguousarray(host).data)
    return digest.hexdigest()


# --- saving -----------------------------------------------------------------------------------------------------------


def save_adapter(model: nn.Module, folder: StrPath, base_name: str = "") -> None:
    """Write the adapters of a model into a new folder. base_name: where the base model comes from.

    Raises ValueError if the model has no adapters, FileExistsError if the folder already holds some.
    """
    folder = Path(folder)
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA adapters to save: they were merged or removed, or never applied")
    if (folder / CONFIG).exists():
        raise FileExistsError(f"{folder} holds an adapter already: choose another folder, or delete it")
    config = next(iter(layers.values())).config
    rank = max(layer.lora_A.shape[0] for layer in layers.values())
    task = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    conv1d = any(ends_with(name, part) for name in layers for part in CONV1D)
    settings = to_peft(config, rank, _short_names(model, layers), base_name, task, conv1d)
    # Full names: for "norm", PEFT would train "input_layernorm" as well.
    settings["modules_to_save"] = full_names(model, config.modules_to_save) or None
    alphas = {name: peft_alpha(layer.config, rank) for name, layer in layers.items()}
    if others := {name: alpha for name, alpha in alphas.items() if alpha != settings["lora_alpha"]}:
        settings["alpha_pattern"] = others
    tensors = {}
    for name, layer in layers.items():
        lora_A, lora_B = to_numpy(layer.lora_A.data), to_numpy(layer.whole_B().data)
        missing = (0, rank - len(lora_A))  # all layers get the same rank, with zeros
        tensors[PREFIX + name + A] = np.pad(lora_A, (missing, (0, 0))).astype(np.float32)  # (rank, in)
        tensors[PREFIX + name + B] = np.pad(lora_B, ((0, 0), missing)).astype(np.float32)  # (out, rank)
    for name, parameter in _parameters(model, config.modules_to_save).items():
        tensors[PREFIX + name] = as_stored(name, to_numpy(parameter.data)).astype(np.float32)
    metadata = {"format": "pt", BASE_SHA256: base_fingerprint(model, config.modules_to_save)}
    write_safetensors(folder / WEIGHTS, tensors, metadata)
    write_text(folder / CONFIG, json.dumps(settings, indent=2) + "\n")  # last: with it the adapter is complete


def _short_names(model: nn.Module, layers: Collection[str]) -> tuple[str, ...]:
    """The last parts of the layers' names, such as "c_attn", if they match only these layers; else the full names."""
    last = tuple(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    return last if set(full_names(model, last)) == set(layers) else tuple(layers)


def _parameters(model: nn.Module, modules: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these modules; a tied one under each of its names."""
    return {
        f"{name}.{below}": parameter
        for name in full_names(model, modules)
        for below, parameter in model.get_submodule(name).named_parameters()
    }


# --- loading ----------------------------------------------------------------------------------------------------------


def load_adapter(model: nn.Module, folder: StrPath, check_base: bool = True) -> LoRAConfig:
    """Attach the adapter in a folder to its base model, for use or for further training; returns its settings.

    check_base=False accepts an adapter of other base weights, such as quantized ones, if the shapes fit. Raises
    FileNotFoundError, SafetensorsError for a damaged file, and AdapterError if the adapter is not supported or belongs
    to another model; then `model` is unchanged.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        unfinished = "a run of adapters writes it when it is finished, and until then the run itself can be the --model"
        raise FileNotFoundError(f"there is no adapter in {folder}: {CONFIG} is missing ({unfinished})")
    settings = read_json(folder / CONFIG)
    config = from_peft(settings, str(folder / CONFIG))
    pickle = folder / "adapter_model.bin"
    if pickle.exists() and not (folder / WEIGHTS).exists():
        raise AdapterError(f"{pickle} is a pickle, which can run code; save the adapter as {WEIGHTS}")
    with SafetensorsFile(folder / WEIGHTS) as file:
        # PEFT trains all modules whose full names end with a name, even within a word, as "input_layernorm" ends with
        # "norm". It also lists the heads of other kinds of models, "classifier" beside "score".
        present = tuple(full for full, _ in model.named_modules() if full.endswith(config.modules_to_save))
        if settings.get("ensure_weight_tying"):  # then PEFT also trains the modules that share a weight with these
            present = (*present, *tied_partners(model, present))
        config = dataclasses.replace(config, modules_to_save=present)
        with errors_at(f"the adapter in {folder} does not fit this model", AdapterError, (AdapterError,)):
            whole = _parameters(model, config.modules_to_save)
            adapted = _adapted_layers(model, config, file, whole)
            _check_none_is_missing(model, settings, adapted)
            expected = file.metadata.get(BASE_SHA256)
            if check_base and expected and expected != base_fingerprint(model, config.modules_to_save):
                use = "in Python, check_base=False uses it beside these all the same"
                raise AdapterError(f"it was trained beside other weights of the same shapes ({use})")
        config = dataclasses.replace(config, target_modules=_short_names(model, adapted))
        layers = new_layers(model, config)
        for name, layer in layers.items():
            _write(layer.lora_A, _finite(file, PREFIX + name + A))
            _write(layer.lora_B, _finite(file, PREFIX + name + B))
        learned = _read_whole(file, whole)
    attach(model, layers)
    for name, array in learned.items():
        _write(whole[name], array)
    return config


def _adapted_layers(
    model: nn.Module, config: LoRAConfig, file: SafetensorsFile, whole: dict[str, nn.Parameter]
) -> list[str]:
    """The names of the layers that the file has A and B for; raises AdapterError unless every tensor has its place.

    whole: the parameters of the modules that were trained as a whole. The tensors' names decide, not target_modules:
    that may be a regular expression, and a stranger's could run forever.
    """
    modules = dict(model.named_modules())
    shapes = file.shapes
    places = {PREFIX + name: as_stored(name, parameter.data).shape for name, parameter in whole.items()}
    adapted = [key[len(PREFIX) : -len(A)] for key in shapes if key.startswith(PREFIX) and key.endswith(A)]
    for name in adapted:
        layer: Any = modules.get(name)
        if layer is None or not is_linear(layer):
            raise AdapterError(f"it adapts {name}, but the model has no linear layer of that name")
        r = config.for_layer(name).r
        places[PREFIX + name + A] = (r, layer.in_features)
        places[PREFIX + name + B] = (layer.out_features, r)
    for key in [*shapes, *places]:
        if key not in places or key not in shapes:
            raise AdapterError(f"its tensor {key} {'is missing' if key in places else 'has no place here'}")
        if shapes[key] != places[key] or file.entries[key].dtype not in FLOATS:
            got = f"{file.entries[key].dtype} of shape {shapes[key]}"
            raise AdapterError(f"{key} is {got}; with r = {config.r}, numbers of shape {places[key]} would fit")
    if not adapted:
        raise AdapterError("it adapts no layer")
    return adapted


def _check_none_is_missing(model: nn.Module, settings: dict[str, Any], adapted: list[str]) -> None:
    """Raise AdapterError for a layer that is in target_modules, where these are names, and not in the file."""
    targets = settings.get("target_modules")
    if not isinstance(targets, list) or settings.get("layers_to_transform") or settings.get("exclude_modules"):
        return
    for name in full_names(model, [target for target in targets if isinstance(target, str)]):
        if name not in adapted:
            raise AdapterError(f"it has nothing for {name}, which is in its target_modules")


def _read_whole(file: SafetensorsFile, parameters: dict[str, nn.Parameter]) -> dict[str, np.ndarray]:
    """The arrays of the modules that were trained as a whole, in our layout, by the names of their parameters."""
    arrays = {name: as_stored(name, _finite(file, PREFIX + name)) for name in parameters}
    first: dict[int, str] = {}
    for name, parameter in parameters.items():
        twin = first.setdefault(id(parameter), name)
        if not np.array_equal(arrays[twin], arrays[name]):
            raise AdapterError(f"{file.path}: {twin} and {name} differ, but are one and the same in this model")
    return arrays


def _finite(file: SafetensorsFile, key: str) -> np.ndarray:
    array = file.read(key)
    if not np.isfinite(array).all():
        raise AdapterError(f"{file.path}: {key} is not finite (nan or inf)")
    return array


def _write(parameter: nn.Parameter, array: np.ndarray) -> None:
    announce_update([parameter])
    parameter.data[...] = to_device(array, parameter.device)
