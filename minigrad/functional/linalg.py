"""Matrix products: nearly all of a transformer's arithmetic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import module_of, sum_over
from ..fused import FusedFunction
from .activation import check_approximate, gelu
from .argument_checks import check_floating, check_tensor
from .broadcasting import check_broadcastable, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


class Matmul(Function):
    """out = x @ y;  dx = dout @ yᵀ,  dy = xᵀ @ dout.

    Leading axes are a batch, and broadcast. A vector counts as a row on the left and as a column on the right. Where y
    is a single matrix, the leading axes of x become rows of one matrix, so one product does the work.
    """

    dtype_rule = "same"
    widens_float16 = True
    autocast = True

    @staticmethod
    def forward(ctx, x, y):  # x (..., M, K), y (..., K, N)
        ctx.x_shape, ctx.y_shape = x.shape, y.shape
        if ctx.needs_grad[0]:  # dx needs y, and dy needs x: nothing is kept for a gradient that nobody wants
            ctx.y = y
        if ctx.needs_grad[1]:
            ctx.x = x
        if y.ndim == 2:  # one product of (rows, K) and (K, N)
            return (as_rows(x) @ y).reshape(*x.shape[:-1], y.shape[1])
        return x @ y  # (..., M, N)

    @staticmethod
    def backward(ctx, dout):  # dout (..., M, N)
        dx = dy = None
        if len(ctx.y_shape) <= 2:  # y is one matrix, or one column
            rows, columns = math.prod(ctx.x_shape[:-1]), math.prod(ctx.y_shape[1:])
            dout = dout.reshape(rows, columns)
            # dy adds up over the batch: the sum over all rows is a part of the product
            if ctx.needs_grad[0]:
                dx = (dout @ ctx.y.reshape(ctx.y_shape[0], columns).T).reshape(ctx.x_shape)
            if ctx.needs_grad[1]:
                dy = (as_rows(ctx.x).T @ dout).reshape(ctx.y_shape)
            return dx, dy
        if len(ctx.x_shape) == 1:
            dout = dout[..., None, :]  # (..., 1, N)
        # (..., M, N) @ (..., N, K) and (..., K, M) @ (..., M, N); axes that were broadcast are summed
        if ctx.needs_grad[0]:
            dx = unbroadcast(dout @ ctx.y.swapaxes(-1, -2), ctx.x_shape)
        if ctx.needs_grad[1]:
            x = ctx.x[None] if ctx.x.ndim == 1 else ctx.x
            dy = unbroadcast(x.swapaxes(-1, -2) @ dout, ctx.y_shape)
        return dx, dy


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """x @ y: (..., M, K) and (..., K, N) give (..., M, N); leading axes are broadcast.

    A vector (K) is a row on the left and a column on the right. Raises ValueError where inner sizes or leading axes do
    not fit, TypeError where the dtypes differ.
    """
    check_tensor("matmul", x, y)
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"matmul: needs at least one dimension, got shapes {x.shape} and {y.shape}; to scale, use *")
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ValueError(f"matmul: the inner sizes of shapes {x.shape} and {y.shape} differ")
    if x.ndim > 2 and y.ndim > 2 and x.shape[:-2] != y.shape[:-2]:
        check_broadcastable("matmul (leading axes)", x.shape[:-2], y.shape[:-2])
    return Matmul.apply(x, y)


class Linear(Function):
    """out = x @ weightᵀ + bias;  dx = dout @ weight,  dweight = doutᵀ @ x,  dbias = Σ dout.

    The leading axes of x become rows of one matrix, so each of the three is one product of matrices.
    """

    dtype_rule = "same"
    widens_float16 = True
    autocast = True

    @staticmethod
    def forward(ctx, x, weight, bias):  # x (..., I), weight (O, I), bias (O) or None
        ctx.x_shape = x.shape
        if ctx.needs_grad[0]:
            ctx.weight = weight
        if ctx.needs_grad[1]:
            ctx.x = x
        out = as_rows(x) @ weight.T
        if bias is not None:
            out += bias
        return out.reshape(*x.shape[:-1], weight.shape[0])  # (..., O)

    @staticmethod
    def backward(ctx, dout):
        dout = as_rows(dout)  # (N, O)
        dx = dweight = dbias = None
        # out = x @ weight.T + bias
        if ctx.needs_grad[0]:
            dx = (dout @ ctx.weight).reshape(ctx.x_shape)  # (N, O) @ (O, I)
        if ctx.needs_grad[1]:
            dweight = dout.T @ as_rows(ctx.x)  # (O, N) @ (N, I): the sum over all rows that the weight was used for
        if ctx.needs_grad[2]:
            dbias = sum_over(dout, 0)  # (O)
        return dx, dweight, dbias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias: x (..., I), weight (O, I) and bias (O) give (..., O).

    Raises ValueError where the sizes do not fit, TypeError where the dtypes differ.
    """
    check_linear("linear", x, weight, bias)
    return Linear.apply(x, weight, bias)


def check_linear(op: str, x: Any, weight: Any, bias: Any) -> None:
    check_tensor(op, x, weight, *([] if bias is None else [bias]))
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"{op}: input of shape {x.shape} does not fit a weight (out, in) of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{op}: bias of shape {bias.shape} does not fit {weight.shape[0]} outputs")


