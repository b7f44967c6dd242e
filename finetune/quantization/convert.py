"""A whole model, quantized: layer by layer, each in the place of the float layer that it was.

Rounding looks at one weight at a time. GPTQ and AWQ also look at the inputs of each layer: some text is read, block by
block, and what a block is given has passed all blocks before it as they are by then, quantized. So later layers make
up for what earlier ones lost (Frantar et al. 2022, section 4, "Setup"). GPTQ keeps to that inside a block as well; AWQ
chooses a block's scales together, from the block as it was.

A float layer is let go as soon as its quantized form is in its place, so that memory never holds the model twice.
Everything that can be wrong with the arguments is looked for before the first change.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gpt.config import GPTConfig
from gpt.model import Block
from gpt.progress import progress_bar
from minigrad import nn
from minigrad.backend import to_numpy

from . import awq
from .array import QuantizedArray, number_of_groups
from .calibration import InputMoments, Reader, check_ids, check_reads
from .config import CALIBRATED, QuantizationConfig
from .gptq import gptq, output_error
from .layers import QuantizedEmbedding, QuantizedLinear
from .rounding import absmax

LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of a block, in the order in which they compute


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of a layer. Errors are shares of its output on the calibration text (`output_error`); None without.

    error: as it is now. nearest_error: had its weight been rounded to nearest on the same kind of grid. alpha: AWQ's.
    """

    name: str
    bits_per_weight: float
    error: float | None = None
    nearest_error: float | None = None
    alpha: float | None = None


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """What became of a model: its layers, and the bytes of its weights before and after."""

    layers: list[LayerReport]
    bytes_before: int
    bytes_after: int


def quantize(
    model: Any, config: QuantizationConfig | None = None, calibration: np.ndarray | None = None
) -> QuantizationReport:
    """Quantize the linear layers of a model's blocks, and its embedding, in place.

    model: a GPT, or anything with a GPT's `transformer`. calibration: ids (N, T) of text to read; GPTQ and AWQ need it,
    and with it the report tells each layer's error. Raises ValueError, with the model as it was, for what cannot be
    quantized: a group size that does not divide a layer's inputs, weights or activations that are not finite, a model
    that is quantized, adapted or on a GPU, missing calibration. (If it is interrupted, the model is half done: load it
    again.)
    """
    config = QuantizationConfig() if config is None else config
    check(model, config, calibration)
    before, was_training = memory(model), model.training
    model.eval()  # text is read without dropout
    try:
        reports = _quantize(model, config, None if calibration is None else np.asarray(calibration))
    finally:
        model.train(was_training)
    return QuantizationReport(reports, before, memory(model))


def memory(model: nn.Module) -> int:
    """Bytes of a model's weights: all parameters and buffers, tied ones once."""
    arrays = [parameter.data for parameter in model.parameters()] + [array for _, array in model.named_buffers()]
    return sum(array.nbytes for array in arrays)


# --- before anything is changed ---------------------------------------------------------------------------------------


