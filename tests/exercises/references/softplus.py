"""The reference of the assessment exercise "softplus"."""

import numpy as np

from minigrad.autograd import Function


class Softplus(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return np.logaddexp(0, x)

    @staticmethod
    def backward(ctx, dout):
        dx = dout * 0.5 * (1 + np.tanh(ctx.x / 2))
        return (dx,)
