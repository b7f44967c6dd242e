"""Rotary position embedding on a GPU: every pair is read once, rotated, and written once.

    (x₁, x₂)  ->  (x₁ cos - x₂ sin,  x₂ cos + x₁ sin)

The queries of a head have gaps in memory, because they are slices of longer rows (functional/attention.py). A kernel
that knows the strides reads them in place and saves a copy. The mathematics is in functional/rotary.py.
"""

from __future__ import annotations

import numpy as np

from ...autograd import Function
from ...backend import module_of
from .launch import WARP, ceil_div, launch, supports

SOURCE = r"""
// A warp for each row: x (A, B, T, 2 half), whose numbers in a row are neighbors; out the same without gaps; cosine
// and sine (angles, half), where row r has the angles r % angles. direction: 1, or -1 to turn back.
extern "C" __global__ void rotate(const number* x, const number* cosine, const number* sine, number* out, int rows_a,
                                  int rows_b, int rows_t, long long stride_a, long long stride_b, long long stride_t,
                                  long long angles, int half, int direction) {
    long long row = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32;
    if (row >= (long long)rows_a * rows_b * rows_t) return;
    long long t = row % rows_t, b = row / rows_t % rows_b, a = row / rows_t / rows_b;
    const number* from = x + a * stride_a + b * stride_b + t * stride_t;
    long long to = row * 2 * half, angle = row % angles * half;
    for (int i = threadIdx.x % 32; i < half; i += 32) {
        real c = load(cosine, angle + i), s = direction * load(sine, angle + i);
        real x1 = load(from, i), x2 = load(from, half + i);
        store(out, to + i, x1 * c - x2 * s);
        store(out, to + half + i, x2 * c + x1 * s);
    }
}
"""

ROWS = 8  # of a block: as many warps


class CudaRotaryEmbedding(Function):
    """x rotated by the angles of `cos` and `sin`. See functional.rotary.RotaryEmbedding."""

    @staticmethod
    def suits(needs_grad, x, cos, sin):
        return supports(x, cos, sin) and 2 <= x.ndim <= 4

    @staticmethod
    def forward(ctx, x, cos, sin):  # x (..., T, D), cos and sin (..., T, D/2)
        xp, half = module_of(x), (*x.shape[:-1], x.shape[-1] // 2)
        if cos.shape[-2:] != half[-2:] or cos.ndim > 2:  # not the same angles for all sequences and heads
            cos, sin = (xp.broadcast_to(angles, half) for angles in (cos, sin))
        ctx.cos, ctx.sin = xp.ascontiguousarray(cos), xp.ascontiguousarray(sin)
        return _rotated(x, ctx.cos, ctx.sin, 1)

    @staticmethod
    def backward(ctx, dout):
        return _rotated(dout, ctx.cos, ctx.sin, -1), None, None


def _rotated(x, cos, sin, direction):
    xp, shape = module_of(x), x.shape
    if x.strides[-1] != x.itemsize:
        x = xp.ascontiguousarray(x)
    x = x.reshape((1,) * (4 - x.ndim) + shape)  # (A, B, T, D)
    out = xp.empty(x.shape, x.dtype)
    strides = [np.int64(stride // x.itemsize) for stride in x.strides[:3]]
    half = shape[-1] // 2
    sizes = [*x.shape[:3], *strides, np.int64(cos.size // max(half, 1)), half, direction]
    rows = out.size // max(shape[-1], 1)
    launch(SOURCE, "rotate", x, ceil_div(rows, ROWS), ROWS * WARP, [x, cos, sin, out, *sizes], gaps=True)
    return out.reshape(shape)
