"""The layers that a transformer is made of. Each is its parameters, their initial values, and one function of `F`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import functional as F
from ..functional.stochastic import check_probability
from ..tensor import Tensor
from . import init
from .module import Module, Parameter, empty_parameter


class Linear(Module):
    """x @ weightᵀ + bias: (..., in) -> (..., out).

    weight (out, in), bias (out), both uniform in ±1/sqrt(in) at first.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.kaiming_uniform_(empty_parameter(out_features, in_features), a=math.sqrt(5))
        self.bias: Parameter | None = None
        if bias:
            bound = 1 / math.sqrt(max(in_features, 1))
            self.bias = init.uniform_(empty_parameter(out_features), -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table with one row per id: ids (...) -> (..., embedding_dim).

    weight (num_embeddings, embedding_dim), normal at first; the row `padding_idx` is 0 and stays so.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = init.normal_(empty_parameter(num_embeddings, embedding_dim))
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, ids: Any) -> Tensor:
        return F.embedding(ids, self.weight, self.padding_idx)


class LayerNorm(Module):
    """Each token's features to mean 0 and variance 1, then a learned scale (1 at first) and shift (0 at first)."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, *, bias: bool = True):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = init.ones_(empty_parameter(*shape))
        self.bias: Parameter | None = init.zeros_(empty_parameter(*shape)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Each token's features to mean square 1, then a learned scale (1 at first)."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = init.ones_(empty_parameter(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p); nothing otherwise."""

    def __init__(self, p: float = 0.5):
        check_probability("Dropout", p)
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
