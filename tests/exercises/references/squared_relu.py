"""The reference of the assessment exercise "squared_relu"."""

import numpy as np

from minigrad.autograd import Function


class SquaredRelu(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.relu = np.maximum(x, 0)
        return ctx.relu * ctx.relu

    @staticmethod
    def backward(ctx, dout):
        return (dout * 2 * ctx.relu,)
