"""Picking elements. Backward puts each gradient back where its element was picked, and adds where one was picked twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Function
from ..backend import Array, module_of, scatter_add, to_numpy
from .broadcasting import Operand, array_of, normalize_dim
from .elementwise import where

if TYPE_CHECKING:
    from ..tensor import Tensor


class Getitem(Function):
    """out = x[index];  dx = zeros, with dx[index] += dout."""

    @staticmethod
    def forward(ctx, x, index):
        ctx.shape, ctx.index = x.shape, index
        return x[index]

    @staticmethod
    def backward(ctx, dout):
        dx = module_of(dout).zeros(ctx.shape, dout.dtype)
        if _picks_once(ctx.index):
            dx[ctx.index] = dout
        else:
            scatter_add(dx, ctx.index, dout)
        return (dx,)


def _picks_once(index: Any) -> bool:
    """Slices, numbers, None and masks name each element at most once; lists and integer arrays may repeat one."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None or part is Ellipsis or isinstance(part, slice | int | np.integer) or getattr(part, "dtype", None) == bool
        for part in parts
    )


class Gather(Function):
    """out[i, j] = x[index[i, j], j] for dim 0, x[i, index[i, j]] for dim 1;  dx[index[i, j], j] += dout[i, j]."""

    @staticmethod
    def forward(ctx, x, index, dim):
        ctx.shape, ctx.where = x.shape, _full_index(index, dim)
        return x[ctx.where]

    @staticmethod
    def backward(ctx, dout):
        dx = module_of(dout).zeros(ctx.shape, dout.dtype)
        scatter_add(dx, ctx.where, dout)
        return dx, None


def _full_index(index: Array, dim: int) -> tuple[Array, ...]:
    """One index array per axis: `index` itself along `dim`, each element's own place along the others."""
    xp = module_of(index)
    own_place = xp.meshgrid(*(xp.arange(n) for n in index.shape), indexing="ij", copy=False) if index.ndim else []
    return tuple(index if axis == dim else own_place[axis] for axis in range(index.ndim))


class Embedding(Function):
    """out = weight[ids]: each id looks up its row, as a one-hot row times the matrix would.

    dweight[id] = Σ of dout over all places where id occurs. Rows that do not occur get 0, so dweight is added to what the weight has
    already where possible: tied to the output layer, a (V, C) weight then never has two dense gradients at once.
    """

    @staticmethod
    def forward(ctx, ids, weight, padding_idx=None):  # ids (...), weight (V, C)
        ctx.ids, ctx.shape, ctx.padding_idx = ids, weight.shape, padding_idx
        return weight[ids]  # (..., C)

    @staticmethod
    def backward(ctx, dout):
        dweight = ctx.gradient_so_far(1)
        if dweight is None:
            dweight = module_of(dout).zeros(ctx.shape, dout.dtype)
        if ctx.padding_idx is not None:
            dout = dout * (ctx.ids != ctx.padding_idx)[..., None]
        # out = weight[ids]
        scatter_add(dweight, ctx.ids.reshape(-1), dout.reshape(-1, ctx.shape[1]))
        return None, dweight


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index], with all that NumPy's indexing knows: numbers, slices, None, ..., masks and arrays of integers."""
    parts = tuple(array_of(part) for part in _as_tuple(index))
    return Getitem.apply(x, index=parts if isinstance(index, tuple) else parts[0])


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def gather(x: Tensor, dim: int, index: Any) -> Tensor:
    """Pick along `dim` by an integer tensor of as many dimensions: out[i][j] = x[i][index[i][j]] for dim 1.

    Raises IndexError for an index outside the axis.
    """
    axis = normalize_dim("gather", dim, x.ndim)
    array = array_of(index)
    if array.ndim != x.ndim:
        raise ValueError(f"gather: index has {array.ndim} dimensions, the tensor {x.ndim}")
    check_indices("gather", array, x.shape[axis] if x.ndim else 1, f"axis {axis}")
    return Gather.apply(x, array, dim=axis)


def masked_fill(x: Tensor, mask: Any, value: Operand) -> Tensor:
    """x with `value` where the boolean `mask` is True."""
    return where(mask, value, x)


def embedding(ids: Any, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """The rows `ids` of `weight` (V, C); the row `padding_idx` learns nothing.

    Raises IndexError for an id outside 0..V-1; TypeError for ids that are not integers.
    """
    array = array_of(ids)
    check_indices("embedding", array, weight.shape[0], "the vocabulary")
    return Embedding.apply(array, weight, padding_idx=padding_idx % weight.shape[0] if padding_idx is not None else None)


def check_indices(op: str, indices: Array, size: int, what: str) -> None:
    """Raise IndexError for an index outside 0..size-1, which NumPy would take from the end and CuPy wrap around.

    On a GPU nothing is checked, as looking would wait for it: there, ids are checked on the host, where batches are made.
    """
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices must be integers, got {indices.dtype}")
    if not isinstance(indices, np.ndarray) or indices.size == 0:
        return
    lowest, highest = indices.min(), indices.max()
    if lowest < 0 or highest >= size:
        wrong = lowest if lowest < 0 else highest
        place = tuple(int(i) for i in np.argwhere(to_numpy(indices) == wrong)[0])
        raise IndexError(f"{op}: index {wrong} at {place} is outside 0..{size - 1} of {what}")
