"""LoRA: a trainable low-rank update added to frozen weights.

    h = W x + scaling * B A x           A (r, in), B (out, r),   scaling = alpha / r

    x ----- W (frozen) ------ + ---> h
     \\-- A --> r numbers -- B --/

What fine-tuning adds to a weight matrix W (out, in) has few directions that matter, so the update is written as the
product of two thin matrices. B starts with zeros, so training starts from the unchanged model. A and B have r (in +
out) numbers instead of in * out, and only they need gradients and Adam's moments: that is why fine-tuning fits into a
small memory. After training, W + scaling * B A can be merged into one matrix, and using the model costs nothing extra.

The model does not know that it is adapted: from outside, each `Linear` layer is replaced with a `LoRALinear` around it.
A `LoRALinear` around a quantized layer is QLoRA (qlora.py).

Hu et al. 2022, "LoRA: low-rank adaptation of large language models", section 4. Simplified: one adapter per model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array, device_of, module_of, to_device
from minigrad.nn.layers import activate
from minigrad.nn.module import empty_parameter

from .targets import check_modules_to_save, ends_with, full_names, holders, is_inside, target_names

FUSED = "c_attn"  # the layer that computes query, key and value in one product, each a third of its outputs
SLICES = ("q", "k", "v")  # in this order


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """What is adapted, and how.

    r: the rank. alpha: scaling = alpha / r, so another r does not need another learning rate. use_rslora: scaling =
    alpha / sqrt(r), which keeps the size of the update for large ranks as well (Kalajdzievski 2023, "A rank
    stabilization scaling factor for fine-tuning with LoRA"). dropout: probability, applied to the input of A in
    training. target_modules: the linear layers to adapt, by the last parts of their names ("c_attn", "mlp.c_proj"); or
    one string: "all-linear" for all but the output layer, or a regular expression for whole names. None: the layers
    that compute queries and values, "c_attn" in GPT-2, "q_proj" and "v_proj" in a Llama. slices: which outputs of
    `c_attn` to adapt, ("q", "v") in the paper; () means all. modules_to_save: modules that are trained as a whole
    beside the adapters, such as a new head ("score"). rank_pattern, alpha_pattern: other ranks and alphas, by the ends
    of layers' names. Raises ValueError for settings out of range.

    >>> LoRAConfig(r=8, alpha=16).scaling, LoRAConfig(r=16, alpha=16, use_rslora=True).scaling
    (2.0, 4.0)
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] | str | None = None
    slices: tuple[str, ...] = ()
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"the rank r must be an integer >= 1, got {self.r!r}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a number > 0, got {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        for name in ("target_modules", "slices", "modules_to_save"):  # lists, as JSON has them, become tuples
            if not isinstance(getattr(self, name), str | None):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.target_modules is not None and not self.target_modules:
            raise ValueError('target_modules is empty: name the layers to adapt, such as ["c_attn"]')
        if not set(self.slices) <= set(SLICES) or len(set(self.slices)) < len(self.slices):
            raise ValueError(f"slices may be some of {', '.join(SLICES)}, each once, got {', '.join(self.slices)}")

    def for_layer(self, name: str) -> LoRAConfig:
        """The settings of one layer, with the rank and the alpha that the first fitting pattern gives it."""
        r = next((r for end, r in self.rank_pattern.items() if ends_with(name, end)), self.r)
        alpha = next((alpha for end, alpha in self.alpha_pattern.items() if ends_with(name, end)), self.alpha)
        return dataclasses.replace(self, r=r, alpha=alpha)

    @property
    def scaling(self) -> float:
        """The factor of the update B A."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


def adapter_parameters(in_features: int, out_features: int, r: int) -> int:
    """The number of a layer's trained parameters: r (in + out), instead of in * out.

    >>> 768 * 768 / adapter_parameters(768, 768, r=8)
    48.0
    """
    return r * (in_features + out_features)


class LoRALinear(nn.Module):
    """h = base(x) + scaling * B A x, around any layer with `in_features` and `out_features`: x (..., in) -> (..., out).

    lora_A (r, in) starts uniform in ±1/sqrt(in), lora_B (out, r) with zeros. With n `slices`, each slice has its own
    pair, one below the other: lora_A (n r, in), lora_B (n out/3, r).
    """

    def __init__(self, base: Any, config: LoRAConfig, slices: tuple[str, ...] = ()):
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.config, self.slices, self.merged = config, slices, False
        self.dropout = nn.Dropout(config.dropout)
        self.training = base.training
        self.dropout.training = base.training
        rows = self.out_features // len(SLICES) * len(slices) if slices else self.out_features
        A = nn.init.kaiming_uniform_(empty_parameter(self.rank, self.in_features), a=math.sqrt(5))
        B = nn.init.zeros_(empty_parameter(rows, config.r))
        self.lora_A, self.lora_B = (_as_beside(base, p) for p in (A, B))

    @property
    def rank(self) -> int:
        """The rank of the whole update: r for each slice."""
        return self.config.r * max(len(self.slices), 1)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        hidden = F.linear(self.dropout(x), self.lora_A)  # A x: (..., in) -> (..., rank)
        # A first, then B: their product B A, which is as large as W, is never made
        out = self.base(x) + F.linear(hidden * self.config.scaling, self.whole_B())  # (..., out)
        return activate(out, activation)

    def cross_entropy(self, x: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Like `nn.Linear.cross_entropy`, but with all logits in memory."""
        return F.cross_entropy(self(x), targets, ignore_index=ignore_index, reduction=reduction)

    def whole_B(self) -> Tensor:
        """B (out, rank). With slices, each slice's own B in its place and zeros elsewhere.

        For ("q", "v"), rows being the outputs of q, k and v, and columns the rows of A:

            [ B_q   0  ]
            [  0    0  ]
            [  0   B_v ]
        """
        if not self.slices:
            return self.lora_B
        third, n = self.out_features // len(SLICES), len(self.slices)
        columns = []
        for B, name in zip(F.split(self.lora_B, third), self.slices, strict=True):  # each (out/3, r)
            above = SLICES.index(name) * third
            columns.append(F.pad(B, (0, 0, above, self.out_features - above - third)))  # (out, r)
        return columns[0] if n == 1 else F.cat(columns, dim=1)  # (out, n r)

    def delta(self) -> Array:
        """What merging adds to the weight: scaling * B A, (out, in)."""
        return (self.whole_B().data * self.config.scaling) @ self.lora_A.data

    def extra_repr(self) -> str:
        return f"r={self.config.r}" + (f" of {', '.join(self.slices)}" if self.slices else "")


