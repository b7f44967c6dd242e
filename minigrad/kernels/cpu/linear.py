"""Linear, and Linear with GELU, on the CPU.

Ideas: the three products are split among the threads, the two of backward together (threads.py). The thread that has
computed some rows also does what follows, while the rows are in its cache: it adds the bias and computes GELU together
with its derivative. In terms of s = (1 + tanh u) / 2 both are cheap,

    out = h s,     out' = s + 2 out (1 - s) u',     u = h (c0 + c1 h²),  u' = c0 + 3 c1 h²
    c0 = √(2/π),   c1 = 0.044715 c0

and because out' is stored, the backward of GELU is one multiplication.
"""

from __future__ import annotations

import math

import numpy as np

from ...autograd import Function
from ...functional.error_function import erf_of_array
from ...functional.linalg import as_rows
from .threads import column_sums, matmul, parallel, product_then, products, row_blocks, total


class FastLinear(Function):
    """out = x @ weightᵀ + bias. See functional.linalg.Linear."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        def add_bias(rows):
            out[rows] += bias

        out = prepare_linear(ctx, x, weight)  # (N, O)
        if bias is None:
            matmul(as_rows(x), weight.T, out)
        else:
            product_then(as_rows(x), weight.T, out, add_bias)
        return out.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx, dout):
        return linear_backward(ctx, as_rows(dout))


def prepare_linear(ctx, x, weight):
    """An empty array (N, O), where N counts all leading axes of x. Saves what `linear_backward` needs."""
    ctx.x_shape = x.shape
    if ctx.needs_grad[0]:
        ctx.weight = weight
    if ctx.needs_grad[1]:
        ctx.x = as_rows(x)
    return np.empty((math.prod(x.shape[:-1]), weight.shape[0]), x.dtype)


def linear_backward(ctx, dout, dbias=None):
    """(dx, dweight, dbias) from dout (N, O)."""
    # out = x @ weight.T + bias
    work = []
    dx = None
    dweight = None
    if ctx.needs_grad[0]:
        dx = np.empty((len(dout), ctx.x_shape[-1]), dout.dtype)
        work.append((dout, ctx.weight, dx))
    if ctx.needs_grad[1]:
        dweight = np.empty((dout.shape[1], ctx.x_shape[-1]), dout.dtype)
        work.append((dout.T, ctx.x, dweight))
    if ctx.needs_grad[2] and dbias is None:
        ones, dbias = np.ones((1, len(dout)), dout.dtype), np.empty((1, dout.shape[1]), dout.dtype)
        work.append((ones, dout, dbias))
    products(work)
    return None if dx is None else dx.reshape(ctx.x_shape), dweight, None if dbias is None else dbias.reshape(-1)


class FastLinearGelu(Function):
    """out = gelu(x @ weightᵀ + bias). See functional.linalg.LinearGelu."""

    @staticmethod
    def forward(ctx, x, weight, bias, approximate):
        gelu = gelu_tanh if approximate == "tanh" else gelu_exact
        wants_slope = True in ctx.needs_grad

        def activate(rows):
            h = hidden[rows]
            if bias is not None:
                h += bias
            gelu(h, out[rows], slope=h if wants_slope else None)

        hidden = prepare_linear(ctx, x, weight)  # (N, O)
        out = np.empty_like(hidden) if wants_slope else hidden
        product_then(as_rows(x), weight.T, hidden, activate)
        if wants_slope:
            ctx.slope = hidden
        return out.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx, dout):
        dout = dout.reshape(ctx.slope.shape)
        dhidden = np.empty_like(ctx.slope)

        def chain(rows):
            # out = gelu(hidden), hidden = x @ weight.T + bias
            np.multiply(dout[rows], ctx.slope[rows], out=dhidden[rows])
            return column_sums(dhidden[rows]) if ctx.needs_grad[2] else None

        sums = parallel(chain, row_blocks(*dout.shape))
        dbias = total(sums, dout.shape[1:], dout.dtype) if ctx.needs_grad[2] else None
        return linear_backward(ctx, dhidden, dbias)


class FastGelu(Function):
    """out = gelu(x), whose derivative is saved for backward. See functional.activation.Gelu."""

    @staticmethod
    def forward(ctx, x, approximate):
        flat = np.ascontiguousarray(x).reshape(1, -1)
        out = np.empty_like(flat)
        ctx.slope = np.empty_like(flat) if ctx.needs_grad[0] else None
        gelu = gelu_tanh if approximate == "tanh" else gelu_exact

        def activate(columns):
            gelu(flat[:, columns], out[:, columns], None if ctx.slope is None else ctx.slope[:, columns])

        parallel(activate, row_blocks(flat.size, 1), uses_blas=False)
        return out.reshape(x.shape)

    @staticmethod
    def backward(ctx, dout):
        return (dout * ctx.slope.reshape(dout.shape),)


def gelu_tanh(h, out, slope):
    """Write gelu(h) to `out` and, unless None, its derivative to `slope`, which may be `h` itself."""
    c0 = math.sqrt(2 / math.pi)
    c1 = 0.044715 * c0
    square = h * h
    s = square * c1
    s += c0
    s *= h  # u
    np.tanh(s, out=s)
    s *= 0.5
    s += 0.5
    np.multiply(h, s, out=out)
    if slope is None:
        return
    square *= 6 * c1
    square += 2 * c0  # 2 u'
    square *= out
    np.subtract(1, s, out=slope)
    slope *= square
    slope += s


def gelu_exact(h, out, slope):
    """Like gelu_tanh, with the exact normal distribution function instead of its approximation."""
    cdf = 0.5 * (1 + erf_of_array(h / math.sqrt(2)))
    np.multiply(h, cdf, out=out)  # `out` is `h` itself only where no slope is wanted
    if slope is not None:
        density = np.exp(-0.5 * h * h) / math.sqrt(2 * math.pi)
        density *= h
        np.add(density, cdf, out=slope)
