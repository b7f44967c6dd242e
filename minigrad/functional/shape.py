"""Shape operations: the same elements in another arrangement. Backward puts the gradient back into the old one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Function
from ..backend import module_of
from .broadcasting import Dims, normalize_dim, normalize_dims, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


class Reshape(Function):
    """(2, 6) -> (3, 4): the same elements in the same order;  dx = dout in x's shape."""

    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx, dout):
        return (dout.reshape(ctx.shape),)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The elements of x in `shape`, of which one size may be -1 (whatever is left)."""
    return Reshape.apply(x, shape=_filled(x.shape, tuple(shape)))


def _filled(old: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with its -1 replaced by the size that is left."""
    size, known = math.prod(old), math.prod([n for n in shape if n != -1])
    if shape.count(-1) == 1 and known and size % known == 0:
        return tuple([size // known if n == -1 else n for n in shape])
    if -1 in shape or known != size:
        raise ValueError(f"reshape: the {size} elements of shape {old} do not fit into {shape}")
    return shape


def squeeze(x: Tensor, dim: Dims = None) -> Tensor:
    """x without its axes of length 1, or without those of `dim` that have length 1."""
    dims = range(x.ndim) if dim is None else normalize_dims("squeeze", dim, x.ndim) if dim != () else ()
    return Reshape.apply(x, shape=tuple(n for axis, n in enumerate(x.shape) if n != 1 or axis not in dims))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """x with a new axis of length 1 at `dim`."""
    axis = normalize_dim("unsqueeze", dim, x.ndim + 1)
    return Reshape.apply(x, shape=(*x.shape[:axis], 1, *x.shape[axis:]))


class Permute(Function):
    """Axes in another order;  dx = dout with the axes back in their old order."""

    @staticmethod
    def forward(ctx, x, dims):
        ctx.dims = dims
        return x.transpose(dims)

    @staticmethod
    def backward(ctx, dout):
        inverse = [ctx.dims.index(axis) for axis in range(len(ctx.dims))]
        return (dout.transpose(inverse),)


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x with its axes in the order `dims`."""
    axes = tuple(normalize_dim("permute", dim, x.ndim) for dim in dims)
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"permute: {tuple(dims)} does not name each of the {x.ndim} axes once")
    return Permute.apply(x, dims=axes)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """x with two axes exchanged."""
    dims = list(range(x.ndim))
    i, j = normalize_dim("transpose", dim0, x.ndim), normalize_dim("transpose", dim1, x.ndim)
    if dims:
        dims[i], dims[j] = dims[j], dims[i]
    return Permute.apply(x, dims=tuple(dims))


class Expand(Function):
    """Axes of length 1, or new ones in front, repeated without a copy;  dx = dout summed over the repeats."""

    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = x.shape
        return module_of(x).broadcast_to(x, shape)

    @staticmethod
    def backward(ctx, dout):
        return (unbroadcast(dout, ctx.shape),)


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x repeated to `shape` without a copy; -1 keeps an axis as it is. Raises ValueError for axes longer than 1."""
    added = len(shape) - x.ndim
    old = (1,) * added + tuple(x.shape)
    sizes = [old[axis] if size == -1 and axis >= added else size for axis, size in enumerate(shape)]
    if added < 0 or any([size < 0 or n not in (1, size) for n, size in zip(old, sizes)]):
        raise ValueError(f"expand: shape {x.shape} cannot be repeated to {tuple(shape)}")
    return Expand.apply(x, shape=sizes)


class Cat(Function):
    """Tensors one after the other along an axis;  each gets its part of dout."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, *tensors, dim):
        ctx.dim, ctx.sizes = dim, [x.shape[dim] for x in tensors]
        return module_of(tensors[0]).concatenate(tensors, axis=dim)

    @staticmethod
    def backward(ctx, dout):
        return _pieces(dout, ctx.sizes, ctx.dim)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`; their other axes must agree, but shape (0,) fits any others.

    Raises ValueError for shapes that do not fit.
    """
    shapes = [x.shape for x in tensors]
    if (0,) in shapes:
        tensors = [x for x in tensors if x.shape != (0,)] or tensors
        shapes = [x.shape for x in tensors]
    if not shapes:
        raise ValueError("cat: needs at least one tensor")
    if shapes[0] == ():
        raise ValueError("cat: tensors of no dimensions have no axis to go along; use F.stack")
    axis = normalize_dim("cat", dim, len(shapes[0]))
    _check_alike("cat", shapes, axis)
    return Cat.apply(*tensors, dim=axis)


class Stack(Function):
    """Tensors of one shape, side by side along a new axis;  each gets its slice of dout."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, *tensors, dim):
        ctx.dim = dim
        return module_of(tensors[0]).stack(tensors, axis=dim)

    @staticmethod
    def backward(ctx, dout):
        moved = module_of(dout).moveaxis(dout, ctx.dim, 0)
        return tuple(moved[i] for i in range(len(moved)))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis `dim`."""
    shapes = [x.shape for x in tensors]
    if not shapes:
        raise ValueError("stack: needs at least one tensor")
    _check_alike("stack", shapes, None)
    return Stack.apply(*tensors, dim=normalize_dim("stack", dim, len(shapes[0]) + 1))


class Split(Function):
    """The reverse of Cat: x cut into pieces along an axis;  dx = the pieces of dout, one after the other."""

    @staticmethod
    def forward(ctx, x, sizes, dim):
        ctx.dim = dim
        return _pieces(x, sizes, dim)

    @staticmethod
    def backward(ctx, *douts):
        return (module_of(douts[0]).concatenate(douts, axis=ctx.dim),)


def split(x: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """x cut along `dim` into pieces of one size (the last may be smaller), or of the sizes given."""
    if x.ndim == 0:
        raise ValueError("split: a tensor of no dimensions cannot be cut")
    axis = normalize_dim("split", dim, x.ndim)
    n = x.shape[axis]
    if isinstance(split_size_or_sections, int | np.integer):
        step = int(split_size_or_sections)
        if step < 0 or (step == 0 and n):
            raise ValueError(f"split: pieces must have a size > 0, got {step}")
        sizes = [min(step, n - start) for start in range(0, n, step or 1)] or [0]
    else:
        sizes = list(split_size_or_sections)
        if any(size < 0 for size in sizes) or sum(sizes) != n:
            raise ValueError(f"split: sizes {sizes} do not add up to the {n} of dim {axis}")
    return Split.apply(x, sizes=sizes, dim=axis)


def _pieces(x, sizes, dim):
    ends = list(itertools.accumulate(sizes))
    return tuple(module_of(x).split(x, ends[:-1], axis=dim))


class Pad(Function):
    """A margin of `value` around x (a negative width cuts off);  dx = dout without the margin."""

    @staticmethod
    def forward(ctx, x, widths, value):
        ctx.shape, ctx.widths = x.shape, widths
        return _padded(x, widths, value)

    @staticmethod
    def backward(ctx, dout):
        return (_padded(dout, [(-before, -after) for before, after in ctx.widths], 0),)


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """x with margins of `value` (0): `pad` = (before, after) of the last axis, then of the one before it, and so on.

    Negative widths cut off. Example: pad=(0, 0, 1, 2) puts 1 row before and 2 rows behind a matrix.
    """
    if mode != "constant":
        raise ValueError(f"pad: mode {mode!r} is not supported, only 'constant'")
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"pad: {len(pad)} widths for {x.ndim} axes; give (before, after) for some of the last ones")
    widths: list[Any] = [(0, 0)] * (x.ndim - len(pad) // 2)
    widths += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    if any(n + before + after < 0 for n, (before, after) in zip(x.shape, widths, strict=True)):
        raise ValueError(f"pad: {tuple(pad)} cuts more off shape {x.shape} than there is")
    return Pad.apply(x, widths=widths, value=0 if value is None else value)


def _padded(x, widths, value):
    kept = tuple([slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape, widths)])
    sizes = [before + n + after for n, (before, after) in zip(x.shape, widths)]
    inside = tuple([slice(max(before, 0), n - max(after, 0)) for n, (before, after) in zip(sizes, widths)])
    out = module_of(x).full(sizes, value, x.dtype)
    out[inside] = x[kept]
    return out


class Flip(Function):
    """x with some axes in reverse order;  dx = dout with the same axes reversed."""

    @staticmethod
    def forward(ctx, x, dims):
        ctx.dims = dims
        return module_of(x).flip(x, dims)

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).flip(dout, ctx.dims),)


