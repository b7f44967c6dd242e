r"""LoRA: fine-tuning changes all weights of a model, and each copy is as large as the model. How do a few suffice?

The idea: the weights stay as they are, and a trainable low-rank update is added to them.

    h = W x + scaling * B A x           A (r, in), B (out, r),   scaling = alpha / r

    x ----- W (frozen) ------- + ---> h
     \-- A --> r numbers -- B --/

The update of W (out, in) is written as the product of two thin matrices, B and A, and only these are trained. For W of
768 x 768 and r = 8 they have 12,288 numbers instead of 589,824. Whatever x is, A x has only r numbers: the update reads
r directions of the input and writes r directions of the output, so its rank is at most r. That is enough: in the paper,
1 to 8 did as well as 64 [section 7.2].

B starts with zeros, so training starts from the unchanged model. Only A and B need gradients, and only for them does
Adam keep its two running averages: that is why fine-tuning fits into a small memory. After training, W + scaling * B A
can be merged into one matrix, and using the model costs nothing extra.

`LoRALinear` is the layer; its docstring also puts it into a model and merges it. `LoRAConfig` below it has the settings
of `apply_lora`, which does the same for the layers that they name (applying.py), and `merge_lora` checks first whether
the weights can be changed (merging.py). A `LoRALinear` around a quantized layer is QLoRA (qlora.py).

Hu et al. 2022, "LoRA: low-rank adaptation of large language models", section 4. Simplified: one adapter per model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import minigrad.functional as F
from gpt.settings import Checked, setting
from minigrad import Tensor, nn
from minigrad.backend import Array
from minigrad.nn.layers import activate
from minigrad.nn.module import empty_parameter

from .targets import ends_with


class LoRALinear(nn.Module):
    """h = base(x) + scaling * B A x, around a linear layer `base`: x (..., in) -> (..., out).

    `base` holds W, which is frozen. `lora_A`, A (r, in), and `lora_B`, B (out, r), are trained. scaling: alpha / r.
    dropout: probability, applied to the input of A in training.

    A new layer computes what `base` computes. With A = [[1, 0, 0]], B = [[0], [5]] and scaling = 2, the update is 10
    times the first input, added to the second output:

    >>> base = nn.Linear(3, 2)
    >>> layer = LoRALinear(base, r=1, scaling=2.0)
    >>> x = Tensor([[1.0, 1.0, 1.0]])
    >>> (layer(x) - base(x)).numpy().tolist()
    [[0.0, 0.0]]
    >>> layer.lora_A.data[:] = [[1, 0, 0]]
    >>> layer.lora_B.data[:] = [[0], [5]]
    >>> (layer(x) - base(x)).numpy().round(4).tolist()
    [[0.0, 10.0]]
    >>> layer.delta().tolist()  # scaling * B A
    [[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]]

    *In a model*, everything is frozen, and each linear layer of some names is replaced with a layer around it. The
    model does not know that it is adapted. Only A and B are trained:

    >>> from gpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=10, block_size=8, n_layer=1, n_head=1, n_embd=4)).requires_grad_(False)
    >>> for name, linear in list(model.named_modules()):
    ...     if name.endswith(("c_attn", "c_fc")):
    ...         model.set_submodule(name, LoRALinear(linear, r=1, scaling=2.0))
    >>> for name, parameter in model.named_parameters():
    ...     if parameter.requires_grad:
    ...         print(name, parameter.shape)
    transformer.h.0.attn.c_attn.lora_A (1, 4)
    transformer.h.0.attn.c_attn.lora_B (12, 1)
    transformer.h.0.mlp.c_fc.lora_A (1, 4)
    transformer.h.0.mlp.c_fc.lora_B (16, 1)

    *Merging*, after training: the update is added to W, and the linear layer takes its place again.

    >>> for name, layer in list(model.named_modules()):
    ...     if isinstance(layer, LoRALinear):
    ...         layer.base.weight.data += layer.delta()
    ...         model.set_submodule(name, layer.base)
    """

    config: LoRAConfig  # the settings that `apply_lora` has made this layer from: they are saved with it
    merged = False  # True while the update is a part of base.weight (merging.py)

    def __init__(self, base: nn.Linear, r: int, scaling: float, dropout: float = 0.0):
        self.base, self.scaling = base, scaling
        self.in_features, self.out_features = base.in_features, base.out_features
        self.dropout = nn.Dropout(dropout)
        # A starts like the weight of a linear layer: uniform in ±sqrt(6 / ((1 + a²) in)), which is ±1/sqrt(in) for
        # a = sqrt(5). B starts with zeros, and so does B A.
        self.lora_A = nn.init.kaiming_uniform_(empty_parameter(r, self.in_features), a=math.sqrt(5))
        self.lora_B = nn.init.zeros_(empty_parameter(self.out_features, r))

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        # A first, then B: their product B A, which is as large as W, is never made.
        hidden = F.linear(self.dropout(x), self.lora_A)  # A x: (..., in) -> (..., r)
        out = self.base(x) + F.linear(hidden * self.scaling, self.whole_B())  # (..., out)
        # `activation`: GPT-2's MLP asks its linear layer to apply GELU as well. With None, this returns `out`.
        return activate(out, activation)

    def delta(self) -> Array:
        """The change of the weight that merging makes: scaling * B A, (out, in)."""
        return (self.whole_B().data * self.scaling) @ self.lora_A.data

    def whole_B(self) -> Tensor:
        """B, (out, r): lora_B as it is. The subclass `LoRASlices` stores B in parts, and joins them here."""
        return self.lora_B

    def extra_repr(self) -> str:
        return f"r={self.lora_B.shape[1]}"

    # A model asks its output layer for the loss.

    def cross_entropy(self, x: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Like `nn.Linear.cross_entropy`, but with all logits in memory."""
        return F.cross_entropy(self(x), targets, ignore_index=ignore_index, reduction=reduction)


