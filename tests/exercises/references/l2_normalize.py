"""The reference of the assessment exercise "l2_normalize"."""

import numpy as np

from minigrad.autograd import Function


class L2Normalize(Function):
    @staticmethod
    def forward(ctx, x, eps):
        ctx.length = np.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
        ctx.out = x / ctx.length
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        dot = (dout * ctx.out).sum(axis=-1, keepdims=True)
        dx = (dout - ctx.out * dot) / ctx.length
        return (dx,)