def check(model: Any, config: QuantizationConfig, calibration: np.ndarray | None = None) -> None:
    """Raise ValueError for whatever `quantize` could stumble over."""
    transformer = getattr(model, "transformer", None)
    if transformer is None or not isinstance(getattr(transformer, "config", None), GPTConfig):
        raise ValueError(f"only GPTs can be quantized, not {type(model).__name__}")
    float_layers: list[tuple[str, Any, Any]] = [("transformer.wte", transformer.wte, nn.Embedding)]
    for index, block in enumerate(transformer.h):
        float_layers += [(f"transformer.h.{index}.{name}", block.get_submodule(name), nn.Linear) for name in LAYERS]
    for name, layer, kind in float_layers:
        if type(layer) is not kind:
            raise ValueError(
                f"{name} is a {type(layer).__name__}, not a float {kind.__name__}: quantize a model once, and merge "
                "its adapters before"
            )
        weight = layer.weight.data
        if not isinstance(weight, np.ndarray):
            raise ValueError("quantize on the CPU, then move the model: model.to('cpu')")
        if not np.isfinite(weight).all():
            raise ValueError(f"{name} has weights that are not finite (nan or inf)")
        if kind is nn.Linear:
            try:
                number_of_groups(weight.shape, config.bits, config.group_size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    if config.method == "awq" and transformer.config.norm != "pre":
        raise ValueError("AWQ folds scales into the norm before a layer, and a post-norm model has none there")
    if calibration is None:
        if config.method in CALIBRATED:
            raise ValueError(f"{config.method} looks at a layer's inputs: give it text to read (calibration)")
        return
    check_ids(calibration, transformer.config)
    check_reads(transformer, np.asarray(calibration))


# --- the changes ------------------------------------------------------------------------------------------------------


def _quantize(model: Any, config: QuantizationConfig, calibration: np.ndarray | None) -> list[LayerReport]:
    """The embedding, then block after block, which read the text as far as they are."""
    if config.embedding:
        _quantize_embedding(model)
    blocks = model.transformer.h
    reader = None if calibration is None else Reader(model.transformer, calibration)
    reports = []
    with progress_bar(len(blocks), "quantizing", "block") as bar:
        for index, block in enumerate(blocks):
            for report in _quantize_block(block, config, reader):
                reports.append(dataclasses.replace(report, name=f"transformer.h.{index}.{report.name}"))
            bar.update(1)
    return reports


def _quantize_embedding(model: Any) -> None:
    """The token embedding in 8 bits, a scale per token; the output layer tied to it uses the same array."""
    table = model.transformer.wte.weight
    quantized = absmax(to_numpy(table.data)).to(table.dtype)
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight is table:
        model.lm_head = QuantizedLinear(quantized, head.bias)
    model.transformer.wte = QuantizedEmbedding(quantized)


def _quantize_block(block: Block, config: QuantizationConfig, reader: Reader | None) -> list[LayerReport]:
    if config.method == "awq" and reader is not None:
        reports = _awq_block(block, config, reader)
    else:
        reports = [_quantize_layer(block, name, config, reader) for name in LAYERS]
    if reader is not None:
        reader.pass_through(block)
    return reports


def _quantize_layer(block: Block, name: str, config: QuantizationConfig, reader: Reader | None) -> LayerReport:
    """Round one layer, to nearest or with GPTQ, on inputs that have passed the layers before it."""
    layer: Any = block.get_submodule(name)
    weight = layer.weight.data
    moments = None if reader is None else reader.inputs_of(block, {name: layer})[name]
    if config.method == "gptq" and moments is not None:
        symmetric, act_order = not config.zero_point, config.desc_act
        quantized = gptq(weight, moments.gram, config.bits, config.group_size, symmetric, act_order)
    else:
        quantized = config.rounding(weight)
    report = _report(name, weight, quantized, moments, config)
    _replace(block, name, quantized)
    return report


def _awq_block(block: Block, config: QuantizationConfig, reader: Reader) -> list[LayerReport]:
    """Scale, clip and round all layers of a block, on the inputs that they have in the float block."""
    layers: dict[str, Any] = {name: block.get_submodule(name) for name in LAYERS}
    moments = reader.inputs_of(block, layers)
    nearest = {name: _nearest_error(layers[name].weight.data, moments[name], config) for name in LAYERS}
    alphas = awq.scale_block(block, moments, config.rounding)
    reports = []
    for name in LAYERS:
        weight = layers.pop(name).weight.data
        groups = number_of_groups(weight.shape, config.bits, config.group_size)
        quantized = config.rounding(awq.clipped(weight, moments[name].gram, config.rounding, groups))
        report = _report(name, weight, quantized, moments[name], config)
        reports.append(dataclasses.replace(report, nearest_error=nearest[name], alpha=alphas.get(name)))
        _replace(block, name, quantized)
    return reports


def _replace(block: Block, name: str, quantized: QuantizedArray) -> None:
    layer: Any = block.get_submodule(name)
    block.set_submodule(name, QuantizedLinear(quantized.to(layer.weight.dtype), layer.bias))


def _report(
    name: str, weight: np.ndarray, quantized: QuantizedArray, moments: InputMoments | None, config: QuantizationConfig
) -> LayerReport:
    bits = 8 * quantized.nbytes / weight.size
    if moments is None:
        return LayerReport(name, bits)
    error = output_error(weight, quantized.dequantize(), moments.gram)
    return LayerReport(name, bits, error, _nearest_error(weight, moments, config))


def _nearest_error(weight: np.ndarray, moments: InputMoments, config: QuantizationConfig) -> float:
    return output_error(weight, config.rounding(weight).dequantize(), moments.gram)
