"""Indexing: picking elements.

Backward puts each gradient back where its element was. Where an element was picked several times, its gradients add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Function
from ..backend import Array, array_of, is_array, module_of, scatter_add
from ..dtypes import is_floating
from .argument_checks import Indices, check_boolean, check_tensor, normalize_dim, normalize_dims
from .elementwise import Where, to
from .shape import reshape

if TYPE_CHECKING:
    from ..tensor import Tensor


class Getitem(Function):
    """out = x[index];  dx = zeros, with dx[index] += dout."""

    @staticmethod
    def forward(ctx, x, index):
        ctx.shape = x.shape
        ctx.index = index
        return x[index]

    @staticmethod
    def backward(ctx, dout):
        if not _picks_once(ctx.index):
            return (scatter_add(ctx.shape, ctx.index, dout),)
        dx = module_of(dout).zeros(ctx.shape, dout.dtype)
        dx[ctx.index] = dout
        return (dx,)


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index], by NumPy's rules: numbers, slices, None, ..., masks, and tensors, arrays or lists of integers.

    Raises IndexError for an index that does not exist.

    PyTorch has the same rules, with one exception. Where a slice stands between a number and a list, NumPy puts the
    list's axis first. PyTorch takes the number first, as x[0][:, [1, 2]] does:

    >>> x = np.zeros((2, 3, 4))
    >>> getitem(x, (0, slice(None), [1, 2])).shape, getitem(getitem(x, 0), (slice(None), [1, 2])).shape
    ((2, 3), (3, 2))
    """
    index = tuple([_array_or_copy(part) for part in index]) if isinstance(index, tuple) else _array_or_copy(index)
    return Getitem.apply(x, index=index)


def _array_or_copy(index: Any) -> Any:
    """A list is copied, because it may change before backward."""
    return list(index) if isinstance(index, list) else array_of(index)


def flip(x: Tensor, dims: int | Sequence[int]) -> Tensor:
    """x with the axes `dims` in reverse order. Backward: dx = dout with the same axes reversed.

    The shape stays. Raises IndexError for an axis that does not exist.
    """
    axes = () if dims == () or dims == [] else normalize_dims("flip", dims, x)
    return Getitem.apply(x, index=tuple([slice(None, None, -1 if axis in axes else 1) for axis in range(x.ndim)]))


def index_select(x: Tensor, dim: int, index: Indices) -> Tensor:
    """The slices of x along `dim` that a vector of integers names. Backward: dx = 0, then each slice of dout is added.

    Shape (5, 3) gives (2, 3) for dim=0 and an index (2,). Raises TypeError unless the index holds integers, ValueError
    if it has more than one dimension, IndexError where it is outside the axis.
    """
    axis, index = normalize_dim("index_select", dim, x), array_of(index)
    check_indices("index_select", index, x.shape[axis] if x.ndim else 1, f"dim {axis}")
    if index.ndim > 1 or (x.ndim == 0 and index.size != 1):
        raise ValueError(f"index_select: an index of shape {index.shape} does not select from shape {x.shape}")
    return getitem(x, (*[slice(None)] * axis, index.reshape(-1)) if x.ndim else ())


_PICKS_ONCE = (int, np.integer, slice, type(None), type(Ellipsis))


def _picks_once(index):
    """True for numbers, slices and masks, which name no element twice; lists and arrays of integers may."""
    parts = index if isinstance(index, tuple) else (index,)
    return all([isinstance(part, _PICKS_ONCE) or getattr(part, "dtype", None) == "bool" for part in parts])


class Gather(Function):
    """out[i, j] = x[index[i, j], j] for dim 0, x[i, index[i, j]] for dim 1;  dx[index[i, j], j] += dout[i, j]."""

    @staticmethod
    def forward(ctx, x, index, dim):
        ctx.shape = x.shape
        ctx.places = _places(index, dim)
        return x[ctx.places]

    @staticmethod
    def backward(ctx, dout):
        # out = x[places]
        return scatter_add(ctx.shape, ctx.places, dout), None


