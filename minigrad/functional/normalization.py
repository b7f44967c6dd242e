"""Normalization: bring the features of each token to the same scale, independently of the other tokens in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..autograd import Function
from ..backend import module_of, sum_over
from .argument_checks import check_floating, check_tensor

if TYPE_CHECKING:
    from ..tensor import Tensor


class LayerNorm(Function):
    """Over the last axes, of n numbers (the shapes below are for one axis, C):

        std = √(mean((x - mean)²) + eps)
        x̂   = (x - mean) / std
        out = x̂ * weight + bias

    x reaches x̂ in three ways: directly, through the mean and through the std. With dx̂ = dout * weight,

        dx = dx̂ / std                     directly
           - mean(dx̂) / std               through the mean: ∂x̂/∂mean = -1 / std,  ∂mean/∂x = 1 / n
           - x̂ mean(dx̂ x̂) / std           through the std:  ∂x̂/∂std = -x̂ / std,  ∂std/∂x = x̂ / n

    There is no fourth way, from the mean through the std: ∂std/∂mean = -mean(x - mean) / std = 0.
    Adding a number to all of x, or scaling x, does not change x̂.
    Ba, Kiros & Hinton 2016.
    """

    dtype_rule = "same"
    widens_float16 = True

    @staticmethod
    def forward(ctx, x, weight, bias, axes, eps):  # x (..., C), weight and bias (C) or None
        xp = module_of(x)
        centered = x - x.mean(axis=axes, keepdims=True)  # (..., C)
        variance = (centered * centered).mean(axis=axes, keepdims=True)  # (..., 1)
        ctx.std = xp.sqrt(variance + eps)  # eps: no division by 0 where all features are equal
        ctx.normalized = centered / ctx.std  # x̂ (..., C): mean 0, variance nearly 1
        ctx.weight, ctx.axes = weight, axes
        out = ctx.normalized if weight is None else ctx.normalized * weight
        return out if bias is None else out + bias

    @staticmethod
    def backward(ctx, dout):
        leading = tuple(range(dout.ndim - len(ctx.axes)))  # the other axes, along which weight and bias are shared
        # out = normalized * weight + bias
        dbias = sum_over(dout, leading)  # (C)
        dweight = sum_over(dout * ctx.normalized, leading)  # (C)
        dnormalized = dout if ctx.weight is None else dout * ctx.weight  # (..., C)
        # normalized = (x - mean) / std
        mean = dnormalized.mean(axis=ctx.axes, keepdims=True)  # (..., 1)
        projection = (dnormalized * ctx.normalized).mean(axis=ctx.axes, keepdims=True)  # (..., 1)
        dx = (dnormalized - mean - ctx.normalized * projection) / ctx.std  # (..., C)
        return dx, dweight, dbias


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / √(variance + eps) * weight + bias, over the last axes, whose sizes are `normalized_shape`.

    weight and bias have the shape `normalized_shape`, or are None; the result has the shape of x. Raises ValueError for
    shapes that do not fit, TypeError for integers and for mixed dtypes.
    """
    axes = _last_axes("layer_norm", x, normalized_shape, weight=weight, bias=bias)
    return LayerNorm.apply(x, weight, bias, axes=axes, eps=eps)


class RmsNorm(Function):
    """out = x̂ * weight,  x̂ = x / rms,  rms = √(mean(x²) + eps), over the last axes: LayerNorm without the mean.

    With dx̂ = dout * weight,  dx = (dx̂ - x̂ mean(dx̂ x̂)) / rms.  Zhang & Sennrich 2019.
    """

    dtype_rule = "same"
    widens_float16 = True

    @staticmethod
    def forward(ctx, x, weight, axes, eps):  # x (..., C), weight (C) or None
        ctx.rms = module_of(x).sqrt((x * x).mean(axis=axes, keepdims=True) + eps)  # (..., 1)
        ctx.normalized = x / ctx.rms  # x̂ (..., C): mean square nearly 1
        ctx.weight, ctx.axes = weight, axes
        return ctx.normalized if weight is None else ctx.normalized * weight

    @staticmethod
    def backward(ctx, dout):
        leading = tuple(range(dout.ndim - len(ctx.axes)))  # the other axes, along which the weight is shared
        # out = normalized * weight
        dweight = sum_over(dout * ctx.normalized, leading)  # (C)
        dnormalized = dout if ctx.weight is None else dout * ctx.weight  # (..., C)
        # normalized = x / rms: directly, and through the rms, whose derivative by x is x̂ / n
        projection = (dnormalized * ctx.normalized).mean(axis=ctx.axes, keepdims=True)  # (..., 1)
        dx = (dnormalized - ctx.normalized * projection) / ctx.rms  # (..., C)
        return dx, dweight


def rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / √(mean(x²) + eps) * weight, over the last axes, whose sizes are `normalized_shape`.

    eps=None is the machine epsilon of x's dtype, as in PyTorch. Shapes and errors as in `layer_norm`.
    """
    axes = _last_axes("rms_norm", x, normalized_shape, weight=weight)
    return RmsNorm.apply(x, weight, axes=axes, eps=float(np.finfo(x.dtype).eps) if eps is None else eps)


def _last_axes(op: str, x: Tensor, normalized_shape: int | Sequence[int], **affine: Tensor | None) -> tuple[int, ...]:
    check_floating(op, x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"{op}: the last axes of shape {x.shape} are not normalized_shape {shape}")
    for name, parameter in affine.items():
        if parameter is None:
            continue
        check_tensor(op, parameter)
        if parameter.shape != shape:
            raise ValueError(f"{op}: {name} has shape {parameter.shape}, not {shape}")
    return tuple(range(x.ndim - len(shape), x.ndim))
