"""GELU on a GPU, alone and after a linear layer: one pass over memory, and only the input is saved for backward.

    out = h Φ(h),  dh = dout * (Φ(h) + h φ(h)),  h = hidden + bias

The numbers are independent, so each thread takes a few, and neighbors in a warp take neighbors in memory. The bias of
the linear layer is added in the same pass: hidden is read once and out is written once, whereas separate `linear` and
`gelu` ops read and write everything twice. Backward computes Φ again, which is cheaper than writing and reading it. The
mathematics is in functional/activation.py. Hendrycks & Gimpel 2016.
"""

from __future__ import annotations

import numpy as np

from ...autograd import Function
from ...backend import module_of
from ...functional.linalg import as_rows
from .launch import THREADS, ceil_div, launch, supports
from .products import column_sums, multiply

SOURCE = r"""
// Φ(h) and its slope φ(h): of the normal distribution, or of GPT-2's approximation to it by a tanh.
__device__ void normal(real h, int exact, real* cdf, real* density) {
    if (exact) {
        *cdf = real(0.5) * (1 + erf(h * real(0.70710678118654752)));           // 1 / √2
        *density = real(0.39894228040143268) * exp(real(-0.5) * h * h);        // 1 / √(2π)
    } else {
        const real c0 = 0.79788456080286536, c1 = real(0.044715) * c0;         // √(2/π)
        real s = tanh(h * (c0 + c1 * h * h));
        *cdf = real(0.5) * (1 + s);
        *density = real(0.5) * (1 - s * s) * (c0 + 3 * c1 * h * h);
    }
}

// One block per row. hidden and out (rows, columns), bias (columns) unless has_bias is 0; in all `size` numbers, of
// which the last row may have fewer.
extern "C" __global__ void gelu_forward(const real* hidden, const real* bias, int has_bias, real* out,
                                        long long size, int columns, int exact) {
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        long long i = (long long)blockIdx.x * columns + c;
        if (i >= size) return;
        real cdf, density, h = hidden[i] + (has_bias ? bias[c] : real(0));
        normal(h, exact, &cdf, &density);
        out[i] = h * cdf;
    }
}

extern "C" __global__ void gelu_backward(const number* dout, const real* hidden, const real* bias, int has_bias,
                                         number* dhidden, long long size, int columns, int exact) {
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        long long i = (long long)blockIdx.x * columns + c;
        if (i >= size) return;
        real cdf, density, h = hidden[i] + (has_bias ? bias[c] : real(0));
        normal(h, exact, &cdf, &density);
        // out = h * cdf
        store(dhidden, i, load(dout, i) * (cdf + h * density));
    }
}
"""

ROW = 4 * THREADS  # numbers for a block if there is no bias, so that the length of a row does not matter


class CudaGelu(Function):
    """out = gelu(x). See functional.activation.Gelu."""

    @staticmethod
    def suits(needs_grad, x, approximate):
        return supports(x, bfloat16=False)

    @staticmethod
    def forward(ctx, x, approximate):
        xp = module_of(x)
        ctx.x, ctx.exact = xp.ascontiguousarray(x), approximate != "tanh"
        out = xp.empty_like(ctx.x)
        args = [ctx.x, ctx.x, False, out, np.int64(x.size), ROW, ctx.exact]
        launch(SOURCE, "gelu_forward", x, ceil_div(x.size, ROW), THREADS, args)
        return out.reshape(x.shape)

    @staticmethod
    def backward(ctx, dout):
        xp, shape = module_of(dout), dout.shape
        dout = xp.ascontiguousarray(dout)  # which makes one axis of none
        dx = xp.empty_like(dout)
        args = [dout, ctx.x, ctx.x, False, dx, np.int64(dx.size), ROW, ctx.exact]
        launch(SOURCE, "gelu_backward", dout, ceil_div(dout.size, ROW), THREADS, args)
        return (dx.reshape(shape),)


class CudaLinearGelu(Function):
    """out = gelu(x @ weightᵀ + bias). See functional.linalg.LinearGelu. bfloat16 products are summed in float32."""

    takes_bfloat16 = True

    @staticmethod
    def forward(ctx, x, weight, bias, approximate):
        outputs = len(weight)
        ctx.x_shape, ctx.exact = x.shape, approximate != "tanh"
        ctx.x, ctx.weight, ctx.bias = as_rows(x).astype(weight.dtype, copy=False), weight, bias
        ctx.hidden = multiply(ctx.x, weight.T)  # (N, O), without the bias
        out = module_of(x).empty_like(ctx.hidden)
        args = [ctx.hidden, *_bias_or(ctx.hidden, bias), out, np.int64(out.size), outputs, ctx.exact]
        launch(SOURCE, "gelu_forward", weight, len(out), THREADS, args)
        return out.reshape(*x.shape[:-1], outputs)  # (..., O)

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        dout = xp.ascontiguousarray(as_rows(dout).astype(ctx.weight.dtype, copy=False))  # (N, O)
        dhidden = xp.empty_like(dout)
        sizes = [np.int64(dout.size), dout.shape[-1]]
        args = [dout, ctx.hidden, *_bias_or(ctx.hidden, ctx.bias), dhidden, *sizes, ctx.exact]
        launch(SOURCE, "gelu_backward", dout, len(dout), THREADS, args)
        # hidden = x @ weight.T + bias
        dx = multiply(dhidden, ctx.weight).reshape(ctx.x_shape) if ctx.needs_grad[0] else None
        dweight = multiply(dhidden.T, ctx.x) if ctx.needs_grad[1] else None
        dbias = column_sums(dhidden) if ctx.needs_grad[2] else None
        return dx, dweight, dbias


def _bias_or(other, bias):
    """(bias, True), or (any other array, False), because CuPy cannot pass null pointers."""
    return (other, False) if bias is None else (module_of(bias).ascontiguousarray(bias), True)
