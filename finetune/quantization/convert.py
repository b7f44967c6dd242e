"""Quantize a whole model: replace each float layer with a quantized one.

Rounding needs only the weight. GPTQ and AWQ also need the inputs of each layer, so the model reads some text, block by
block. The input of a block has passed through all earlier blocks in their quantized form, so later layers can
compensate for the errors of earlier ones (Frantar et al. 2022, section 4, "Setup"). GPTQ does the same inside a block.
AWQ chooses all scales of a block together, from the float block.

Each float layer is freed as soon as its quantized layer has replaced it, so memory never holds the model twice. All
arguments are checked before the first change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt.console import progress_bar
from gpt.files import errors_at
from gpt.model.structure import SharedInput, StructuredModel
from gpt.settings import Checked, from_json, setting
from minigrad import nn
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from . import awq
from .array import WHOLE_ROW, QuantizedArray, check_bits, number_of_groups
from .calibration import InputMoments, Reader, check_calibration
from .gptq import gptq, output_error
from .nf4 import nf4
from .quantized_layers import put_quantized
from .rounding import absmax, round_to_nearest

METHODS = ("absmax", "zeropoint", "nf4", "gptq", "awq")
CALIBRATED = ("gptq", "awq")  # these need the inputs of each layer


@dataclasses.dataclass(frozen=True)
class QuantizationConfig(Checked):
    """How the linear layers of a model's blocks are quantized. Norms, biases and positions are not changed.

    method: "nf4" rounds to quantiles of a normal distribution; "gptq" and "awq" use the inputs of each layer.
    group_size: None is a row for 8 bits, 64 for 4 bits. desc_act: GPTQ's act-order. embedding: also quantize the token
    embedding, which is usually the output layer too, with 8 bits and a scale per row. Raises ValueError for an unknown
    value, or for an option of another method.

    >>> config = QuantizationConfig("nf4")
    >>> config.bits, config.group_size
    (4, 64)
    """

    method: str = setting("absmax", "absmax and zeropoint round to nearest, nf4 to quantiles", choices=METHODS)
    # __post_init__ puts a number in the place of None.
    bits: int = setting(None, "bits per weight (8 for absmax and zeropoint, 4 for the others)")
    group_size: int = setting(None, "weights per scale; -1: a row, 0: the matrix; 4 bits: 64, or what fits", ">= -1")
    zero_point: bool = setting(False, "gptq, awq: use an asymmetric grid")
    desc_act: bool = setting(False, "gptq: quantize columns in order of decreasing activation")
    double_quant: bool = setting(False, "nf4: also quantize the scales, to 8 bits")
    embedding: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits is None:
            object.__setattr__(self, "bits", 8 if self.method in ("absmax", "zeropoint") else 4)
        check_bits(self.bits)
        if self.group_size is None:
            object.__setattr__(self, "group_size", WHOLE_ROW if self.bits == 8 else 64)
        if self.method == "nf4" and self.bits != 4:
            raise ValueError(f"NF4 has 4 bits, not {self.bits}")
        if self.method == "zeropoint":
            object.__setattr__(self, "zero_point", True)
        options = {"zero_point": ("zeropoint", *CALIBRATED), "desc_act": ("gptq",), "double_quant": ("nf4",)}
        for name, methods in options.items():
            if getattr(self, name) and self.method not in methods:
                raise ValueError(f"{name} is an option of {', '.join(methods)}, not of {self.method}")

    @property
    def rounding(self) -> Callable[[np.ndarray], QuantizedArray]:
        """Round a weight to this grid without using its inputs, as nf4, absmax and zeropoint do."""
        if self.method == "nf4":
            return lambda weight: nf4(weight, self.group_size, self.double_quant)
        return lambda weight: round_to_nearest(weight, self.bits, self.group_size, symmetric=not self.zero_point)

    def to_dict(self) -> dict[str, Any]:
        """The contents of `quantization_config` in a model's config.json."""
        values = dataclasses.asdict(self)
        return {"quant_method": values.pop("method"), **values, "sym": not self.zero_point}

    @classmethod
    def from_dict(cls, values: Any) -> QuantizationConfig:
        """The inverse of `to_dict`. Raises ValueError for values that are not settings."""
        if not isinstance(values, dict):
            raise ValueError(f"quantization_config must be an object, got {values!r:.80}")
        settings = {name: value for name, value in values.items() if name not in ("quant_method", "sym")}
        config: QuantizationConfig = from_json(cls, {"method": values.get("quant_method"), **settings})
        return config


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """The result for one layer. Errors are relative to its output on the calibration text (`output_error`), or None.

    error: with the quantized weight. nearest_error: with the weight rounded to nearest on the same kind of grid. alpha:
    the α that AWQ chose.
    """

    name: str
    bits_per_weight: float
    error: float | None = None
    nearest_error: float | None = None
    alpha: float | None = None


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """The result for a model: its layers, and the bytes of its weights before and after."""

    layers: list[LayerReport]
    bytes_before: int
    bytes_after: int