def _as_beside(base: nn.Module, parameter: nn.Parameter) -> nn.Parameter:
    """Move a parameter to the device of `base`, in float64 if `base` is; beside quantized weights it is float32."""
    state = list(base.state_dict().values())
    dtype = np.float64 if any(array.dtype == np.float64 for array in state) else np.float32
    parameter.data = parameter.data.astype(dtype, copy=False)
    if state:
        parameter.data = to_device(parameter.data, device_of(state[0]))
    return parameter


# --- into the model and out of it -------------------------------------------------------------------------------------


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
    whole = full_names(model, config.modules_to_save)
    layers = {}
    for name in target_names(model, config.target_modules):
        if is_inside(name, whole):
            raise ValueError(f"{name} is in target_modules and in modules_to_save: adapt it, or train it as a whole")
        slices = config.slices if name.rpartition(".")[2] == FUSED else ()
        layers[name] = LoRALinear(model.get_submodule(name), config.for_layer(name), slices)
    if config.slices and not any(layer.slices for layer in layers.values()):
        raise ValueError(f"slices {', '.join(config.slices)} are of {FUSED}, which is not in target_modules")
    return layers


def attach(model: nn.Module, layers: Mapping[str, LoRALinear]) -> None:
    """Put `layers` into the model, and freeze everything but their A, B and `modules_to_save`."""
    model.requires_grad_(False)  # first everything is frozen; then what is trained is thawed, piece by piece
    for name, layer in layers.items():
        model.set_submodule(name, layer)
        layer.lora_A.requires_grad_()
        layer.lora_B.requires_grad_()
        for saved in full_names(model, layer.config.modules_to_save):
            model.get_submodule(saved).requires_grad_()


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model by name; empty if there are none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def remove_lora(model: nn.Module) -> dict[str, LoRALinear]:
    """Remove all adapters and unfreeze the model; returns the adapters by name.

    `modules_to_save` keep what they learned. Raises ValueError if there are no adapters.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA adapters: they were merged or removed already, or never applied")
    for name, layer in layers.items():
        model.set_submodule(name, layer.base)
    model.requires_grad_()
    return layers


def merge_lora(model: nn.Module) -> dict[str, LoRALinear]:
    """W <- W + scaling * B A for each adapted layer: the model has its original modules and names again.

    The result equals the adapted model up to rounding. Returns the layers that were removed, for `unmerge_lora`. Raises
    ValueError, and leaves the model as it was, if there are no adapters, or if a weight cannot be changed: it is
    quantized, of half precision, or shared with another layer.
    """
    # Check all layers before the first one is changed.
    for name, layer in lora_layers(model).items():
        _check_mergeable(model, name, layer)
    layers = remove_lora(model)
    for layer in layers.values():
        _add(layer.base.weight, layer.delta())
        layer.merged = True
    return layers


def unmerge_lora(model: nn.Module, layers: Mapping[str, LoRALinear]) -> None:
    """Undo `merge_lora`, which returned `layers`: W <- W - scaling * B A, up to rounding, with the adapters beside it.

    Raises ValueError, and leaves the model as it was, if `layers` are not merged into this model.
    """
    modules = dict(model.named_modules())
    for name, layer in layers.items():
        if modules.get(name) is not layer.base or not layer.merged:
            raise ValueError(f"{name} is not the layer that the adapter was merged into: there is nothing to unmerge")
    for layer in layers.values():
        _add(layer.base.weight, -layer.delta())
        layer.merged = False
    attach(model, layers)


def _add(weight: Tensor, delta: Array) -> None:
    weight.data += delta
    weight.version += 1


def _check_mergeable(model: nn.Module, name: str, layer: LoRALinear) -> None:
    if type(layer.base) is not nn.Linear:
        raise ValueError(
            f"{name} is a {type(layer.base).__name__}: rounding the sum to its few values would lose a part of the "
            "adapter; merge it into the model before quantization"
        )
    weight = layer.base.weight
    if weight.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} is {weight.dtype}, too coarse to take up an adapter: model.to('float32') comes first")
    for partner, module in holders(model, weight).items():
        if module is not layer.base:
            raise ValueError(f"{name} shares its weight with {partner}: merging would change both")
    xp = module_of(weight.data)
    if not all(xp.isfinite(p.data).all() for p in (layer.lora_A, layer.lora_B)):
        raise ValueError(f"the adapter of {name} is not finite (nan or inf): merging it would destroy the weight")
