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
from typing import Any

import numpy as np

from gpt import Tokenizer, load_checkpoint, save_checkpoint
from gpt.files import StrPath
from gpt.model.language_model import LanguageModel, architecture_of, from_settings, to_settings
from gpt.training.checkpoint import ModelFormat, Shapes
from gpt.training.run_folder import new_folder
from minigrad import nn

from .array import WHOLE_ARRAY, QuantizedArray, number_of_groups
from .convert import QuantizationConfig
from .nf4 import nf4_levels, quantize_scales
from .quantized_layers import put_quantized

NAME = "minigrad-gpt-quantized"
EMBEDDING = QuantizationConfig("absmax")  # the embedding has 8 bits and a scale per row, whatever the layers have


def save_quantized(
    folder: StrPath, model: LanguageModel, config: QuantizationConfig, tokenizer: Tokenizer | None = None
) -> None:
    """Save a model that `quantize` has changed, with its config. The folder is written as a whole or not at all.

    Raises FileExistsError if the folder is in use, OSError.
    """
    settings = {**to_settings(model.config), "quantization_config": config.to_dict()}
    with new_folder(folder, can_resume=False):
        if tokenizer is not None:
            tokenizer.save(folder)
        save_checkpoint(folder, model, format=ModelFormat(NAME, lambda _: settings, _build))


def load_quantized(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """The model and the tokenizer of a folder that `save_quantized` wrote. Raises CheckpointError naming the file."""
    model = load_checkpoint(folder, with_optimizer=False, format=ModelFormat(NAME, lambda _: {}, _build)).model
    return model.eval(), Tokenizer.load(folder)


def _build(settings: dict[str, Any], shapes: Shapes) -> LanguageModel:
    """A quantized model with these settings, whose arrays are set later."""
    config = QuantizationConfig.from_dict(settings.pop("quantization_config", None))
    of_model, stored = from_settings(settings), sum(math.prod(shape) for shape in shapes.values())
    if of_model.num_parameters() > 2 * stored:  # before memory is allocated; a byte holds at most two numbers
        raise ValueError(f"it is one of {of_model.num_parameters():,} numbers, but only {stored:,} are stored")
    with nn.init.skipped():
        model = architecture_of(of_model)(of_model)
    if config.embedding:
        put_quantized(model, model.names.embedding, _blank(model.embedding.weight.shape, EMBEDDING))
    for name in [f"{block}.{layer}" for block in model.part_names() for layer in model.names.layers]:
        layer: Any = model.get_submodule(name)
        put_quantized(model, name, _blank(layer.weight.shape, config))
    return model


def _blank(shape: tuple[int, ...], config: QuantizationConfig) -> QuantizedArray:
    groups = number_of_groups(shape, config.bits, config.group_size)
    scales: Any = np.zeros((1, 1) if config.group_size == WHOLE_ARRAY else (shape[0], groups), np.float32)
    zeros = scales if config.zero_point else None
    if config.double_quant:
        scales = quantize_scales(scales)
    codebook = nf4_levels() if config.method == "nf4" else None
    order = np.arange(shape[1]) if config.desc_act else None
    return QuantizedArray(np.empty(shape, np.int8), scales, zeros, config.bits, codebook, order)
