"""Reductions: many elements to few (sums, means, extremes).

In backward, each element gets the gradient of the result that it went into. Where a function takes `dtype`, x is
converted to it before anything is computed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ..autograd import Function
from ..backend import Array, module_of, sum_over, wider
from .argument_checks import Dims, check_floating, normalize_dim, normalize_dims
from .elementwise import cast
from .shape import reshape

if TYPE_CHECKING:
    from ..tensor import Tensor


class Sum(Function):
    """out = Σ x;  dx = dout, repeated along the summed axes."""

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.shape = x.shape
        ctx.dims = dims
        return sum_over(x, dims, keepdim)

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape),)


def sum(x: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Σ x over `dim`: one axis, several, or None for all.

    Shape (2, 3) gives (2,) for dim=1, or (2, 1) with keepdim. Integers and booleans add up to int64. Raises IndexError
    for an axis that does not exist.
    """
    x = cast(x, dtype)
    return cast(Sum.apply(x, dims=normalize_dims("sum", dim, x), keepdim=keepdim), dtype)


class Mean(Function):
    """out = Σ x / n;  dx = dout / n, repeated along the averaged axes."""

    widens_float16 = True

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.shape = x.shape
        ctx.dims = dims
        ctx.n = math.prod([x.shape[axis] for axis in dims]) or math.nan  # the mean of nothing is nan
        return sum_over(x, dims, keepdim, divisor=ctx.n)

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).broadcast_to(restore_dims(dout / ctx.n, ctx.dims, len(ctx.shape)), ctx.shape),)


