"""Matrix products: where nearly all of a transformer's arithmetic is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..autograd import Function
from ..backend import module_of
from .broadcasting import unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


class Matmul(Function):
    """out = x @ y;  dx = dout @ yᵀ,  dy = xᵀ @ dout.

    Leading axes are a batch, and broadcast. A vector counts as a row on the left and as a column on the right.
    """

    dtype_rule = "same"
    autocast = True

    @staticmethod
    def forward(ctx, x, y):  # x (..., M, K), y (..., K, N)
        ctx.x_shape, ctx.y_shape = x.shape, y.shape
        if ctx.needs_grad[0]:
            ctx.y = y
        if ctx.needs_grad[1]:
            ctx.x = x
        return x @ y  # (..., M, N)

    @staticmethod
    def backward(ctx, dout):
        if len(ctx.x_shape) == 1:
            dout = dout[..., None, :] if len(ctx.y_shape) > 1 else dout[None]
        if len(ctx.y_shape) == 1:
            dout = dout[..., :, None]
        dx = dy = None
        if ctx.needs_grad[0]:
            y = ctx.y[:, None] if ctx.y.ndim == 1 else ctx.y
            dx = dout @ y.swapaxes(-1, -2)
            dx = unbroadcast(dx, ctx.x_shape if len(ctx.x_shape) > 1 else (1, *ctx.x_shape)).reshape(ctx.x_shape)
        if ctx.needs_grad[1]:
            x = ctx.x[None, :] if ctx.x.ndim == 1 else ctx.x
            dy = x.swapaxes(-1, -2) @ dout
            dy = unbroadcast(dy, ctx.y_shape if len(ctx.y_shape) > 1 else (*ctx.y_shape, 1)).reshape(ctx.y_shape)
        return dx, dy


class Linear(Function):
    """out = x @ weightᵀ + bias;  dx = dout @ weight,  dweight = doutᵀ @ x,  dbias = Σ dout.

    All leading axes of x are rows of one matrix, so that each of the three products is a single 2-D one.
    """

    dtype_rule = "same"
    autocast = True

    @staticmethod
    def forward(ctx, x, weight, bias):  # x (..., I), weight (O, I), bias (O) or None
        ctx.x_shape = x.shape
        if ctx.needs_grad[0]:
            ctx.weight = weight
        if ctx.needs_grad[1]:
            ctx.x = x
        out = x.reshape(-1, x.shape[-1]) @ weight.T
        if bias is not None:
            out += bias
        return out.reshape(*x.shape[:-1], weight.shape[0])  # (..., O)

    @staticmethod
    def backward(ctx, dout):
        dout = dout.reshape(-1, dout.shape[-1])  # (N, O)
        dx = dweight = dbias = None
        # out = x @ weight.T + bias
        if ctx.needs_grad[0]:
            dx = (dout @ ctx.weight).reshape(ctx.x_shape)
        if ctx.needs_grad[1]:
            dweight = dout.T @ ctx.x.reshape(-1, ctx.x_shape[-1])
        if ctx.needs_grad[2]:
            dbias = dout.sum(axis=0)
        return dx, dweight, dbias


class Einsum(Function):
    """out = a sum of products written with indices, "bij,bjk->bik".

    The gradient of one operand is an einsum too: of dout and the other operands, onto that operand's indices. Two cases need a second
    step. An index that occurs in this operand only was summed, so all its places get the same gradient (repeat); an index that this
    operand names twice picked its diagonal, so only the diagonal gets any.
    """

    dtype_rule = "same"
    autocast = True

    @staticmethod
    def forward(ctx, *operands, terms, out):
        ctx.operands, ctx.terms, ctx.out = operands, terms, out
        return module_of(operands[0]).einsum(",".join(terms) + "->" + out, *operands)

    @staticmethod
    def backward(ctx, dout):
        return tuple(
            _einsum_gradient(ctx, dout, which) if ctx.needs_grad[which] else None for which in range(len(ctx.operands))
        )


def _einsum_gradient(ctx, dout, which):
    xp = module_of(dout)
    operand, term = ctx.operands[which], ctx.terms[which]
    others = [i for i in range(len(ctx.terms)) if i != which]
    unique = "".join(dict.fromkeys(term))
    sizes = dict(zip(term, operand.shape, strict=True))
    known = [c for c in unique if c in ctx.out or any(c in ctx.terms[i] for i in others)]
    inputs = ",".join([ctx.out, *(ctx.terms[i] for i in others)])
    gradient = xp.einsum(inputs + "->" + "".join(known), dout, *(ctx.operands[i] for i in others))
    gradient = gradient.reshape([sizes[c] if c in known and gradient.shape[known.index(c)] != 1 else 1 for c in unique])
    gradient = xp.broadcast_to(gradient, [sizes[c] for c in unique])
    if len(unique) == len(term):
        return gradient
    dx = xp.zeros(operand.shape, dout.dtype)
    grid = dict(zip(unique, xp.meshgrid(*(xp.arange(sizes[c]) for c in unique), indexing="ij"), strict=True))
    dx[tuple(grid[c] for c in term)] = gradient
    return dx


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """x @ y. Raises ValueError where the inner sizes differ, TypeError where the dtypes do."""
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"matmul: needs at least one dimension, got shapes {x.shape} and {y.shape}")
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ValueError(f"matmul: the inner sizes of shapes {x.shape} and {y.shape} differ")
    return Matmul.apply(x, y)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias, with x (..., I), weight (O, I), bias (O). Raises ValueError where the sizes do not fit."""
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: input of shape {x.shape} does not fit weight (out, in) of shape {weight.shape}")
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(f"linear: bias of shape {bias.shape} does not fit {weight.shape[0]} outputs")
    return Linear.apply(x, weight, bias)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Einstein's summation: each letter is an axis; those missing after "->" are summed; "..." stands for leading axes.

    Example: einsum("bthd,bshd->bhts", q, k) is every query with every key. Raises ValueError for an equation that does not fit.
    """
    terms, out = _parse(equation.replace(" ", ""), [x.ndim for x in operands])
    return Einsum.apply(*operands, terms=terms, out=out)


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _parse(equation: str, ndims: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with "..." spelled out in letters that are not in use."""
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {equation!r} is for {len(terms)} operands, got {len(ndims)}")
    spare = [c for c in _LETTERS if c not in equation]
    hidden = []
    for term, ndim in zip(terms, ndims, strict=True):
        named = len(term.replace("...", ""))
        if named > ndim or (named < ndim and "..." not in term):
            raise ValueError(f"einsum: {term!r} does not describe an operand of {ndim} dimensions")
        hidden.append(ndim - named if "..." in term else 0)
    longest = max(hidden)
    ellipsis = "".join(spare[:longest])
    full = [term.replace("...", ellipsis[longest - n :]) for term, n in zip(terms, hidden, strict=True)]
    if not arrow:  # implicit: the leading axes, then each letter that occurs once, in alphabetical order
        letters = left.replace("...", "").replace(",", "")
        return full, ellipsis + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return full, out.replace("...", ellipsis)