def quantize(
    model: StructuredModel, config: QuantizationConfig | None = None, calibration: np.ndarray | None = None
) -> QuantizationReport:
    """Quantize the linear layers of a model's blocks, and its embedding, in place.

    model: a GPT or a Llama, with any head. calibration: ids (N, T) of text to read. GPTQ and AWQ need it; for the other
    methods it adds the error of each layer to the report. Raises ValueError, before the model is changed, for a group
    size that does not divide a layer's inputs, weights that are not finite, a model that is already quantized, adapted
    or on a GPU, and missing calibration. After an interruption the model is partly quantized: load it again.
    """
    config = QuantizationConfig() if config is None else config
    check(model, config, calibration)
    before = memory(model)
    reports = []
    with evaluating(model):  # the text is read without dropout, along the way
        if config.embedding:
            table = model.embedding.weight
            put_quantized(model, model.names.embedding, absmax(to_numpy(table.data)).to(table.dtype))  # a scale a token
        reader = None if calibration is None else Reader(model, np.asarray(calibration))
        with progress_bar(len(model.blocks), "quantizing", "block") as bar:
            for name, block in zip(model.part_names(), model.blocks, strict=True):
                for report in _quantize_block(block, model.names.inputs, config, reader):
                    reports.append(dataclasses.replace(report, name=f"{name}.{report.name}"))
                bar.update(1)
    return QuantizationReport(reports, before, memory(model))


def fitting(config: QuantizationConfig, model: StructuredModel) -> QuantizationConfig:
    """The config with the largest group size, up to its own, that divides the inputs of every layer of the blocks."""
    block: Any = model.blocks[0]  # all are alike
    common = np.gcd.reduce([block.get_submodule(name).in_features for name in model.names.layers])
    sizes = [size for size in range(1, config.group_size + 1) if common % size == 0]
    return dataclasses.replace(config, group_size=max(sizes, default=config.group_size))


def memory(model: nn.Module) -> int:
    """Bytes of a model's weights: all parameters and buffers, tied ones once."""
    arrays = [parameter.data for parameter in model.parameters()] + [array for _, array in model.named_buffers()]
    return sum(array.nbytes for array in arrays)


# --- before anything is changed ---------------------------------------------------------------------------------------


def check(model: StructuredModel, config: QuantizationConfig, calibration: np.ndarray | None = None) -> None:
    """Raise ValueError for anything that `quantize` cannot handle."""
    names = model.names
    kinds: dict[str, Any] = {names.embedding: nn.Embedding}
    kinds |= {f"{block}.{layer}": nn.Linear for block in model.part_names() for layer in names.layers}
    for name, kind in kinds.items():
        layer: Any = model.get_submodule(name)
        if type(layer) is not kind:
            what = f"{name} is a {type(layer).__name__}, not a float {kind.__name__}"
            raise ValueError(f"{what}: a model can be quantized only once, and its adapters must be merged first")
        weight = layer.weight.data
        if not isinstance(weight, np.ndarray):
            raise ValueError("quantize on the CPU: model.to('cpu') first, and back to the GPU afterwards")
        if not np.isfinite(weight).all():
            raise ValueError(f"{name} has weights that are not finite (nan or inf)")
        if kind is nn.Linear:
            with errors_at(name):
                number_of_groups(weight.shape, config.bits, config.group_size)
    if config.method == "awq" and getattr(model.config, "norm", "pre") != "pre":
        raise ValueError("AWQ folds scales into the norm before a layer, but a post-norm model has no norm there")
    if calibration is not None:
        check_calibration(model, np.asarray(calibration))
    elif config.method in CALIBRATED:
        raise ValueError(f"{config.method} needs the inputs of each layer: give it text to read (calibration)")


# --- of a block -------------------------------------------------------------------------------------------------------


def _quantize_block(
    block: Any, inputs: tuple[SharedInput, ...], config: QuantizationConfig, reader: Reader | None
) -> list[LayerReport]:
    """Quantize the layers of a block, in the order in which they compute.

    GPTQ reads the inputs of each layer from the quantized layers before it. AWQ reads those of all layers at once, from
    the float block, and scales all layers together.
    """
    reports = []
    for group in [inputs] if config.method == "awq" else [(shared,) for shared in inputs]:
        moments = {} if reader is None else reader.inputs_of(block, group)
        nearest = {}
        for name, measured in moments.items():
            weight = block.get_submodule(name).weight.data
            nearest[name] = output_error(weight, config.rounding(weight).dequantize(), measured.hessian)
        alphas = awq.scale_block(block, group, moments, config.rounding) if config.method == "awq" else {}
        for name in [name for shared in group for name in shared.layers]:
            weight = block.get_submodule(name).weight.data
            layer_moments = moments.get(name)
            quantized = _rounded(weight, layer_moments, config)
            error = None
            if layer_moments is not None:
                error = output_error(weight, quantized.dequantize(), layer_moments.hessian)
            bits = 8 * quantized.nbytes / weight.size
            reports.append(LayerReport(name, bits, error, nearest.get(name), alphas.get(name)))
            put_quantized(block, name, quantized.to(weight.dtype))
    if reader is not None:
        reader.pass_through(block)
    return reports


def _rounded(weight: np.ndarray, layer_moments: InputMoments | None, config: QuantizationConfig) -> QuantizedArray:
    """A weight (O, I) on the grid of `config`, with the moments of its inputs where GPTQ or AWQ needs them."""
    if layer_moments is not None and config.method == "gptq":
        symmetric = not config.zero_point
        act_order = config.desc_act
        return gptq(weight, layer_moments.hessian, config.bits, config.group_size, symmetric, act_order)
    if layer_moments is not None and config.method == "awq":
        groups = number_of_groups(weight.shape, config.bits, config.group_size)
        weight = awq.clipped(weight, layer_moments.hessian, config.rounding, groups)
    return config.rounding(weight)