def mean(x: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Σ x / n over the n elements along `dim`.

    Shapes as in `sum`. Raises TypeError for integers, whose mean is not an integer: pass dtype=np.float32.
    """
    x = cast(x, dtype)
    check_floating("mean", x)
    return Mean.apply(x, dims=normalize_dims("mean", dim, x), keepdim=keepdim)


class Var(Function):
    """out = Σ (x - mean)² / (n - correction);  dx = dout * 2 (x - mean) / (n - correction).

    The mean also depends on x, but its derivative contributes nothing, since Σ (x - mean) = 0.
    """

    widens_float16 = True

    @staticmethod
    def forward(ctx, x, dims, correction, keepdim):
        n = math.prod([x.shape[axis] for axis in dims])
        degrees = n - correction if n > correction else 0
        ctx.degrees = module_of(x).asarray(degrees, x.dtype)  # an array, as x / 0 is then inf, not an exception
        ctx.dims = dims
        ctx.centered = x - sum_over(x, dims, keepdims=True, divisor=n or math.nan)  # x - mean
        return sum_over(ctx.centered * ctx.centered, dims, keepdim, divisor=ctx.degrees)

    @staticmethod
    def backward(ctx, dout):
        return (restore_dims(dout, ctx.dims, ctx.centered.ndim) * 2 * ctx.centered / ctx.degrees,)


def var(
    x: Tensor,
    dim: Dims | bool = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance Σ (x - mean)² / (n - correction) along `dim`.

    correction: 1 estimates the variance of what x was drawn from, 0 is the mean square. `unbiased`, PyTorch's older
    name, means correction=1 if True, else 0; var(x, False) is over all elements. Shapes as in `sum`. Raises TypeError
    for integers.
    """
    return Var.apply(x, **_options_of_var("var", x, dim, unbiased, correction), keepdim=keepdim)


class Std(Var):
    """out = √var;  dx = the backward of Var for dout / (2 out). Where out is 0, x is constant, and dx = 0."""

    @staticmethod
    def forward(ctx, x, dims, correction, keepdim):
        ctx.out = module_of(x).sqrt(Var.forward(ctx, x, dims, correction, keepdim))
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        constant = ctx.out == 0
        # d√var = dvar / (2 √var); √ is infinitely steep at 0, so a constant x gets 0 instead of inf
        return Var.backward(ctx, xp.where(constant, 0, dout / xp.where(constant, 1, 2 * ctx.out)))


def std(
    x: Tensor,
    dim: Dims | bool = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The standard deviation, √var.

    Arguments, shapes and errors as in `var`. Of a single element it is nan, unless correction is 0.
    """
    return Std.apply(x, **_options_of_var("std", x, dim, unbiased, correction), keepdim=keepdim)


def _options_of_var(op, x, dim, unbiased, correction):
    check_floating(op, x)
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    dims = normalize_dims(op, dim, x)
    return {"dims": dims, "correction": int(unbiased) if correction is None else correction}


class Prod(Function):
    """out = Π x;  dx_i = dout * (product of all x but x_i).

    That product is (x_0 ... x_(i-1)) * (x_(i+1) ... x_n), from two cumulative products. Dividing out by x_i would be
    shorter, but an x_i may be 0.
    """

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        ctx.x, ctx.dim = x, dim
        return x.prod(axis=dim, keepdims=keepdim, dtype="int64" if x.dtype.kind in "biu" else None)  # as in PyTorch

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        x = xp.moveaxis(ctx.x, ctx.dim, 0)
        dout = xp.moveaxis(restore_dims(dout, (ctx.dim,), x.ndim), ctx.dim, 0)
        one = xp.ones_like(x[:1])
        before = xp.concatenate([one, x[:-1]]).cumprod(axis=0)
        behind = xp.flip(xp.concatenate([one, xp.flip(x[1:], 0)]).cumprod(axis=0), 0)
        return (xp.moveaxis(dout * before * behind, 0, ctx.dim),)


def prod(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Π x along the axis `dim`, or of all elements.

    Shapes and dtypes as in `sum`. Raises TypeError for several axes, IndexError for one that does not exist.
    """
    x = cast(x, dtype)
    axis = normalize_dim("prod", 0 if dim is None else dim, x)
    if dim is None or x.ndim == 0:
        x = reshape(x, (-1,))
        keepdim = False
    return cast(Prod.apply(x, dim=axis, keepdim=keepdim), dtype)


# --- extremes: nan counts as larger and as smaller than any number ---


class Max(Function):
    """The largest element along an axis, and its index;  dout goes to that element, and the others get 0."""

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        return _element_and_index(ctx, x, "argmax", dim, keepdim)

    @staticmethod
    def backward(ctx, dout, dindices=None):
        xp = module_of(dout)
        n = ctx.shape[ctx.dim] if ctx.shape else 1
        places = xp.arange(n).reshape([-1 if axis == ctx.dim else 1 for axis in range(ctx.indices.ndim)])
        chosen = places == ctx.indices  # one True along dim: the shape of x, by broadcasting
        return (xp.where(chosen, dout.reshape(ctx.indices.shape), 0).reshape(ctx.shape),)


def max(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim`, the pair (values, indices) along that axis. nan is larger than any number.

    Shape (2, 3) gives () without `dim`; two tensors (2,) for dim=1, or (2, 1) with keepdim. Of several equal ones, the
    index is that of the first. Without `dim`, gradients are those of `amax`. Raises ValueError where there are no
    elements. F.maximum compares two tensors.
    """
    axis = _extreme_axis("max", x, dim)
    return amax(x) if axis is None else ValuesAndIndices(*Max.apply(x, dim=axis, keepdim=keepdim))


class Min(Max):
    """The smallest element along an axis, and its index; backward as Max's."""

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        return _element_and_index(ctx, x, "argmin", dim, keepdim)


def min(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest element; with `dim`, the pair (values, indices) along that axis. nan is smaller than any number.

    Shapes and errors as in `max`; F.minimum compares two tensors.
    """
    axis = _extreme_axis("min", x, dim)
    return amin(x) if axis is None else ValuesAndIndices(*Min.apply(x, dim=axis, keepdim=keepdim))


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the largest element along `dim`, in int64: the first of equal ones. There is no gradient.

    dim=None counts through all elements, row by row. Shapes and errors as in `max`.
    """
    return _index(Max, "argmax", x, dim, keepdim)


def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the smallest element along `dim`; as `argmax`."""
    return _index(Min, "argmin", x, dim, keepdim)


class Amax(Function):
    """out = the largest element over some axes;  dx = dout / k for each of the k elements equal to it, 0 elsewhere."""

    widens_float16 = True

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.x = x
        ctx.dims = dims
        ctx.out = x.max(axis=dims, keepdims=keepdim)
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        x = ctx.x
        xp = module_of(dout)
        dout, out = (restore_dims(array, ctx.dims, x.ndim) for array in (dout, ctx.out))  # lengths 1 along dims
        chosen = (x == out) | (x != x)  # an element that is nan is what came out
        return (xp.where(chosen, dout / chosen.sum(axis=ctx.dims, keepdims=True, dtype=dout.dtype), 0),)


def amax(x: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """The largest element over `dim`: one axis, several, or all.

    Shapes as in `sum`, errors as in `max`.
    """
    return Amax.apply(x, dims=_extreme_axes("amax", x, dim), keepdim=keepdim)


class Amin(Amax):
    """out = the smallest element over some axes; backward as Amax's."""

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.x = x
        ctx.dims = dims
        ctx.out = x.min(axis=dims, keepdims=keepdim)
        return ctx.out


def amin(x: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """The smallest element over `dim`; as `amax`."""
    return Amin.apply(x, dims=_extreme_axes("amin", x, dim), keepdim=keepdim)


def _element_and_index(ctx, x, which, dim, keepdim):
    ctx.dim = dim
    ctx.shape = x.shape
    column = x.reshape(1) if x.ndim == 0 else x
    ctx.indices = getattr(column, which)(axis=dim, keepdims=True).astype("int64", copy=False)
    values = module_of(x).take_along_axis(column, ctx.indices, dim)
    if keepdim and x.ndim:
        return values, ctx.indices
    return values.squeeze(dim), ctx.indices.squeeze(dim)


def _index(function, op, x, dim, keepdim):
    axis = _extreme_axis(op, x, dim)
    if axis is not None:
        return function.apply(x, dim=axis, keepdim=keepdim)[1]
    index = function.apply(reshape(x, (-1,)), dim=0, keepdim=False)[1]
    return reshape(index, (1,) * x.ndim) if keepdim else index


def _extreme_axis(op: str, x: Tensor, dim: Any) -> int | None:
    if hasattr(dim, "shape"):
        raise TypeError(f"{op}: dim must be an integer, got a tensor; F.{op}imum(x, y) compares two tensors")
    axes = _extreme_axes(op, x, None if dim is None else normalize_dim(op, dim, x))
    if dim is None:
        return None
    return axes[0] if axes else 0


def _extreme_axes(op: str, x: Tensor, dim: Dims) -> tuple[int, ...]:
    axes = normalize_dims(op, dim, x)
    if 0 in [x.shape[axis] for axis in axes]:
        along = "" if dim is None else f" along dim {dim}"
        raise ValueError(f"{op}: shape {x.shape} has no elements to choose from{along}")
    return axes


class ValuesAndIndices(NamedTuple):
    """The result of `max(x, dim)`, `min(x, dim)`, `sort` and `topk`."""

    values: Tensor
    indices: Tensor


class Logsumexp(Function):
    """out = m + ln Σ e^(x - m), where m = max x keeps e from overflowing;  dx = dout * e^(x - out) = dout * softmax(x).

    Where all of x is -inf (or there is no x), out is ln 0 = -inf, and the gradient is 0.
    """

    dtype_rule = "float"
    widens_float16 = True

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        xp = module_of(x)
        ctx.x, ctx.dims = x, dims
        largest = x.max(axis=dims, keepdims=True) if x.size else x.sum(axis=dims, keepdims=True)
        shift = xp.where(xp.isfinite(largest), largest, 0)  # inf - inf would be nan
        total = sum_over(xp.exp(x - shift), dims, keepdims=True)
        ctx.out = out = xp.where(total == 0, -math.inf, xp.log(xp.where(total == 0, 1, total)) + shift)
        return out if keepdim else out.squeeze(dims)

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        shift = xp.where(ctx.out == -math.inf, 0, ctx.out)  # e^(-inf - 0) is 0, e^(-inf + inf) would be nan
        return (restore_dims(dout, ctx.dims, ctx.x.ndim) * xp.exp(ctx.x - shift),)


def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """ln Σ e^x over `dim`, without overflow.

    Shapes as in `sum`; integers become float32. Raises IndexError for an axis that does not exist.
    """
    return Logsumexp.apply(x, dims=normalize_dims("logsumexp", dim, x), keepdim=keepdim)


class Cumsum(Function):
    """out_i = x_0 + ... + x_i;  dx_i = dout_i + dout_(i+1) + ..., since x_i went into every later sum."""

    @staticmethod
    def forward(ctx, x, dim):
        ctx.dim = dim
        return running_sums(x, dim)

    @staticmethod
    def backward(ctx, dout):
        if dout.ndim == 0:
            return (dout,)
        xp = module_of(dout)
        # sums from the end: turn round, add up, turn back
        return (xp.flip(running_sums(xp.flip(dout, ctx.dim), ctx.dim), ctx.dim),)


def running_sums(x: Array, dim: int) -> Array:
    """x.cumsum(dim), computed in a `wider` dtype."""
    computed, result = wider(x.dtype, x.shape[dim] if x.ndim else 1)
    return x.cumsum(axis=dim, dtype=computed).reshape(x.shape).astype(result, copy=False)  # () became (1,)


def cumsum(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums along `dim`: out_i = x_0 + ... + x_i.

    The shape stays; dtypes as in `sum`. Raises IndexError for an axis that does not exist.
    """
    x = cast(x, dtype)
    return cast(Cumsum.apply(x, dim=normalize_dim("cumsum", dim, x)), dtype)


def restore_dims(reduced: Array, dims: tuple[int, ...], ndim: int) -> Array:
    """`reduced` with the axes `dims` put back, with length 1: it then broadcasts to x."""
    return reduced if reduced.ndim == ndim else module_of(reduced).expand_dims(reduced, dims)