def flip(x: Tensor, dims: int | Sequence[int]) -> Tensor:
    """x with the axes `dims` in reverse order."""
    return Flip.apply(x, dims=() if dims == () or dims == [] else normalize_dims("flip", dims, x.ndim))


class Tril(Function):
    """out = x on and below a diagonal, 0 above it;  dx = dout there."""

    @staticmethod
    def forward(ctx, x, diagonal):
        ctx.diagonal = diagonal
        return module_of(x).tril(x, diagonal)

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).tril(dout, ctx.diagonal),)


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes; `diagonal` > 0 keeps as many diagonals above the main one."""
    _check_matrix("tril", x)
    return Tril.apply(x, diagonal=diagonal)


class Triu(Function):
    """out = x on and above a diagonal, 0 below it;  dx = dout there."""

    @staticmethod
    def forward(ctx, x, diagonal):
        ctx.diagonal = diagonal
        return module_of(x).triu(x, diagonal)

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).triu(dout, ctx.diagonal),)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes; `diagonal` > 0 drops the main diagonal and as many as that above it."""
    _check_matrix("triu", x)
    return Triu.apply(x, diagonal=diagonal)


def _check_matrix(op: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: needs at least 2 dimensions, got shape {x.shape}")


def _check_alike(op: str, shapes: list[tuple[int, ...]], free_axis: int | None) -> None:
    """Raise ValueError unless all shapes agree on all axes but one."""
    if all([shape == shapes[0] for shape in shapes]):
        return
    if len({tuple([n for axis, n in enumerate(shape) if axis != free_axis]) for shape in shapes}) > 1:
        where = "" if free_axis is None else f" along dim {free_axis}"
        raise ValueError(f"{op}: shapes {', '.join([str(shape) for shape in shapes])} do not fit together{where}")
