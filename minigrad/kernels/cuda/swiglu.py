"""SwiGLU on a GPU: silu(gate) * up in one pass, where the textbook form needs one pass per operation.

    out = gate σ up,  σ = 1 / (1 + e^-gate),   dgate = dout up σ (1 + gate (1 - σ)),   dup = dout gate σ

One kernel computes both gradients, because both need the same three inputs. The mathematics is in
functional/activation.py. Shazeer 2020.
"""

from __future__ import annotations

import numpy as np

from ...backend import module_of
from .launch import THREADS, CudaKernel, ceil_div, launch

SOURCE = r"""
// e^-gate overflows for a gate far below 0, to infinity, and 1 / infinity is the 0 that it should be.
__device__ real sigmoid(real x) { return 1 / (1 + exp(-x)); }

extern "C" __global__ void swiglu_forward(const number* gate, const number* up, number* out, long long size) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= size) return;
    real g = load(gate, i);
    store(out, i, g * sigmoid(g) * load(up, i));
}

extern "C" __global__ void swiglu_backward(const number* dout, const number* gate, const number* up, number* dgate,
                                           number* dup, long long size) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= size) return;
    real d = load(dout, i), g = load(gate, i), s = sigmoid(g);
    // out = g * s * up
    store(dgate, i, d * load(up, i) * s * (1 + g * (1 - s)));
    store(dup, i, d * g * s);
}
"""


class CudaSwiglu(CudaKernel):
    """out = silu(gate) * up. See functional.activation.Swiglu."""

    @staticmethod
    def forward(ctx, gate, up):
        xp = module_of(gate)
        ctx.gate, ctx.up = xp.ascontiguousarray(gate), xp.ascontiguousarray(up)
        out = xp.empty_like(ctx.gate)
        args = [ctx.gate, ctx.up, out, np.int64(out.size)]
        launch(SOURCE, "swiglu_forward", gate, ceil_div(out.size, THREADS), THREADS, args)
        return out.reshape(gate.shape)

    @staticmethod
    def backward(ctx, dout):
        xp, shape = module_of(dout), dout.shape
        dout = xp.ascontiguousarray(dout)
        dgate, dup = xp.empty_like(dout), xp.empty_like(dout)
        args = [dout, ctx.gate, ctx.up, dgate, dup, np.int64(dout.size)]
        launch(SOURCE, "swiglu_backward", dout, ceil_div(dout.size, THREADS), THREADS, args)
        dinputs = (dgate.reshape(shape), dup.reshape(shape))
        return tuple([dinput if ctx.needs_grad[i] else None for i, dinput in enumerate(dinputs)])
