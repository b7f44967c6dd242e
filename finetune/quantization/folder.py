"""Save and load quantized models: a folder like that of a training run (`gpt.training.checkpoint`), with the codes.

config.json has `quantization_config` with the usual names (`quant_method`, `bits`, `group_size`, `sym`, ...). For a
quantized layer NAME with R outputs and K inputs in G groups per row, model.safetensors has

    NAME.weight.codes    (R, K) int8, or (R, K/2) uint8 with two 4-bit codes per byte, the first in the upper half
    NAME.weight.scales   (R, G) float32, or (1, 1) for a single scale
    NAME.weight.zeros    int8 in the shape of scales, if the grid is asymmetric
    NAME.weight.order    (K) int32, the input of each stored column, with act-order
    NAME.bias            (R) float32

where value = scale · (level - zero), and the level of a 4-bit code is code - 8, or NF4's number. With double
quantization, `scales.codes` (R, G) uint8, `scales.absmax` (R G / 256) and `scales.offset` () replace the scales (see
nf4.py). A tied output layer is the token embedding and is not stored a second time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpt import Tokenizer, load_checkpoint, save_checkpoint
from gpt.files import StrPath
from gpt.model.config import Settings
from gpt.model.language_model import LanguageModel, architecture_of, from_settings, to_settings
from gpt.training.checkpoint import WEIGHTS, CheckpointError, ModelFormat, Shapes, check_size, load_config
from gpt.training.folder_lock import locked
from gpt.training.run_folder import check_unused, claim
from gpt.weights.pretrained import ARCHITECTURES
from minigrad import nn

from .array import WHOLE_ARRAY, QuantizedArray, number_of_groups
from .convert import QuantizationConfig
from .nf4 import SCALES_PER_BLOCK, QuantizedScales, nf4_levels
from .quantized_layers import put_quantized

NAME = "minigrad-gpt-quantized"
EMBEDDING = QuantizationConfig("absmax")  # the embedding has 8 bits and a scale per row, whatever the layers have


def save_quantized(
    folder: StrPath, model: LanguageModel, config: QuantizationConfig, tokenizer: Tokenizer | None = None
) -> None:
    """Save a model that `quantize` has changed, with its config. The folder is written as a whole or not at all.

    Raises ValueError if the model was not quantized with this config, FileExistsError if the folder is in use, OSError.
    """
    expected = expected_arrays(model.config, config)
    stored = {name: (array.shape, array.dtype) for name, array in model.state_dict().items() if ".weight." in name}
    if stored != expected:
        raise ValueError("the model was not quantized with this config, or is not in float32")
    settings = {**to_settings(model.config), "quantization_config": config.to_dict()}
    with locked(folder):
        check_unused(Path(folder))
        claim(folder)
        if tokenizer is not None:
            tokenizer.save(folder)
        save_checkpoint(folder, model, format=ModelFormat(NAME, lambda _: settings, _build))


def load_quantized(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """The model and the tokenizer of a folder that `save_quantized` wrote. Raises CheckpointError naming the file."""
    model = load_checkpoint(folder, with_optimizer=False, format=ModelFormat(NAME, lambda _: {}, _build)).model
    config = QuantizationConfig.from_dict(load_config(folder)["quantization_config"])
    _check_arrays(model, config, Path(folder) / WEIGHTS)
    return model.eval(), Tokenizer.load(folder)


# --- what is stored ---------------------------------------------------------------------------------------------------


def expected_arrays(model: Settings, config: QuantizationConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The arrays of all quantized matrices: name -> shape and dtype."""
    arrays = {}
    for name, (shape, its_config) in matrices(model, config).items():
        for array, description in _arrays_of(shape, its_config).items():
            arrays[f"{name}.weight.{array}"] = description
    return arrays


def matrices(model: Settings, config: QuantizationConfig) -> dict[str, tuple[tuple[int, ...], QuantizationConfig]]:
    """The matrices of a model (its configuration) that are quantized: layer name -> shape (R, K), and how."""
    architecture = architecture_of(model)
    names = architecture.names
    rows = ARCHITECTURES[architecture.model_type].rows(model)
    shapes = {row.ours.removesuffix(".weight"): row.our_shape for row in rows}
    layers = [f"{names.block(index)}.{layer}" for index in range(model.n_layer) for layer in names.layers]
    embedding = {names.embedding: (shapes[names.embedding], EMBEDDING)} if config.embedding else {}
    return embedding | {name: (shapes[name], config) for name in layers}


def _arrays_of(shape: tuple[int, ...], config: QuantizationConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    R, K = shape
    G = number_of_groups(shape, config.bits, config.group_size)
    per_group = (1, 1) if config.group_size == WHOLE_ARRAY else (R, G)
    codes = ((R, K), "i1") if config.bits == 8 else ((R, K // 2), "u1")
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {"codes": codes}
    if config.double_quant:
        arrays["scales.codes"] = (per_group, "u1")
        arrays["scales.absmax"] = ((math.ceil(math.prod(per_group) / SCALES_PER_BLOCK),), "f4")
        arrays["scales.offset"] = ((), "f4")
    else:
        arrays["scales"] = (per_group, "f4")
    if config.zero_point:
        arrays["zeros"] = (per_group, "i1")
    if config.desc_act:
        arrays["order"] = ((K,), "i4")
    return {name: (size, np.dtype(dtype)) for name, (size, dtype) in arrays.items()}


def _build(settings: dict[str, Any], shapes: Shapes) -> LanguageModel:
    """An empty quantized model. Raises ValueError, before memory is allocated, if `shapes` do not fit the settings."""
    config = QuantizationConfig.from_dict(settings.pop("quantization_config", None))
    model_config = from_settings(settings)
    expected = expected_arrays(model_config, config)
    for name, (shape, _) in expected.items():
        if shapes.get(name) != shape:
            raise ValueError(f"{name} must have shape {shape}, but has {shapes.get(name, 'none: it is missing')}")
    quantized = sum(math.prod(shape) for shape, _ in matrices(model_config, config).values())
    check_size(model_config.num_parameters() - quantized, {n: s for n, s in shapes.items() if n not in expected})
    with nn.init.skipped():
        model = architecture_of(model_config)(model_config)
    for name, (shape, its_config) in matrices(model_config, config).items():
        put_quantized(model, name, _blank(shape, its_config))
    return model


def _blank(shape: tuple[int, ...], config: QuantizationConfig) -> QuantizedArray:
    arrays = _arrays_of(shape, config).items()
    zeros = {name: np.zeros(size, dtype) for name, (size, dtype) in arrays if name != "codes"}
    scales: Any = zeros.get("scales")
    if scales is None:
        scales = QuantizedScales(zeros["scales.codes"], zeros["scales.absmax"], zeros["scales.offset"])
    codebook = nf4_levels() if config.method == "nf4" else None
    levels = np.empty(shape, np.int8)
    return QuantizedArray(levels, scales, zeros.get("zeros"), config.bits, codebook, zeros.get("order"))


def _check_arrays(model: LanguageModel, config: QuantizationConfig, path: Path) -> None:
    """Raise CheckpointError for an array with the wrong dtype, or an `order` that is not a permutation."""
    expected = expected_arrays(model.config, config)
    for name, array in model.state_dict().items():
        _, dtype = expected.get(name, ((), np.dtype(np.float32)))
        if array.dtype != dtype:
            raise CheckpointError(f"{path}: {name} is {array.dtype}, not {dtype}")
        if name.endswith(".order") and not (np.sort(array) == np.arange(len(array))).all():
            raise CheckpointError(f"{path}: {name} is not a permutation of {len(array)} columns")
