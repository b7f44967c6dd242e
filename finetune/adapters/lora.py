r"""LoRA: a trainable low-rank update added to frozen weights.

    h = W x + scaling * B A x           A (r, in), B (out, r),   scaling = alpha / r

    x ----- W (frozen) ------- + ---> h
     \-- A --> r numbers -- B --/

Fine-tuning adds an update to a weight matrix W (out, in). LoRA writes the update as the product of two thin matrices, B
and A, and trains only these. Whatever x is, A x has only r numbers, so the update reads r directions of the input and
writes r directions of the output. The number of such directions is the *rank* of a matrix; that of W can be as large as
in or out, that of B A is at most r. A low rank is enough: in the paper, 1 to 8 did as well as 64 [section 7.2].

B starts with zeros, so training starts from the unchanged model. A and B have r (in + out) numbers instead of in * out.
Only they need gradients, and only for them does Adam keep its two running averages: that is why fine-tuning fits into a
small memory. After training, W + scaling * B A can be merged into one matrix, and using the model costs nothing extra.

The layer comes first, whole; below it are the settings, adapters for parts of a layer's outputs, and how layers get
into a model and out of it. The model does not know that it is adapted: from outside, each `Linear` layer is replaced
with a `LoRALinear` around it. A `LoRALinear` around a quantized layer is QLoRA (qlora.py).

Hu et al. 2022, "LoRA: low-rank adaptation of large language models", section 4. Simplified: one adapter per model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt.settings import Checked, setting
from minigrad import Tensor, nn
from minigrad.backend import Array, device_of, module_of, to_device
from minigrad.in_place import announce_update
from minigrad.nn.layers import activate
from minigrad.nn.module import empty_parameter

from .targets import check_modules_to_save, ends_with, full_names, holders, is_inside, target_names


class LoRALinear(nn.Module):
    """h = base(x) + scaling * B A x, around a linear layer `base`: x (..., in) -> (..., out).

    `base` holds W, which is frozen (`apply_lora` freezes it). Only `lora_A`, A (r, in), and `lora_B`, B (out, r), are
    trained. scaling: alpha / r. dropout: probability, applied to the input of A in training.

    A new layer computes what `base` computes. With A = [[1, 0, 0]], B = [[0], [5]] and scaling = 2, the update is 10
    times the first input, added to the second output:

    >>> base = nn.Linear(3, 2)
    >>> layer = LoRALinear(base, r=1, scaling=2.0)
    >>> x = Tensor(np.ones((1, 3), np.float32))
    >>> (layer(x) - base(x)).numpy().tolist()
    [[0.0, 0.0]]
    >>> layer.lora_A.data[:] = [[1, 0, 0]]
    >>> layer.lora_B.data[:] = [[0], [5]]
    >>> (layer(x) - base(x)).numpy().round(4).tolist()
    [[0.0, 10.0]]
    >>> layer.delta().tolist()  # scaling * B A
    [[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]]
    """

    def __init__(self, base: nn.Linear, r: int, scaling: float, dropout: float = 0.0):
        self.base, self.scaling = base, scaling
        self.in_features, self.out_features = base.in_features, base.out_features
        self.dropout = nn.Dropout(dropout)
        # A starts like the weight of a linear layer, uniform in ±sqrt(6 / ((1 + a²) in)); a = sqrt(5) makes this
        # ±1/sqrt(in). B starts with zeros, and so does B A.
        self.lora_A = nn.init.kaiming_uniform_(empty_parameter(r, self.in_features), a=math.sqrt(5))
        self.lora_B = nn.init.zeros_(empty_parameter(self.out_features, r))

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        hidden = F.linear(self.dropout(x), self.lora_A)  # A x: (..., in) -> (..., r)
        # A first, then B: their product B A, which is as large as W, is never made. `whole_B()` is lora_B.
        out = self.base(x) + F.linear(hidden * self.scaling, self.whole_B())  # (..., out)
        # A model may ask any linear layer for an activation function after it; with None, this returns `out`.
        return activate(out, activation)

    def delta(self) -> Array:
        """The change of the weight that merging makes: scaling * B A, (out, in)."""
        return (self.whole_B().data * self.scaling) @ self.lora_A.data

    def whole_B(self) -> Tensor:
        """B, (out, r): here lora_B as it is. A subclass that stores B in parts, `LoRASlices` below, joins them."""
        return self.lora_B

    def cross_entropy(self, x: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Like `nn.Linear.cross_entropy`, but with all logits in memory."""
        return F.cross_entropy(self(x), targets, ignore_index=ignore_index, reduction=reduction)

    def extra_repr(self) -> str:
        return f"r={self.lora_B.shape[1]}"

    config: LoRAConfig  # the settings that `new_layers` made this layer from: they are saved with it
    merged = False  # whether `merge_lora` has added the update to base.weight


