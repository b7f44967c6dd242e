"""Layers with a quantized weight. They dequantize one tile of it at a time, so it never exists as floats as a whole.

A weight in 8 or 4 bits saves memory because the floats are computed where they are needed, some rows at a time, and
then discarded. The weight is frozen, because rounding has no useful derivative. The gradient still flows through it to
its input, which is all that LoRA needs (Dettmers et al. 2023, "QLoRA", equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import Function, Tensor, nn
from minigrad.backend import Array, module_of, sum_over
from minigrad.functional.indexing import check_indices
from minigrad.kernels.cpu.threads import matmul, parallel, row_blocks
from minigrad.nn.layers import activate

from .array import QuantizedArray
from .blocks import BlockArray

TILE = 1024 * 1024  # numbers of the weight that each thread dequantizes at a time: 4 MB
Weight = QuantizedArray | BlockArray


class QuantizedProduct(Function):
    """out = x @ Wᵀ + bias,  dx = dout @ W,  dbias = Σ dout, where W (O, I) is the dequantized `weight`.

    With textbook kernels the tiles are computed one after the other, with fast kernels by several threads. In mixed
    precision x, out and their gradients are rounded to bfloat16; the dequantized weight is not.
    """

    dtype_rule = "same"
    autocast = True

    @staticmethod
    def forward(ctx: Any, x: Array, bias: Array | None, weight: Weight) -> Array:  # x (..., I), bias (O)
        ctx.x_shape = x.shape
        ctx.weight = weight
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # (N, I)
        if weight.order is not None:
            flat = flat[:, weight.order]
        out = _times(flat, weight)  # (N, O)
        if bias is not None:
            out += bias
        return out.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dout: Array) -> tuple[Array | None, Array | None]:
        dout = dout.reshape(math.prod(dout.shape[:-1]), dout.shape[-1])  # (N, O)
        dx = _times_transposed(dout, ctx.weight).reshape(ctx.x_shape) if ctx.needs_grad[0] else None
        dbias = sum_over(dout, 0) if ctx.needs_grad[1] else None
        return dx, dbias


def _times(x: Array, weight: Weight) -> Array:
    """x (N, I), columns in the stored order, @ Wᵀ: (N, O)."""
    xp = module_of(x)
    out = xp.empty((len(x), weight.shape[0]), x.dtype)

    def multiply(rows: slice) -> None:  # one tile of W
        out[:, rows] = weight.times_rows(x, rows)

    if xp is np:
        parallel(multiply, _tiles(weight))
    else:  # a GPU distributes the work by itself
        for rows in _tiles(weight):
            multiply(rows)
    return out


def _times_transposed(x: Array, weight: Weight) -> Array:
    """x (N, O) @ W: (N, I)."""
    xp = module_of(x)
    out = xp.zeros((len(x), weight.shape[1]), x.dtype)
    product = matmul if xp is np else xp.matmul
    for rows in _tiles(weight):
        out += product(x[:, rows], weight.dequantize_rows(rows))
    return out


def _tiles(weight: Weight) -> Iterable[slice]:
    """The rows of the weight in pieces of at most TILE numbers. A small weight is not worth waking a thread for."""
    rows, columns = weight.shape
    return [slice(0, rows)] if rows * columns <= weight.in_one_piece else row_blocks(rows, columns, TILE)


class QuantizedLinear(nn.Module):
    """x @ Wᵀ + bias with a quantized, frozen W (out, in). It replaces an `nn.Linear` and keeps its bias parameter.

    `to` moves its arrays like those of other modules; `to(np.float64)` makes it compute in float64.
    """

    def __init__(self, weight: Weight, bias: nn.Parameter | None = None):
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        return activate(QuantizedProduct.apply(x, self.bias, weight=self.weight), activation)

    def cross_entropy(self, x: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Like `nn.Linear.cross_entropy`, but all logits exist at once."""
        return F.cross_entropy(self(x), targets, ignore_index=ignore_index, reduction=reduction)


class QuantizedEmbedding(nn.Module):
    """A quantized table (V, C) with one row per id: ids (...) -> (..., C). Only the requested rows are dequantized.

    `QuantizedLinear(embedding.weight)` is the output layer tied to it. Both use one array.
    """

    def __init__(self, weight: Weight):
        self.num_embeddings, self.embedding_dim = weight.shape
        self.weight = weight

    def forward(self, ids: Tensor | Array) -> Tensor:
        ids = ids.data if isinstance(ids, Tensor) else ids
        check_indices("embedding", ids, self.num_embeddings, "the vocabulary")
        rows = self.weight.dequantize_rows(ids.reshape(-1))  # (N, C)
        return Tensor(rows.reshape(*ids.shape, self.embedding_dim))


def put_quantized(model: nn.Module, name: str, weight: Weight) -> None:
    """Replace a linear layer, or the token embedding with the output layer that is tied to it, by a quantized one."""
    layer: Any = model.get_submodule(name)
    if not isinstance(layer, nn.Embedding):
        model.set_submodule(name, QuantizedLinear(weight, layer.bias))
        return
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight is layer.weight:
        model.lm_head = QuantizedLinear(weight, head.bias)
    model.set_submodule(name, QuantizedEmbedding(weight))
