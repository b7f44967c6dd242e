"""Layer norm and RMS norm on a GPU, forward and backward.

    out = x̂ * weight + bias,  x̂ = (x - mean) / std              RMS norm: the same without mean and bias
    dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / std,  dx̂ = dout * weight
    dweight = Σ_rows dout * x̂,  dbias = Σ_rows dout

One warp computes each row, so its sums need no barrier, only an exchange between lanes. The row is read from memory
once and later from the cache. Two numbers per row are saved for backward, mean and 1 / std, and x̂ is computed again.

The sums over rows need another layout, because they run across memory. A block takes 32 adjacent columns and a slice of
the rows, so a warp reads 32 neighbors. The results of the blocks are added at the end, always in the same order
(atomicAdd would add in the order of arrival and give other bits in every run).

The mathematics is in functional/normalization.py. Ba, Kiros & Hinton 2016; Zhang & Sennrich 2019.
"""

from __future__ import annotations

import math

import numpy as np

from ...autograd import Function
from ...backend import module_of
from .launch import WARP, ceil_div, launch, supports

SOURCE = r"""
// The row of this warp; x, out, dout and dx are (rows, columns), mean and inverse_std (rows).
__device__ long long row_of_warp() { return blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32; }

extern "C" __global__ void norm_forward(const real* x, const real* weight, const real* bias, int has_weight,
                                        int has_bias, int centered, real* out, real* mean, real* inverse_std,
                                        long long rows, int columns, real eps) {
    int lane = threadIdx.x % 32;
    long long row = row_of_warp(), first = row * columns;
    if (row >= rows) return;
    real m = 0, squares = 0;
    if (centered) {
        for (int c = lane; c < columns; c += 32) m += x[first + c];
        m = warp_sum(m) / columns;
    }
    for (int c = lane; c < columns; c += 32) {  // again, as Σx² - (Σx)² would lose the digits of a small variance
        real difference = x[first + c] - m;
        squares += difference * difference;
    }
    real scale = 1 / sqrt(warp_sum(squares) / columns + eps);
    for (int c = lane; c < columns; c += 32) {
        real scaled = (x[first + c] - m) * scale;
        if (has_weight) scaled *= weight[c];
        if (has_bias) scaled += bias[c];
        out[first + c] = scaled;
    }
    if (lane == 0) mean[row] = m, inverse_std[row] = scale;
}

extern "C" __global__ void norm_backward(const real* dout, const real* x, const real* weight, int has_weight,
                                         int centered, const real* mean, const real* inverse_std, real* dx,
                                         long long rows, int columns) {
    int lane = threadIdx.x % 32;
    long long row = row_of_warp(), first = row * columns;
    if (row >= rows) return;
    real m = mean[row], scale = inverse_std[row], sum = 0, projection = 0;
    for (int c = lane; c < columns; c += 32) {
        real dnormalized = dout[first + c] * (has_weight ? weight[c] : real(1));
        sum += dnormalized;
        projection += dnormalized * (x[first + c] - m) * scale;
    }
    sum = centered ? warp_sum(sum) / columns : real(0);
    projection = warp_sum(projection) / columns;
    for (int c = lane; c < columns; c += 32) {
        real dnormalized = dout[first + c] * (has_weight ? weight[c] : real(1));
        real normalized = (x[first + c] - m) * scale;
        dx[first + c] = (dnormalized - sum - normalized * projection) * scale;
    }
}

// Σ dout * x̂ and Σ dout over `height` rows, for 32 columns. A block is 8 warps: warp w takes rows w, w + 8, ...
// dweight and dbias are (slices of the rows, columns).
extern "C" __global__ void norm_backward_sums(const real* dout, const real* x, const real* mean,
                                              const real* inverse_std, real* dweight, real* dbias, long long rows,
                                              int columns, int height) {
    __shared__ real products[8][32], sums[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    long long start = blockIdx.y * (long long)height, stop = min(start + height, rows);
    real product = 0, sum = 0;
    for (long long row = start + warp; row < stop && c < columns; row += 8) {
        real d = dout[row * columns + c];
        product += d * (x[row * columns + c] - mean[row]) * inverse_std[row];
        sum += d;
    }
    products[warp][lane] = product, sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= columns) return;
    for (int other = 1; other < 8; other++) product += products[other][lane], sum += sums[other][lane];
    dweight[blockIdx.y * (long long)columns + c] = product;
    dbias[blockIdx.y * (long long)columns + c] = sum;
}
"""

