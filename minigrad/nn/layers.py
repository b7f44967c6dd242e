"""The layers that a transformer is made of. Each is its parameters, their initial values, and one function of `F`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import functional as F
from ..functional.argument_checks import Indices, check_fraction
from ..tensor import Tensor
from . import init
from .module import Module, Parameter, empty_parameter


class Linear(Module):
    """x @ weightᵀ + bias: (..., in) -> (..., out).

    weight (out, in) and bias (out) are initialized uniformly in ±1/sqrt(in). A layer that replaces a Linear, such as an
    adapter or a quantized layer, defines `forward` and `cross_entropy` with the same arguments.

    >>> import numpy as np
    >>> layer, x = Linear(3, 2), Tensor(np.array([[1.0, 2.0, 3.0]], np.float32))
    >>> np.allclose(layer(x).data, x.data @ layer.weight.data.T + layer.bias.data)
    True
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.kaiming_uniform_(empty_parameter(out_features, in_features), a=math.sqrt(5))  # ±1/√in
        self.bias: Parameter | None = None
        if bias:
            bound = 1 / math.sqrt(max(in_features, 1))
            self.bias = init.uniform_(empty_parameter(out_features), -bound, bound)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        if activation is not None:
            return self.with_activation(x, activation)
        return F.linear(x, self.weight, self.bias)  # x @ weightᵀ + bias

    # Fused ops: a fast kernel computes the product and what follows it together, with fewer passes over the memory.

    def with_activation(self, x: Tensor, activation: str) -> Tensor:
        """The layer, then an activation function: "gelu", "gelu_tanh" (GPT-2's form of it), "relu" or "silu"."""
        if activation in GELU_FORMS:
            return F.linear_gelu(x, self.weight, self.bias, GELU_FORMS[activation])
        return activate(F.linear(x, self.weight, self.bias), activation)

    def cross_entropy(self, x: Tensor, targets: Indices, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """The layer, then the cross-entropy of targets (N): the outputs (N, out) for x (N, in) are the logits.

        A fast kernel never holds all logits. A bias, or a hook that may change the logits, takes the plain way.
        """
        if self.bias is not None or self._forward_hooks:
            return F.cross_entropy(self(x), targets, ignore_index=ignore_index, reduction=reduction)
        return F.linear_cross_entropy(x, self.weight, targets, ignore_index, reduction)


GELU_FORMS = {"gelu": "none", "gelu_tanh": "tanh"}  # name -> `approximate` of F.gelu
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, GELU_FORMS["gelu_tanh"]),
    "relu": F.relu,
    "silu": F.silu,
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply the activation function of this name; None leaves x as it is. For layers that replace a Linear."""
    if activation is None:
        return x
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None, {' or '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    return ACTIVATIONS[activation](x)


class Embedding(Module):
    """A table with one row per id: ids (...) -> (..., embedding_dim).

    weight (num_embeddings, embedding_dim) is initialized from the normal distribution; the row `padding_idx` stays 0.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = init.normal_(empty_parameter(num_embeddings, embedding_dim))
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, ids: Indices) -> Tensor:
        return F.embedding(ids, self.weight, self.padding_idx)


class LayerNorm(Module):
    """Scale each token's features to mean 0 and variance 1; then apply a learned weight (1 at first) and bias (0)."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, *, bias: bool = True):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = init.ones_(empty_parameter(*shape))
        self.bias: Parameter | None = init.zeros_(empty_parameter(*shape)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Scale each token's features to mean square 1; then apply a learned weight (1 at first)."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = init.ones_(empty_parameter(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class Dropout(Module):
    """In training, set each element to 0 with probability p and scale the others by 1 / (1 - p); else do nothing."""

    def __init__(self, p: float = 0.5):
        check_fraction("Dropout: probability", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GELU(Module):
    """x Φ(x): exact ("none") or GPT-2's "tanh" form."""

    def __init__(self, approximate: str = "none"):
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Identity(Module):
    """x itself, where a module is wanted that does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class SiLU(Module):
    """x σ(x), σ the sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Tanh(Module):
    """tanh x."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)