def gather(x: Tensor, dim: int, index: Indices) -> Tensor:
    """Pick along `dim` by an integer tensor of as many dimensions: out[i][j] = x[i][index[i][j]] for dim 1.

    The result has the shape of `index`, which may be shorter than x along any axis, and longer along `dim`. Raises
    IndexError for an index outside the axis, ValueError for an index that is longer than x along another axis or has
    another number of dimensions.

    >>> log_probs = np.array([[-0.1, -2.3], [-1.6, -0.2]])  # at two places, the log-probabilities of two tokens
    >>> gather(log_probs, 1, np.array([[1], [0]])).data  # those of the tokens that came
    array([[-2.3],
           [-1.6]])
    """
    axis, index = normalize_dim("gather", dim, x), array_of(index)
    check_indices("gather", index, x.shape[axis] if x.ndim else 1, f"dim {axis}")
    if index.size == 0 and index.ndim != x.ndim:  # as PyTorch, which looks at no shape then
        return reshape(getitem(reshape(x, (-1,)), slice(0, 0)), index.shape)
    if x.ndim <= 1 and index.ndim <= 1:  # a number counts as a vector of length 1, as in PyTorch
        out = Gather.apply(x if x.ndim else reshape(x, (1,)), index.reshape(-1), dim=0)
        return out if index.ndim else reshape(out, ())
    if index.ndim != x.ndim or any([n > m and i != axis for i, (n, m) in enumerate(zip(index.shape, x.shape))]):
        raise ValueError(f"gather: index {index.shape} does not fit a tensor {x.shape} along dim {axis}")
    return Gather.apply(x, index, dim=axis)


def _places(index, dim):
    """An index array per axis: `index` itself along `dim`; 0, 1, 2, ... along the others, shaped to broadcast."""
    xp, axes = module_of(index), range(index.ndim)
    grid = [xp.arange(n).reshape([-1 if other == axis else 1 for other in axes]) for axis, n in enumerate(index.shape)]
    return tuple([index if axis == dim else grid[axis] for axis in axes])


class Embedding(Function):
    """out = weight[ids]: each id looks up its row, as a one-hot row times the matrix would.

    dweight[id] = Σ of dout over all places where id occurs; rows that do not occur get 0.
    """

    @staticmethod
    def forward(ctx, ids, weight, padding_idx=None):  # ids (...), weight (V, C)
        ctx.ids = ids
        ctx.shape = weight.shape
        ctx.padding_idx = padding_idx
        return weight[ids]  # (..., C)

    @staticmethod
    def backward(ctx, dout):
        if ctx.padding_idx is not None:
            dout = dout * (ctx.ids != ctx.padding_idx)[..., None]
        # out = weight[ids]
        return None, scatter_add(ctx.shape, ctx.ids.reshape(-1), dout.reshape(ctx.ids.size, ctx.shape[1]))


