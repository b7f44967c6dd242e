"""Reductions: many elements to few (sums, means, extremes).

In backward, each element gets the gradient of the result that it went into.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ..autograd import Function
from ..backend import module_of
from .broadcasting import Dims, check_floating, normalize_dim, normalize_dims, restore_dims

if TYPE_CHECKING:
    from ..tensor import Tensor


class Sum(Function):
    """out = Σ x;  dx = dout, repeated along the summed axes."""

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.shape, ctx.dims = x.shape, dims
        return x.sum(axis=dims, keepdims=keepdim, dtype=_unsigned_to_int64(x))

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape),)


def sum(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum over `dim` (an axis, several, or all)."""
    return Sum.apply(x, dims=normalize_dims("sum", dim, x.ndim), keepdim=keepdim)


class Mean(Function):
    """out = Σ x / n;  dx = dout / n, repeated along the averaged axes."""

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.shape, ctx.dims = x.shape, dims
        ctx.n = math.prod([x.shape[axis] for axis in dims]) or math.nan  # the mean of nothing is nan
        return x.sum(axis=dims, keepdims=keepdim) / ctx.n

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).broadcast_to(restore_dims(dout / ctx.n, ctx.dims, len(ctx.shape)), ctx.shape),)


def mean(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean over `dim`. Raises TypeError for integers, which have no exact one."""
    check_floating("mean", x)
    return Mean.apply(x, dims=normalize_dims("mean", dim, x.ndim), keepdim=keepdim)


class Var(Function):
    """out = Σ (x - mean)² / (n - correction);  dx = dout * 2 (x - mean) / (n - correction).

    The mean also depends on x, but its derivative contributes nothing, since Σ (x - mean) = 0.
    """

    @staticmethod
    def forward(ctx, x, dims, correction, keepdim):
        n = math.prod([x.shape[axis] for axis in dims])
        degrees = n - correction if n > correction else 0
        ctx.degrees = module_of(x).asarray(degrees, x.dtype)  # an array, as x / 0 is then inf, not an exception
        ctx.dims = dims
        ctx.centered = x - x.sum(axis=dims, keepdims=True) / (n or math.nan)
        return (ctx.centered * ctx.centered).sum(axis=dims, keepdims=keepdim) / ctx.degrees

    @staticmethod
    def backward(ctx, dout):
        return (restore_dims(dout, ctx.dims, ctx.centered.ndim) * 2 * ctx.centered / ctx.degrees,)


def var(
    x: Tensor, dim: Dims = None, *, correction: float = 1, keepdim: bool = False, unbiased: bool | None = None
) -> Tensor:
    """The variance over `dim`, Σ (x - mean)² / (n - correction): correction=1 is unbiased, 0 the mean square.

    `unbiased` is PyTorch's older name: True for correction=1, False for 0.
    """
    check_floating("var", x)
    correction = correction if unbiased is None else int(unbiased)
    return Var.apply(x, dims=normalize_dims("var", dim, x.ndim), correction=correction, keepdim=keepdim)


class Max(Function):
    """out = the largest element; of the whole tensor, or along `dim` together with its index.

    With `dim`, dout goes to the element that was picked. Over the whole tensor, all elements that are as large get
    equal shares of it.
    """

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        return _extreme(ctx, x, dim, keepdim, "max")

    @staticmethod
    def backward(ctx, dout, dindices=None):
        return _to_extreme(ctx, dout)


def max(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim`, the pair (values, indices) along it. nan beats everything."""
    dim = _extreme_dim("max", x, dim)
    result = Max.apply(x, dim=dim, keepdim=keepdim)
    return result if dim is None else ValuesAndIndices(*result)


class Min(Function):
    """out = the smallest element; as Max."""

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        return _extreme(ctx, x, dim, keepdim, "min")

    @staticmethod
    def backward(ctx, dout, dindices=None):
        return _to_extreme(ctx, dout)


def min(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest element; with `dim`, the pair (values, indices) along it. nan beats everything."""
    dim = _extreme_dim("min", x, dim)
    result = Min.apply(x, dim=dim, keepdim=keepdim)
    return result if dim is None else ValuesAndIndices(*result)


def _extreme_dim(op: str, x: Tensor, dim: Any) -> int | None:
    if hasattr(dim, "shape"):
        raise TypeError(f"{op}: dim must be an integer, got a tensor; F.{op}imum(x, y) compares two tensors")
    axis = None if dim is None else normalize_dim(op, dim, x.ndim)
    if 0 in x.shape and (axis is None or x.shape[axis] == 0):
        along = "" if axis is None else f" along dim {dim}"
        raise ValueError(f"{op}: shape {x.shape} has no elements to choose from{along}")
    return axis


def _extreme(ctx, x, dim, keepdim, which):
    ctx.dim = dim
    if dim is None:
        ctx.x, ctx.out = x, getattr(x, which)()
        return ctx.out
    ctx.shape = x.shape
    column = x.reshape(1) if x.ndim == 0 else x
    ctx.indices = getattr(column, "arg" + which)(axis=dim, keepdims=True)
    values = getattr(column, which)(axis=dim, keepdims=True)
    if keepdim and x.ndim:
        return values, ctx.indices
    return values.squeeze(dim), ctx.indices.squeeze(dim)


def _to_extreme(ctx, dout):
    xp = module_of(dout)
    if ctx.dim is None:
        chosen = (ctx.x == ctx.out) | (ctx.x != ctx.x)  # an element that is nan is what came out
        return (xp.where(chosen, dout / chosen.sum(dtype=dout.dtype), 0),)
    n = ctx.shape[ctx.dim] if ctx.shape else 1
    places = xp.arange(n).reshape([-1 if axis == ctx.dim else 1 for axis in range(ctx.indices.ndim)])
    chosen = places == ctx.indices  # one True along dim
    return (xp.where(chosen, dout.reshape(ctx.indices.shape), 0).reshape(ctx.shape),)


class ValuesAndIndices(NamedTuple):
    """What `max(x, dim)` and `min(x, dim)` return."""

    values: Tensor
    indices: Tensor


class Logsumexp(Function):
    """out = m + ln Σ e^(x - m), where m = max x keeps e from overflowing;  dx = dout * e^(x - out) = dout * softmax(x).

    Where all of x is -inf (or there is no x), out is ln 0 = -inf, and the gradient is 0.
    """

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        xp = module_of(x)
        ctx.x, ctx.dims = x, dims
        largest = x.max(axis=dims, keepdims=True) if x.size else x.sum(axis=dims, keepdims=True)
        shift = xp.where(xp.isfinite(largest), largest, 0)
        total = xp.exp(x - shift).sum(axis=dims, keepdims=True)
        ctx.out = out = xp.where(total == 0, -math.inf, xp.log(xp.where(total == 0, 1, total)) + shift)
        return out if keepdim else out.squeeze(dims)

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        shift = xp.where(ctx.out == -math.inf, 0, ctx.out)  # e^(-inf - 0) is 0, e^(-inf + inf) would be nan
        return (restore_dims(dout, ctx.dims, ctx.x.ndim) * xp.exp(ctx.x - shift),)


def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """ln Σ e^x over `dim`, without overflow."""
    return Logsumexp.apply(x, dims=normalize_dims("logsumexp", dim, x.ndim), keepdim=keepdim)


class Cumsum(Function):
    """out_i = x_0 + ... + x_i;  dx_i = dout_i + dout_(i+1) + ..., since x_i went into every later sum."""

    @staticmethod
    def forward(ctx, x, dim):
        ctx.dim = dim
        return x.cumsum(axis=dim, dtype=_unsigned_to_int64(x)).reshape(x.shape)  # () became (1,)

    @staticmethod
    def backward(ctx, dout):
        if dout.ndim == 0:
            return (dout,)
        xp = module_of(dout)
        return (xp.flip(xp.flip(dout, ctx.dim).cumsum(axis=ctx.dim), ctx.dim),)


def cumsum(x: Tensor, dim: int) -> Tensor:
    """Running sums along `dim`."""
    return Cumsum.apply(x, dim=normalize_dim("cumsum", dim, x.ndim))


def _unsigned_to_int64(x):
    """The dtype to add up in: int64 for unsigned integers, as in PyTorch; None leaves it to the array library."""
    return "int64" if x.dtype.kind == "u" else None