ROWS = 8  # of a block of norm_forward and norm_backward: as many warps
HEIGHT = 128  # rows that a block of norm_backward_sums adds up, or more where there would be more than
MOST_SLICES = 4096  # of the rows: the grid must not be taller than 65,535


class CudaLayerNorm(Function):
    """out = (x - mean) / std * weight + bias over the last axes. See functional.normalization.LayerNorm."""

    @staticmethod
    def suits(needs_grad, x, weight, bias, axes, eps):
        return supports(x, weight, bias, source=SOURCE)

    @staticmethod
    def forward(ctx, x, weight, bias, axes, eps):
        return _forward(ctx, x, weight, bias, axes, eps, centered=True)

    @staticmethod
    def backward(ctx, dout):
        return _backward(ctx, dout, ctx.needs_grad[2])


class CudaRmsNorm(Function):
    """out = x / rms * weight over the last axes. See functional.normalization.RmsNorm."""

    @staticmethod
    def suits(needs_grad, x, weight, axes, eps):
        return supports(x, weight, source=SOURCE)

    @staticmethod
    def forward(ctx, x, weight, axes, eps):
        return _forward(ctx, x, weight, None, axes, eps, centered=False)

    @staticmethod
    def backward(ctx, dout):
        return _backward(ctx, dout, False)[:2]


def _forward(ctx, x, weight, bias, axes, eps, centered):
    xp = module_of(x)
    lead = x.ndim - len(axes)
    rows, columns = math.prod(x.shape[:lead]), math.prod(x.shape[lead:])
    ctx.rows = rows
    ctx.columns = columns
    ctx.centered = centered
    ctx.affine_shape = x.shape[lead:]
    ctx.x = xp.ascontiguousarray(x)
    ctx.weight = None if weight is None else xp.ascontiguousarray(weight)
    ctx.mean, ctx.inverse_std = xp.empty((2, rows), x.dtype)
    bias = None if bias is None else xp.ascontiguousarray(bias)
    out = xp.empty_like(ctx.x)
    # CuPy cannot pass null pointers. Where weight or bias is None, x is passed in its place, and not read.
    affine = [ctx.x if a is None else a for a in (ctx.weight, bias)] + [a is not None for a in (ctx.weight, bias)]
    args = [ctx.x, *affine, centered, out, ctx.mean, ctx.inverse_std, np.int64(rows), columns, float(eps)]
    launch(SOURCE, "norm_forward", x, ceil_div(rows, ROWS), ROWS * WARP, args)
    return out


def _backward(ctx, dout, wants_dbias):
    xp = module_of(dout)
    dout = xp.ascontiguousarray(dout)
    statistics = [ctx.mean, ctx.inverse_std]
    sizes = [np.int64(ctx.rows), ctx.columns]
    dx = dweight = dbias = None
    if ctx.needs_grad[0]:
        dx = xp.empty_like(dout)
        weight = [dout if ctx.weight is None else ctx.weight, ctx.weight is not None]
        args = [dout, ctx.x, *weight, ctx.centered, *statistics, dx, *sizes]
        launch(SOURCE, "norm_backward", dout, ceil_div(ctx.rows, ROWS), ROWS * WARP, args)
    if ctx.needs_grad[1] or wants_dbias:
        height = max(HEIGHT, ceil_div(ctx.rows, MOST_SLICES))
        slices = ceil_div(ctx.rows, height)
        sums = xp.empty((2, slices, ctx.columns), dout.dtype)  # of each slice of the rows
        args = [dout, ctx.x, *statistics, sums[0], sums[1], *sizes, height]
        launch(SOURCE, "norm_backward_sums", dout, (ceil_div(ctx.columns, WARP), slices), ROWS * WARP, args)
        dweight = sums[0].sum(axis=0).reshape(ctx.affine_shape) if ctx.needs_grad[1] else None
        dbias = sums[1].sum(axis=0).reshape(ctx.affine_shape) if wants_dbias else None
    return dx, dweight, dbias
