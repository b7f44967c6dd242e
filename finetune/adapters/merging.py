"""Merging: an adapter becomes a part of the weight, W <- W + scaling * B A. Using the model then costs nothing extra.

It is one addition per layer. The rest of this page undoes it, and says which weights cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minigrad import Tensor, nn
from minigrad.backend import Array, module_of
from minigrad.in_place import announce_update

from .applying import attach, lora_layers, remove_lora
from .lora import LoRALinear
from .targets import holders


def merge_lora(model: nn.Module) -> dict[str, LoRALinear]:
    """W <- W + scaling * B A for each adapted layer: the model has its original modules and names again.

    The result equals the adapted model up to rounding. Returns the layers that were removed, for `unmerge_lora`. Raises
    ValueError, and leaves the model as it was, if there are no adapters, or if a weight cannot be changed: it is
    quantized, of half precision, or shared with another layer, or its adapter is not finite.
    """
    reason = why_not_mergeable(model)  # looks at all layers, before the first one is changed
    if reason is not None:
        raise ValueError(reason)
    layers = remove_lora(model)  # raises ValueError if there are none
    for layer in layers.values():
        _add(layer.base.weight, layer.delta())
        layer.merged = True
    return layers


def unmerge_lora(model: nn.Module, layers: Mapping[str, LoRALinear]) -> None:
    """Undo `merge_lora`, which returned `layers`: W <- W - scaling * B A, up to rounding, and put the adapters back.

    Raises ValueError, and leaves the model as it was, if `layers` are not merged into this model.
    """
    modules = dict(model.named_modules())
    for name, layer in layers.items():
        # after merging, the base stands in the model itself
        if modules.get(name) is not layer.base or not layer.merged:
            raise ValueError(f"{name} is not the layer that the adapter was merged into: there is nothing to unmerge")
    for layer in layers.values():
        _add(layer.base.weight, -layer.delta())
        layer.merged = False
    attach(model, layers)


def _add(weight: Tensor, delta: Array) -> None:
    announce_update([weight])  # says that its array is about to change; one that is read-only becomes a copy
    weight.data += delta


def why_not_mergeable(model: nn.Module) -> str | None:
    """Why the adapters of a model cannot be merged, in a sentence; None if they can be."""
    for name, layer in lora_layers(model).items():
        if type(layer.base) is not nn.Linear:
            reason = "rounding the sum to its few values would lose a part of the adapter"
            return f"{name} is a {type(layer.base).__name__}: {reason}; merge it into the model before quantization"
        weight = layer.base.weight
        if weight.dtype not in (np.float32, np.float64):
            return f"{name} is {weight.dtype}, too coarse to take up an adapter: model.to('float32') comes first"
        # holders: the modules that have this very tensor
        for partner, module in holders(model, weight).items():
            if module is not layer.base:
                return f"{name} shares its weight with {partner}: merging would change both"
        xp = module_of(weight.data)
        if not all(xp.isfinite(p.data).all() for p in (layer.lora_A, layer.lora_B)):
            return f"the adapter of {name} is not finite (nan or inf): merging it would destroy the weight"
    return None
