"""From many elements to few: sums, means, extremes. Backward hands each element the gradient of the result that it went into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..autograd import Function
from ..backend import module_of
from ..dtypes import is_floating
from .broadcasting import Dims, normalize_dim, normalize_dims, restore_dims

if TYPE_CHECKING:
    from ..tensor import Tensor


class Sum(Function):
    """out = Σ x;  dx = dout, repeated along the summed axes."""

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.shape, ctx.dims = x.shape, dims
        return x.sum(axis=dims, keepdims=keepdim)

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape),)


class Mean(Function):
    """out = Σ x / n;  dx = dout / n, repeated along the averaged axes."""

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        ctx.shape, ctx.dims = x.shape, dims
        ctx.n = count(x.shape, dims)
        return x.sum(axis=dims, keepdims=keepdim) / ctx.n

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).broadcast_to(restore_dims(dout / ctx.n, ctx.dims, len(ctx.shape)), ctx.shape),)


class Var(Function):
    """out = Σ (x - mean)² / (n - correction);  dx = dout * 2 (x - mean) / (n - correction).

    The mean depends on x too, but moving it changes nothing to first order: Σ (x - mean) = 0.
    """

    @staticmethod
    def forward(ctx, x, dims, correction, keepdim):
        xp = module_of(x)
        n = count(x.shape, dims)
        ctx.dims = dims
        ctx.degrees = xp.asarray(max_number(n - correction, 0), x.dtype)  # an array, so that x / 0 is inf and no exception
        ctx.centered = x - x.sum(axis=dims, keepdims=True) / xp.asarray(n, x.dtype)
        return (ctx.centered * ctx.centered).sum(axis=dims, keepdims=keepdim) / ctx.degrees

    @staticmethod
    def backward(ctx, dout):
        return (restore_dims(dout, ctx.dims, ctx.centered.ndim) * 2 * ctx.centered / ctx.degrees,)


class Max(Function):
    """out = the largest element; of the whole tensor, or along `dim` together with its index.

    With `dim`, dout goes to the element that was picked; over the whole tensor, equally to all that are as large.
    """

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        return _extreme(ctx, x, dim, keepdim, "max")

    @staticmethod
    def backward(ctx, dout, dindices=None):
        return _to_extreme(ctx, dout)


class Min(Function):
    """out = the smallest element; as Max."""

    @staticmethod
    def forward(ctx, x, dim, keepdim):
        return _extreme(ctx, x, dim, keepdim, "min")

    @staticmethod
    def backward(ctx, dout, dindices=None):
        return _to_extreme(ctx, dout)


def _extreme(ctx, x, dim, keepdim, which):
    xp = module_of(x)
    ctx.dim = dim
    if dim is None:
        ctx.x, ctx.out = x, getattr(x, which)()
        return ctx.out
    ctx.shape = x.shape
    column = x.reshape(1) if x.ndim == 0 else x
    ctx.indices = xp.expand_dims(getattr(column, "arg" + which)(axis=dim), dim)
    values = xp.take_along_axis(column, ctx.indices, axis=dim)
    if keepdim and x.ndim:
        return values, ctx.indices
    return values.squeeze(dim), ctx.indices.squeeze(dim)


def _to_extreme(ctx, dout):
    xp = module_of(dout)
    if ctx.dim is None:
        ties = (ctx.x == ctx.out) | (ctx.x != ctx.x)  # an element that is nan is what came out
        return (ties * (dout / ties.sum()),)
    dx = xp.zeros(ctx.shape or (1,), dout.dtype)
    xp.put_along_axis(dx, ctx.indices, dout.reshape(ctx.indices.shape), axis=ctx.dim)
    return (dx.reshape(ctx.shape),)


class Logsumexp(Function):
    """out = m + ln Σ e^(x - m), with m = max x, so that no exponential overflows;  dx = dout * e^(x - out) = dout * softmax(x)."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x, dims, keepdim):
        xp = module_of(x)
        largest = x.max(axis=dims, keepdims=True)
        shift = xp.where(xp.isfinite(largest), largest, 0)  # all -inf: ln 0 = -inf, not nan
        out = xp.log(xp.exp(x - shift).sum(axis=dims, keepdims=True)) + shift
        ctx.x, ctx.dims = x, dims
        ctx.out = xp.where(xp.isfinite(out), out, 0)
        return out if keepdim else out.squeeze(dims)

    @staticmethod
    def backward(ctx, dout):
        return (restore_dims(dout, ctx.dims, ctx.x.ndim) * module_of(dout).exp(ctx.x - ctx.out),)


class Cumsum(Function):
    """out_i = x_0 + ... + x_i;  dx_i = dout_i + dout_(i+1) + ..., as x_i went into every later sum."""

    @staticmethod
    def forward(ctx, x, dim):
        ctx.dim = dim
        return x.cumsum(axis=dim) if x.ndim else x + 0

    @staticmethod
    def backward(ctx, dout):
        if dout.ndim == 0:
            return (dout,)
        xp = module_of(dout)
        return (xp.flip(xp.flip(dout, ctx.dim).cumsum(axis=ctx.dim), ctx.dim),)


class ValuesAndIndices(NamedTuple):
    """What `max(x, dim)` and `min(x, dim)` return."""

    values: Tensor
    indices: Tensor


def count(shape: tuple[int, ...], dims: tuple[int, ...]) -> int:
    """How many elements go into each result of a reduction over `dims`."""
    n = 1
    for axis in dims:
        n *= shape[axis]
    return n


def max_number(a: float, b: float) -> float:
    return a if a > b else b  # the built-in has `max`'s name, which is an op here


def sum(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum over `dim` (an axis, several, or all)."""
    return Sum.apply(x, dims=normalize_dims("sum", dim, x.ndim), keepdim=keepdim)


def mean(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean over `dim`. Raises TypeError for integers, which have no exact one."""
    if not is_floating(x.dtype):
        raise TypeError(f"mean: needs floating point, got {x.dtype}; convert with .to(np.float32)")
    return Mean.apply(x, dims=normalize_dims("mean", dim, x.ndim), keepdim=keepdim)


def var(x: Tensor, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> Tensor:
    """The variance over `dim`: Σ (x - mean)² / (n - correction). correction=1 is the unbiased estimate, 0 the mean square."""
    if not is_floating(x.dtype):
        raise TypeError(f"var: needs floating point, got {x.dtype}; convert with .to(np.float32)")
    return Var.apply(x, dims=normalize_dims("var", dim, x.ndim), correction=correction, keepdim=keepdim)


def max(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim`, the pair (values, indices) along it. nan beats everything."""
    if dim is None:
        return Max.apply(x, dim=None, keepdim=False)
    return ValuesAndIndices(*Max.apply(x, dim=normalize_dim("max", dim, x.ndim), keepdim=keepdim))


def min(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest element; with `dim`, the pair (values, indices) along it. nan beats everything."""
    if dim is None:
        return Min.apply(x, dim=None, keepdim=False)
    return ValuesAndIndices(*Min.apply(x, dim=normalize_dim("min", dim, x.ndim), keepdim=keepdim))


def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """ln Σ e^x over `dim`, without overflow."""
    return Logsumexp.apply(x, dims=normalize_dims("logsumexp", dim, x.ndim), keepdim=keepdim)


def cumsum(x: Tensor, dim: int) -> Tensor:
    """Running sums along `dim`."""
    return Cumsum.apply(x, dim=normalize_dim("cumsum", dim, x.ndim))