def adapter_parameters(in_features: int, out_features: int, r: int) -> int:
    """The number of a layer's trained parameters: r (in + out), instead of in * out.

    >>> 768 * 768 / adapter_parameters(768, 768, r=8)
    48.0
    """
    return r * (in_features + out_features)


# --- the settings -----------------------------------------------------------------------------------------------------

SLICES = ("q", "k", "v")  # the parts of the outputs of GPT-2's `c_attn`: see lora_slices.py


@dataclasses.dataclass(frozen=True)
class LoRAConfig(Checked):
    """The settings of LoRA: which layers are adapted, and how. Raises ValueError for settings out of range.

    r: the number of rows of A and of columns of B.
    alpha: the update is scaled by alpha / r, so that another r can keep the learning rate.
    target_modules: the linear layers to adapt.
        A tuple: the last parts of their names ("c_attn", "mlp.c_proj").
        A string: "all-linear" for all but the output layer, or a regular expression for whole names.
        None: the layers that compute queries and values, "c_attn" in GPT-2, "q_proj" and "v_proj" in a Llama.
    slices: ("q", "v") in the paper, each once; () means all.
    use_rslora: scale by alpha / sqrt(r) instead, which keeps the size of the update for large ranks as well
        (Kalajdzievski 2023, "A rank stabilization scaling factor for fine-tuning with LoRA").
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
        # JSON has lists, and the settings have tuples.
        for name in ("target_modules", "slices", "modules_to_save"):
            names = getattr(self, name)
            if isinstance(names, list):
                object.__setattr__(self, name, tuple(names))  # the settings are frozen: `self.slices = ...` would fail
        super().__post_init__()
        if self.target_modules is not None and not self.target_modules:
            raise ValueError('target_modules is empty: name the layers to adapt, such as ["c_attn"]')
        if len(set(self.slices)) < len(self.slices):
            raise ValueError(f"slices may be some of {', '.join(SLICES)}, each once, got {', '.join(self.slices)}")

    def for_layer(self, name: str) -> LoRAConfig:
        """The settings of one layer, with the rank and the alpha that the first fitting pattern gives it."""

        def first_fitting(pattern: Mapping[str, Any], default: Any) -> Any:
            return next((value for end, value in pattern.items() if ends_with(name, end)), default)

        r = first_fitting(self.rank_pattern, self.r)
        alpha = first_fitting(self.alpha_pattern, self.alpha)
        return dataclasses.replace(self, r=r, alpha=alpha)

    @property
    def scaling(self) -> float:
        """The factor of the update B A."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)