def adapter_parameters(in_features: int, out_features: int, r: int) -> int:
    """The number of a layer's trained parameters: r (in + out), instead of in * out.

    >>> 768 * 768 / adapter_parameters(768, 768, r=8)
    48.0
    """
    return r * (in_features + out_features)


# --- the settings -----------------------------------------------------------------------------------------------------

FUSED = "c_attn"  # GPT-2's layer that computes query, key and value in one product, each a third of its outputs
SLICES = ("q", "k", "v")  # the thirds, in this order


@dataclasses.dataclass(frozen=True)
class LoRAConfig(Checked):
    """The settings of LoRA: which layers are adapted, and how. Raises ValueError for settings out of range.

    r: the number of rows of A and of columns of B. alpha: dividing by r lets another r keep the learning rate.
    target_modules: the linear layers to adapt.
        A tuple: the last parts of their names ("c_attn", "mlp.c_proj").
        A string: "all-linear" for all but the output layer, or a regular expression for whole names.
        None: the layers that compute queries and values, "c_attn" in GPT-2, "q_proj" and "v_proj" in a Llama.
    slices: ("q", "v") in the paper, each once; () means all.
    use_rslora: this keeps the size of the update for large ranks as well (Kalajdzievski 2023, "A rank stabilization
        scaling factor for fine-tuning with LoRA").
    modules_to_save: modules that are trained as a whole beside the adapters, such as a new head ("score").
    rank_pattern: other ranks for some layers, by the ends of the layers' names, {"mlp.c_proj": 16}.
    alpha_pattern: other alphas, in the same way.

    >>> LoRAConfig(r=8, alpha=16).scaling, LoRAConfig(r=16, alpha=16, use_rslora=True).scaling
    (2.0, 4.0)
    """

    r: int = setting(8, "rank of the adapters", "in [1, 4096]")
    alpha: float = setting(16, "adapters are scaled by alpha / r", "> 0")
    dropout: float = setting(0.0, "dropout probability on the input of an adapter", "in [0, 1)", flag="--lora-dropout")
    target_modules: tuple[str, ...] | str | None = setting(None, "layers to adapt, or all-linear", metavar="NAME")
    slices: tuple[str, ...] = setting((), "adapt only these parts of c_attn", choices=SLICES)
    use_rslora: bool = setting(False, "scale by alpha / sqrt(r)")
    modules_to_save: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("target_modules", "slices", "modules_to_save"):  # lists, as JSON has them, become tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        if self.target_modules is not None and not self.target_modules:
            raise ValueError('target_modules is empty: name the layers to adapt, such as ["c_attn"]')
        if len(set(self.slices)) < len(self.slices):
            raise ValueError(f"slices may be some of {', '.join(SLICES)}, each once, got {', '.join(self.slices)}")

    def for_layer(self, name: str) -> LoRAConfig:
        """Return the settings of one layer, with the rank and the alpha that the first fitting pattern gives it."""
        r = next((r for end, r in self.rank_pattern.items() if ends_with(name, end)), self.r)
        alpha = next((alpha for end, alpha in self.alpha_pattern.items() if ends_with(name, end)), self.alpha)
        return dataclasses.replace(self, r=r, alpha=alpha)

    @property
    def scaling(self) -> float:
        """The factor of the update B A."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


# --- some slices of c_attn only ---------------------------------------------------------------------------------------


class LoRASlices(LoRALinear):
    """LoRA for some of the query, key and value that `c_attn` computes: each slice has its own A (r, in), B (out/3, r).

    The pairs of the n `slices` are stored one below the other: lora_A (n r, in), lora_B (n out/3, r).
    """

    def __init__(self, base: nn.Linear, r: int, scaling: float, dropout: float, slices: tuple[str, ...]):
        super().__init__(base, r * len(slices), scaling, dropout)
        self.slices = slices
        self.lora_B = nn.init.zeros_(empty_parameter(self.out_features // len(SLICES) * len(slices), r))

    def whole_B(self) -> Tensor:
        """B (out, n r): each slice's own B in its place, and zeros elsewhere.

        For ("q", "v"), rows being the outputs of q, k and v, and columns the rows of A:

            [ B_q   0  ]
            [  0    0  ]
            [  0   B_v ]
        """
        third = self.out_features // len(SLICES)
        columns = []
        for B, name in zip(F.split(self.lora_B, third), self.slices):  # each (out/3, r)
            above = SLICES.index(name) * third
            columns.append(F.pad(B, (0, 0, above, self.out_features - above - third)))  # (out, r)
        return columns[0] if len(columns) == 1 else F.cat(columns, dim=1)  # (out, n r)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()} of {', '.join(self.slices)}"


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
        layers[name] = _new_layer(name, model.get_submodule(name), config.for_layer(name))
    if config.slices and not any(isinstance(layer, LoRASlices) for layer in layers.values()):
        raise ValueError(f"slices {', '.join(config.slices)} are of {FUSED}, which is not in target_modules")
    return layers


def _new_layer(name: str, base: Any, config: LoRAConfig) -> LoRALinear:
    """A new adapter around `base`, on the same device, and like `base` in training or in evaluation mode.

    A and B are float64 if `base` is. Otherwise they are float32, also if `base` is quantized or of half precision.
    """
    layer: LoRALinear
    if config.slices and name.rpartition(".")[2] == FUSED:
        layer = LoRASlices(base, config.r, config.scaling, config.dropout, config.slices)
    else:
        layer = LoRALinear(base, config.r, config.scaling, config.dropout)
    layer.config = config
    state = list(base.state_dict().values())
    dtype = np.float64 if any(array.dtype == np.float64 for array in state) else np.float32
    for parameter in (layer.lora_A, layer.lora_B):
        parameter.data = to_device(parameter.data.astype(dtype, copy=False), device_of(state[0]))
    return layer.train(base.training)


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
    if (reason := why_not_mergeable(model)) is not None:  # looks at all layers, before the first one is changed
        raise ValueError(reason)
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
    announce_update([weight])
    weight.data += delta


def why_not_mergeable(model: nn.Module) -> str | None:
    """Why the adapters of a model cannot be merged, in a sentence; None if they can be."""
    for name, layer in lora_layers(model).items():
        if type(layer.base) is not nn.Linear:
            loss = "rounding the sum to its few values would lose a part of the adapter"
            return f"{name} is a {type(layer.base).__name__}: {loss}; merge it into the model before quantization"
        weight = layer.base.weight
        if weight.dtype not in (np.float32, np.float64):
            return f"{name} is {weight.dtype}, too coarse to take up an adapter: model.to('float32') comes first"
        for partner, module in holders(model, weight).items():
            if module is not layer.base:
                return f"{name} shares its weight with {partner}: merging would change both"
        xp = module_of(weight.data)
        if not all(xp.isfinite(p.data).all() for p in (layer.lora_A, layer.lora_B)):
            return f"the adapter of {name} is not finite (nan or inf): merging it would destroy the weight"
    return None