def as_rows(x):
    """x (..., C) as a matrix (N, C)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class LinearGelu(FusedFunction):
    """gelu(x @ weightᵀ + bias), as one fused op: see minigrad/fused.py. Its kernel is in kernels/cpu/linear.py."""

    dtype_rule = "same"
    widens_float16 = True

    @staticmethod
    def compose(x, weight, bias, approximate):
        return gelu(linear(x, weight, bias), approximate)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None, approximate: str = "tanh") -> Tensor:
    """gelu(x @ weightᵀ + bias): the first half of a transformer's feed-forward network.

    Shapes and errors as in `linear`. Raises ValueError for another `approximate` than "none" and "tanh".
    """
    check_linear("linear_gelu", x, weight, bias)
    check_floating("linear_gelu", x)
    check_approximate("linear_gelu", approximate)
    return LinearGelu.apply(x, weight, bias, approximate=approximate)


class Einsum(Function):
    """out = a sum of products, written with indices: "bij,bjk->bik".

    The gradient of an operand is an einsum too: of dout and the other operands, with that operand's indices as the
    result. Two cases need a second step. An index that occurs in this operand only was summed, so its gradient is
    repeated. An index that occurs twice in this operand picked its diagonal, so only the diagonal gets a gradient.
    """

    dtype_rule = "same"
    widens_float16 = True
    autocast = True

    @staticmethod
    def forward(ctx, *operands, terms, out):
        ctx.operands, ctx.terms, ctx.out = operands, terms, out
        # An index of one operand alone is summed first: "ij,jk->k" becomes "j,jk->k".
        alone = {c for c in "".join(terms) if "".join(terms).count(c) == 1 and c not in out}
        summed = [
            tuple([i for i, c in enumerate(t) if c in alone and x.dtype.kind == "f"]) for t, x in zip(terms, operands)
        ]
        sums = [sum_over(x, axes) if axes else x for x, axes in zip(operands, summed)]
        terms = ["".join([c for i, c in enumerate(t) if i not in axes]) for t, axes in zip(terms, summed)]
        return module_of(sums[0]).einsum(",".join(terms) + "->" + out, *sums, optimize=True)

    @staticmethod
    def backward(ctx, dout):
        return tuple([_einsum_gradient(ctx, dout, i) if ctx.needs_grad[i] else None for i in range(len(ctx.operands))])


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Einstein summation: each letter is an axis; letters missing after "->" are summed; "..." stands for leading axes.

    Example: einsum("bthd,bshd->bhts", q, k) is the product of every query with every key. Raises ValueError for an
    equation that does not fit, TypeError where the dtypes differ.
    """
    check_tensor("einsum", *operands)
    terms, out = _parse(equation.replace(" ", ""), [x.shape for x in operands])
    return Einsum.apply(*operands, terms=terms, out=out)


def _einsum_gradient(ctx, dout, which):
    xp = module_of(dout)
    operand, term = ctx.operands[which], ctx.terms[which]
    other_terms = [other for i, other in enumerate(ctx.terms) if i != which]
    others = [other for i, other in enumerate(ctx.operands) if i != which]
    # out = einsum("term,other->out", operand, other)
    letters = "".join(dict.fromkeys(term))
    known = [c for c in letters if c in ctx.out + "".join(other_terms)]
    gradient = xp.einsum(",".join([ctx.out, *other_terms]) + "->" + "".join(known), dout, *others, optimize=True)
    # Letters that occur nowhere else are repeated; an axis of length 1 that met a longer one is summed.
    sizes = dict(zip(term, operand.shape))
    gradient = gradient.reshape([gradient.shape[known.index(c)] if c in known else 1 for c in letters])
    gradient = unbroadcast(gradient, tuple([1 if sizes[c] == 1 else n for c, n in zip(letters, gradient.shape)]))
    gradient = xp.broadcast_to(gradient, [sizes[c] for c in letters])
    if len(letters) == len(term):
        return gradient
    # A letter twice, as in "ii->i": the gradient goes to the diagonal, whose places have equal indices on both axes.
    dx = xp.zeros(operand.shape, dout.dtype)
    places = dict(zip(letters, xp.meshgrid(*[xp.arange(sizes[c]) for c in letters], indexing="ij")))
    dx[tuple([places[c] for c in term])] = gradient
    return dx


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _parse(equation: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with "..." replaced by letters that are not in use.

    >>> _parse("...ij,jk", [(5, 2, 3), (3, 4)])
    (['aij', 'jk'], 'aik')
    """
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"einsum: {equation!r} is for {len(terms)} operands, got {len(shapes)}")
    hidden = []  # how many axes the "..." of each term stands for
    for term, shape in zip(terms, shapes):
        named = term.replace("...", "", 1)
        if not set(named) <= set(_LETTERS):
            raise ValueError(f"einsum: {term!r} is not made of letters and one '...'")
        if len(named) > len(shape) or (len(named) < len(shape) and "..." not in term):
            raise ValueError(f"einsum: {term!r} does not describe an operand of shape {shape}")
        hidden.append(len(shape) - len(named))
    ellipsis = "".join([c for c in _LETTERS if c not in equation][: max(hidden)])
    full = [term.replace("...", ellipsis[len(ellipsis) - n :]) for term, n in zip(terms, hidden)]
    if arrow:
        out = out.replace("...", ellipsis)
    else:  # the leading axes, then each letter that occurs once, in alphabetical order
        out = ellipsis + "".join(sorted([c for c in _LETTERS if left.count(c) == 1]))
    _check_letters(equation, full, out, shapes)
    return full, out


def _check_letters(equation: str, terms: list[str], out: str, shapes: list[tuple[int, ...]]) -> None:
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes):
        for letter, size in zip(term, shape):
            if sizes.setdefault(letter, size) != size and 1 not in (size, sizes[letter]):
                raise ValueError(f"einsum: {equation!r} gives one name to axes of lengths {sizes[letter]} and {size}")
            sizes[letter] = max(size, sizes[letter]) if size and sizes[letter] else 0
    if not set(out) <= set(sizes) or len(set(out)) < len(out):
        raise ValueError(f"einsum: the result of {equation!r} must name axes of the operands, each once")
