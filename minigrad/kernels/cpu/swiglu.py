"""SwiGLU on the CPU, in blocks that stay in the cache.

Only the two inputs are saved. Backward computes the sigmoid again, which is faster than reading it from memory.
"""

from __future__ import annotations

import math

import numpy as np

from ...autograd import Function
from .threads import parallel, row_blocks


class FastSwiglu(Function):
    """out = gate σ(gate) up. See functional.activation.Swiglu."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.gate, ctx.up = _as_rows(gate), _as_rows(up)
        out = np.empty_like(ctx.gate)

        def activate(rows):
            np.multiply(ctx.gate[rows], _sigmoid(ctx.gate[rows]), out=out[rows])
            out[rows] *= ctx.up[rows]

        parallel(activate, row_blocks(*out.shape), uses_blas=False)
        return out.reshape(gate.shape)

    @staticmethod
    def backward(ctx, dout):
        shape = dout.shape
        dout = _as_rows(dout)
        dgate, dup = (np.empty_like(dout) if wanted else None for wanted in (ctx.needs_grad[0], ctx.needs_grad[1]))

        def chain(rows):
            gate = ctx.gate[rows]
            sigmoid = _sigmoid(ctx.gate[rows])
            # out = silu * up
            silu = gate * sigmoid
            if dup is not None:
                np.multiply(dout[rows], silu, out=dup[rows])
            # silu = gate * sigmoid, and its slope is sigmoid + silu (1 - sigmoid)
            if dgate is not None:
                slope = dgate[rows]
                np.subtract(1, sigmoid, out=slope)
                slope *= silu
                slope += sigmoid
                slope *= ctx.up[rows]
                slope *= dout[rows]

        parallel(chain, row_blocks(*dout.shape), uses_blas=False)
        return tuple(None if gradient is None else gradient.reshape(shape) for gradient in (dgate, dup))


def _as_rows(x):
    """(..., I) -> (N, I). The row of a token is never cut, because a thread is not worth waking for a few numbers."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), math.prod(x.shape[-1:]))


def _sigmoid(x):
    """1 / (1 + e^-x) of an array. Where e^-x overflows, 1 / inf = 0 is the right result."""
    with np.errstate(over="ignore"):
        e = np.exp(-x)
    e += 1
    return np.divide(1, e, out=e)