def embedding(ids: Indices, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """The rows `ids` of `weight` (V, C): ids (...) give (..., C). The row `padding_idx` learns nothing.

    Raises IndexError for an id outside 0..V-1, TypeError for ids that are not integers.

    >>> embedding(np.array([2, 0, 2]), np.array([[0.0, 0.1], [1.0, 1.1], [2.0, 2.1]])).data
    array([[2. , 2.1],
           [0. , 0.1],
           [2. , 2.1]])
    """
    ids = array_of(ids)
    check_tensor("embedding", weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight must be (vocabulary, features), got shape {weight.shape}")
    size = weight.shape[0]
    check_indices("embedding", ids, size, "the vocabulary")
    if padding_idx is not None and not -size <= padding_idx < size:
        raise IndexError(f"embedding: padding_idx {padding_idx} is outside the vocabulary of {size}")
    return Embedding.apply(ids, weight, padding_idx=None if padding_idx is None else padding_idx % size)


def one_hot(ids: Indices, num_classes: int = -1) -> Tensor:
    """Vectors of integers that are 1 at the class and 0 elsewhere: ids (...) give (..., num_classes). No gradient.

    num_classes=-1 is one more than the largest id. Raises TypeError for ids that are not integers, IndexError for an id
    outside 0..num_classes-1.

    >>> one_hot(np.array([2, 0]), 3).data
    array([[0, 0, 1],
           [1, 0, 0]])
    """
    ids = array_of(ids)
    check_integers("one_hot", ids)
    if num_classes == -1:
        if ids.size == 0:
            raise ValueError("one_hot: no ids, so nothing tells the number of classes; pass num_classes")
        num_classes = int(ids.max()) + 1
    check_indices("one_hot", ids, num_classes, f"the {num_classes} classes")
    return to(ids[..., None] == module_of(ids).arange(num_classes), dtype=np.int64)


def masked_fill(x: Tensor, mask: Tensor | Array, value: Any) -> Tensor:
    """x with `value`, a number or a tensor of one element, where the boolean `mask` is True; in x's dtype.

    Backward: dx = 0 where the mask is True, else dout; dvalue = Σ dout where it is True. x and mask are broadcast.
    Raises TypeError for a mask that is not boolean, ValueError for a value of another shape.

    >>> masked_fill(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[False, True], [False, False]]), float("-inf")).data
    array([[  1., -inf],
           [  3.,   4.]])
    """
    shape = getattr(value, "shape", ())
    if shape != ():
        raise ValueError(f"masked_fill: value must be one number, got shape {shape}; F.where takes a tensor")
    if value is None or isinstance(value, str):  # NumPy makes nan of None
        raise TypeError(f"masked_fill: value must be a number, got {value!r}")
    check_tensor("masked_fill", x)
    check_boolean("masked_fill", mask)
    if hasattr(value, "requires_grad"):
        value = value.to(x.dtype)
    elif type(value) is not float or not is_floating(x.dtype):
        value = x.dtype.type(value).item()  # 2.9 is 2 among integers
    return Where.apply(mask, value, x)


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """x on and below a diagonal of the last two axes, 0 above it. Backward: dx = dout on and below it, 0 above.

    `diagonal` > 0 keeps as many diagonals above the main one, < 0 drops as many. The shape stays. Raises ValueError for
    fewer than 2 dimensions.
    """
    return Where.apply(_on_or_below("tril", x, diagonal), x, False)  # False, as 0 would make integers of booleans


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """x on and above a diagonal of the last two axes, 0 below it. Backward: dx = dout on and above it, 0 below.

    `diagonal` > 0 drops the main diagonal and those up to it, < 0 keeps as many below. The shape stays. Raises
    ValueError for fewer than 2 dimensions.
    """
    return Where.apply(_on_or_below("triu", x, diagonal - 1), False, x)


def _on_or_below(op: str, x: Tensor, diagonal: int) -> Array:
    """A matrix of booleans: column <= row + diagonal."""
    check_tensor(op, x)
    if x.ndim < 2:
        raise ValueError(f"{op}: needs at least 2 dimensions, got shape {x.shape}")
    return module_of(array_of(x)).tri(*x.shape[-2:], diagonal, dtype=bool)


def check_integers(op: str, indices: Any) -> None:
    """Raise TypeError unless `indices` is an array of integers."""
    if not is_array(indices) or indices.dtype.kind not in "iu":
        found = indices.dtype if is_array(indices) else type(indices).__name__
        raise TypeError(f"{op}: indices must be a tensor or an array of integers, got {found}")


def check_indices(op: str, indices: Any, size: int, what: str) -> None:
    """Raise IndexError for an index outside 0..size-1. (NumPy would count a negative one from the end.)

    On a GPU nothing is checked, since the CPU would have to wait for it. There, ids are checked when batches are made.
    """
    check_integers(op, indices)
    if not isinstance(indices, np.ndarray) or indices.size == 0:
        return
    unsigned = indices.view(indices.dtype.str.replace("i", "u"))  # a negative number becomes a very large one
    if unsigned.max() >= size:
        place = tuple([int(i) for i in np.argwhere(unsigned >= size)[0]])
        raise IndexError(f"{op}: index {indices[place]} at {place} is outside 0..{size - 1} of {what}")
