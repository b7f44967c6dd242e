"""Adapters for a model: which layers get one, and how they get in and out again.

    apply_lora     a `LoRALinear` around each layer that the settings name; everything else is frozen
    remove_lora    the original layers again

The model does not know that it is adapted: from outside, each linear layer is replaced with the layer around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad import nn
from minigrad.backend import device_of, to_device

from .lora import LoRAConfig, LoRALinear
from .lora_slices import FUSED, LoRASlices
from .targets import check_modules_to_save, full_names, is_inside, target_names


def apply_lora(model: nn.Module, config: LoRAConfig) -> dict[str, LoRALinear]:
    """Freeze a model and add an adapter to each layer that `config` names; returns the new layers by name.

    Then only `lora_A`, `lora_B` and `modules_to_save` are trained, and gradients are computed for nothing else. Raises
    ValueError, and leaves the model as it was, if a name fits no layer or the model has adapters already.
    """
    layers = new_layers(model, config)
    attach(model, layers)
    return layers


def new_layers(model: nn.Module, config: LoRAConfig) -> dict[str, LoRALinear]:
    """A `LoRALinear` around each layer that `config` names, by name; the model is not changed. Raises ValueError."""
    if lora_layers(model):
        raise ValueError("the model has LoRA adapters already: merge_lora or remove_lora comes first")
    check_modules_to_save(model, config.modules_to_save)
    whole = full_names(model, config.modules_to_save)  # the full names of the modules that are trained as a whole
    layers = {}
    for name in target_names(model, config.target_modules):  # the linear layers that fit
        if is_inside(name, whole):
            raise ValueError(f"{name} is in target_modules and in modules_to_save: adapt it, or train it as a whole")
        layers[name] = _new_layer(name, model.get_submodule(name), config.for_layer(name))
    if config.slices and not any(isinstance(layer, LoRASlices) for layer in layers.values()):
        raise ValueError(f"slices {', '.join(config.slices)} are of {FUSED}, which is not in target_modules")
    return layers


def _new_layer(name: str, base: Any, config: LoRAConfig) -> LoRALinear:
    """A new adapter around `base`, on the same device, and like `base` in training or in evaluation mode.

    A and B are float64 if `base` is. Otherwise they are float32, also if `base` is quantized or of half precision.
    """
    arguments = (base, config.r, config.scaling, config.dropout)
    in_slices = config.slices and name.rpartition(".")[2] == FUSED
    layer = LoRASlices(*arguments, config.slices) if in_slices else LoRALinear(*arguments)
    layer.config = config
    state = list(base.state_dict().values())
    dtype = np.float64 if any(array.dtype == np.float64 for array in state) else np.float32
    for parameter in (layer.lora_A, layer.lora_B):
        parameter.data = to_device(parameter.data.astype(dtype, copy=False), device_of(state[0]))
    return layer.train(base.training)


def attach(model: nn.Module, layers: Mapping[str, LoRALinear]) -> None:
    """Put `layers` into the model, and freeze everything but their A, B and `modules_to_save`."""
    model.requires_grad_(False)  # first everything is frozen; then what is trained gets gradients again
    for name, layer in layers.items():
        model.set_submodule(name, layer)
        layer.lora_A.requires_grad_()
        layer.lora_B.requires_grad_()
        # modules that are trained as a whole: each layer has the same list of them
        for saved in full_names(model, layer.config.modules_to_save):
            model.get_submodule(saved).requires_grad_()


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model by name; empty if there are none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def remove_lora(model: nn.Module) -> dict[str, LoRALinear]:
    """Remove all adapters and unfreeze the model, even what was frozen before; returns the adapters by name.

    `modules_to_save` keep what they learned. Raises ValueError if there are no adapters.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA adapters: they were merged or removed already, or never applied")
    for name, layer in layers.items():
        model.set_submodule(name, layer.base)
    model.requires_grad_()
    return layers
