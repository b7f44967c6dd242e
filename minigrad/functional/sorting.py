"""Sorting: the elements along an axis in order, and the largest of them.

The order does not change where x changes a little. So backward only puts each gradient back where its element was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..autograd import Function
from ..backend import module_of
from .argument_checks import normalize_dim
from .indexing import getitem
from .reduction import ValuesAndIndices
from .shape import reshape

if TYPE_CHECKING:
    from ..tensor import Tensor


class Sort(Function):
    """out_i = x[index_i], in order;  dx[index_i] = dout_i: the sorting reversed."""

    @staticmethod
    def forward(ctx, x, dim, descending):
        xp = module_of(x)
        if descending:  # sort the reversed x and reverse the result: equal elements then stay in their order
            index = x.shape[dim] - 1 - xp.flip(xp.argsort(xp.flip(x, dim), axis=dim, kind="stable"), dim)
        else:
            index = xp.argsort(x, axis=dim, kind="stable")
        ctx.index, ctx.dim = index, dim
        return xp.take_along_axis(x, index, dim), index.astype("int64", copy=False)

    @staticmethod
    def backward(ctx, dout, dindex=None):
        xp = module_of(dout)
        place = xp.argsort(ctx.index, axis=ctx.dim)  # where each element of x is in out
        return (xp.take_along_axis(dout, place, ctx.dim),)


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesAndIndices:
    """x in order along `dim`, and the index in x of each element.

    Both have x's shape. nan is larger than any number. Equal elements always stay in their order, as with stable=True.
    Raises IndexError for an axis that does not exist.
    """
    axis = normalize_dim("sort", dim, x)
    values, indices = Sort.apply(x if x.ndim else reshape(x, (1,)), dim=axis, descending=descending)
    return ValuesAndIndices(reshape(values, x.shape), reshape(indices, x.shape))


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesAndIndices:
    """The k largest (or smallest) elements along `dim` in order, and their indices. Backward: dx[index] = dout, else 0.

    Shape (2, 5) gives (2, 3) for k=3. Raises ValueError for a k outside 0..(length of the axis).
    """
    axis = normalize_dim("topk", dim, x)
    length = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= length:
        raise ValueError(f"topk: k must be in 0..{length} along dim {axis} of shape {x.shape}, got {k}")
    values, indices = sort(x, axis, descending=largest)
    first = (*[slice(None)] * axis, slice(k)) if x.ndim else ()
    return ValuesAndIndices(getitem(values, first), getitem(indices, first))
