"""Bringing each token's features to one scale, whatever the other tokens of the batch are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..autograd import Function
from ..backend import module_of
from .broadcasting import check_floating

if TYPE_CHECKING:
    from ..tensor import Tensor


class LayerNorm(Function):
    """out = x̂ * weight + bias,  x̂ = (x - mean) / std,  std = √(mean((x - mean)²) + eps), over the last axes.

    x reaches x̂ in three ways: itself, through the mean and through the std. With dx̂ = dout * weight,

        dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / std

    The two means take out of dx̂ what shifting and stretching all of x would do, to which x̂ does not react.
    Ba, Kiros & Hinton 2016.
    """

    dtype_rule = "same"

    @staticmethod
    def forward(ctx, x, weight, bias, axes, eps):  # x (..., C), weight and bias (C) or None
        xp = module_of(x)
        centered = x - x.mean(axis=axes, keepdims=True)
        variance = (centered * centered).mean(axis=axes, keepdims=True)
        ctx.std = xp.sqrt(variance + eps)
        ctx.normalized = centered / ctx.std
        ctx.weight, ctx.axes = weight, axes
        out = ctx.normalized if weight is None else ctx.normalized * weight
        return out if bias is None else out + bias

    @staticmethod
    def backward(ctx, dout):
        leading = tuple(range(dout.ndim - len(ctx.axes)))
        dx = dweight = dbias = None
        # out = normalized * weight + bias
        if ctx.needs_grad[1]:
            dweight = (dout * ctx.normalized).sum(axis=leading)
        if ctx.needs_grad[2]:
            dbias = dout.sum(axis=leading)
        if ctx.needs_grad[0]:
            dnormalized = dout if ctx.weight is None else dout * ctx.weight
            mean = dnormalized.mean(axis=ctx.axes, keepdims=True)
            projection = (dnormalized * ctx.normalized).mean(axis=ctx.axes, keepdims=True)
            dx = (dnormalized - mean - ctx.normalized * projection) / ctx.std
        return dx, dweight, dbias


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalization over the last axes, of sizes `normalized_shape`; weight and bias have that shape."""
    axes = _last_axes("layer_norm", x, normalized_shape, weight=weight, bias=bias)
    return LayerNorm.apply(x, weight, bias, axes=axes, eps=eps)


class RmsNorm(Function):
    """out = x̂ * weight,  x̂ = x / rms,  rms = √(mean(x²) + eps), over the last axes: LayerNorm without the mean.

    With dx̂ = dout * weight,  dx = (dx̂ - x̂ mean(dx̂ x̂)) / rms.  Zhang & Sennrich 2019.
    """

    dtype_rule = "same"

    @staticmethod
    def forward(ctx, x, weight, axes, eps):
        ctx.rms = module_of(x).sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
        ctx.normalized = x / ctx.rms
        ctx.weight, ctx.axes = weight, axes
        return ctx.normalized if weight is None else ctx.normalized * weight

    @staticmethod
    def backward(ctx, dout):
        dx = dweight = None
        # out = normalized * weight
        if ctx.needs_grad[1]:
            dweight = (dout * ctx.normalized).sum(axis=tuple(range(dout.ndim - len(ctx.axes))))
        if ctx.needs_grad[0]:
            dnormalized = dout if ctx.weight is None else dout * ctx.weight
            projection = (dnormalized * ctx.normalized).mean(axis=ctx.axes, keepdims=True)
            dx = (dnormalized - ctx.normalized * projection) / ctx.rms
        return dx, dweight


def rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Root-mean-square normalization over the last axes; eps=None is the dtype's rounding step, as in PyTorch."""
    axes = _last_axes("rms_norm", x, normalized_shape, weight=weight)
    return RmsNorm.apply(x, weight, axes=axes, eps=float(np.finfo(x.dtype).eps) if eps is None else eps)


def _last_axes(op: str, x: Tensor, normalized_shape: int | Sequence[int], **affine: Tensor | None) -> tuple[int, ...]:
    check_floating(op, x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"{op}: the last axes of shape {x.shape} are not normalized_shape {shape}")
    for name, parameter in affine.items():
        if parameter is not None and parameter.shape != shape:
            raise ValueError(f"{op}: {name} has shape {parameter.shape}, not {shape}")
    return tuple(range(x.ndim - len(shape), x.ndim))
