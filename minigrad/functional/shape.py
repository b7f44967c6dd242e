"""Shape operations: the same elements in another arrangement. Backward puts gradients back into the old arrangement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Function
from ..backend import module_of
from .argument_checks import Dims, check_tensor, normalize_dim, normalize_dims
from .broadcasting import unbroadcast

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
        return (dout.reshape(ctx.shape),)  # the numbers are the same, in the same order


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The elements of x in `shape`, row by row. One size may be -1: whatever is left.

    Raises ValueError for a shape with another number of elements.
    """
    check_tensor("reshape", x)
    return Reshape.apply(x, shape=_filled(x.shape, tuple(shape)))


def _filled(old: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with its -1 replaced by the size that is left."""
    size, known = math.prod(old), math.prod([n for n in shape if n != -1])
    if shape.count(-1) == 1 and known and size % known == 0:
        return tuple([size // known if n == -1 else n for n in shape])
    if -1 in shape or known != size:
        raise ValueError(f"reshape: the {size} elements of shape {old} do not fit into {shape}")
    return shape


def view(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`reshape`, under PyTorch's other name. Where x is not contiguous, PyTorch's raises an error; this one copies."""
    return reshape(x, shape)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """x with the axes from start_dim to end_dim as one. Backward: dx = dout in x's shape.

    Shape (2, 3, 4) gives (24,), or (2, 12) for start_dim=1. Raises ValueError if end_dim is before start_dim.
    """
    start, end = normalize_dim("flatten", start_dim, x), normalize_dim("flatten", end_dim, x)
    if start > end:
        raise ValueError(f"flatten: end_dim {end_dim} is before start_dim {start_dim}")
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def squeeze(x: Tensor, dim: Dims = None) -> Tensor:
    """x without its axes of length 1, or without those of `dim` that have length 1. Backward: dx = dout in x's shape.

    Shape (2, 1, 3) gives (2, 3). Raises IndexError for an axis that does not exist.
    """
    dims = () if dim == () else normalize_dims("squeeze", dim, x)
    return Reshape.apply(x, shape=tuple(n for axis, n in enumerate(x.shape) if n != 1 or axis not in dims))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """x with a new axis of length 1 at `dim`. Backward: dx = dout in x's shape.

    Shape (2, 3) gives (2, 1, 3) for dim=1. Raises IndexError for a `dim` outside -(ndim + 1)..ndim.
    """
    axis = normalize_dim("unsqueeze", dim, x, new_axes=1)
    return Reshape.apply(x, shape=(*x.shape[:axis], 1, *x.shape[axis:]))


class Permute(Function):
    """Axes in another order;  dx = dout with the axes back in their old order."""

    @staticmethod
    def forward(ctx, x, dims):
        ctx.dims = dims
        return x.transpose(dims)

    @staticmethod
    def backward(ctx, dout):
        inverse = [ctx.dims.index(axis) for axis in range(len(ctx.dims))]  # where each axis of x has gone
        return (dout.transpose(inverse),)


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x with its axes in the order `dims`.

    Shape (2, 3, 4) gives (4, 2, 3) for dims=(2, 0, 1). Raises ValueError unless `dims` names each axis once.
    """
    axes = tuple(normalize_dim("permute", dim, x) for dim in dims)
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"permute: {tuple(dims)} does not name each of the {x.ndim} axes once")
    return Permute.apply(x, dims=axes)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """x with two axes exchanged. Backward: dx = dout with the same axes exchanged.

    Shape (2, 3, 4) gives (4, 3, 2) for dim0=0, dim1=2. Raises IndexError for an axis that does not exist.
    """
    i, j = normalize_dim("transpose", dim0, x), normalize_dim("transpose", dim1, x)
    dims = list(range(x.ndim))
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
        return (unbroadcast(dout, ctx.shape),)  # the copies' gradients add up


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x repeated to `shape` without a copy; -1 keeps an axis as it is.

    Shape (3, 1) gives (2, 3, 4) for shape=(2, -1, 4). Raises ValueError for axes longer than 1.
    """
    check_tensor("expand", x)
    added = len(shape) - x.ndim
    old = (1,) * added + tuple(x.shape)
    sizes = [old[axis] if size == -1 and axis >= added else size for axis, size in enumerate(shape)]
    if added < 0 or any([size < 0 or n not in (1, size) for n, size in zip(old, sizes)]):
        raise ValueError(f"expand: shape {x.shape} cannot be repeated to {tuple(shape)}")
    return Expand.apply(x, shape=sizes)


class Cat(Function):
    """Tensors joined one after the other along an axis;  each gets its part of dout."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, *tensors, dim):
        ctx.dim = dim
        ctx.sizes = [x.shape[dim] for x in tensors]
        return module_of(tensors[0]).concatenate(tensors, axis=dim)

    @staticmethod
    def backward(ctx, dout):
        return _pieces(dout, ctx.sizes, ctx.dim)  # cut where the tensors were joined


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`.

    Shapes (2, 3) and (4, 3) give (6, 3). The other axes must agree; shape (0,) fits any others. Raises ValueError for
    shapes that do not fit.
    """
    shapes = _shapes_of("cat", tensors)
    first = next((x for x in tensors if x.shape != (0,)), tensors[0])
    if first.shape == ():
        raise ValueError("cat: tensors of no dimensions have no axis to go along; use F.stack")
    axis = normalize_dim("cat", dim, first)
    _check_alike("cat", [shape for shape in shapes if shape != (0,)] or shapes, axis)
    empty = (*first.shape[:axis], 0, *first.shape[axis + 1 :])
    return Cat.apply(*[reshape(x, empty) if x.shape == (0,) else x for x in tensors], dim=axis)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape, side by side along a new axis `dim`. Backward: each gets its slice of dout.

    Two tensors (3, 4) give (2, 3, 4), or (3, 2, 4) for dim=1. Raises ValueError if the shapes differ.
    """
    _check_alike("stack", _shapes_of("stack", tensors), None)
    axis = normalize_dim("stack", dim, tensors[0], new_axes=1)
    return cat([unsqueeze(x, axis) for x in tensors], axis)


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
    """x cut along `dim` into pieces of one size (the last may be smaller), or of the sizes given.

    Shape (5, 3) gives (2, 3), (2, 3) and (1, 3) for size 2. Raises ValueError for sizes that do not add up to the
    length of the axis.
    """
    axis = normalize_dim("split", dim, x)
    if x.ndim == 0:
        raise ValueError("split: a tensor of no dimensions cannot be cut")
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
    return tuple(Split.apply(x, sizes=sizes, dim=axis))


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """x cut along `dim` into `chunks` pieces, as equal as `split` makes them (there may be fewer).

    Shape (5, 3) gives (2, 3), (2, 3) and (1, 3) for 3 chunks. Raises ValueError if `chunks` is less than 1.
    """
    axis = normalize_dim("chunk", dim, x)
    if chunks < 1:
        raise ValueError(f"chunk: needs at least 1 chunk, got {chunks}")
    return split(x, math.ceil(x.shape[axis] / chunks) or [0] * chunks if x.ndim else 1, axis)


def _pieces(x, sizes, dim):
    ends = list(itertools.accumulate(sizes))
    return tuple(module_of(x).split(x, ends[:-1], axis=dim))


class Pad(Function):
    """A margin of `value` around x (a negative width cuts off);  dx = dout without the margin."""

    @staticmethod
    def forward(ctx, x, widths, value):
        ctx.shape = x.shape
        ctx.widths = widths
        return _padded(x, widths, value)

    @staticmethod
    def backward(ctx, dout):
        # padding by -n cuts off n numbers, and the reverse
        return (_padded(dout, [(-before, -after) for before, after in ctx.widths], 0),)


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """x with margins of `value` (0): `pad` = (before, after) of the last axis, then of the one before it, and so on.

    Negative widths cut off. Shape (3, 4) gives (6, 4) for pad=(0, 0, 1, 2), 1 row before and 2 rows behind. Raises
    ValueError for another mode, and for widths that do not fit.
    """
    check_tensor("pad", x)
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


def _shapes_of(op: str, tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """The shapes of the tensors to join. Raises TypeError for other things, ValueError where there is none."""
    check_tensor(op, *tensors)
    if len(tensors) == 0:
        raise ValueError(f"{op}: needs at least one tensor")
    return [x.shape for x in tensors]


def _check_alike(op: str, shapes: list[tuple[int, ...]], free_axis: int | None) -> None:
    """Raise ValueError unless all shapes agree on all axes but one."""
    if all([shape == shapes[0] for shape in shapes]):
        return
    if len({tuple([n for axis, n in enumerate(shape) if axis != free_axis]) for shape in shapes}) > 1:
        where = "" if free_axis is None else f" along dim {free_axis}"
        raise ValueError(f"{op}: shapes {', '.join([str(shape) for shape in shapes])} do not fit together{where}")
