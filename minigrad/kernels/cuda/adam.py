"""Adam(W), the gradient norm and clipping on a GPU, each in one launch for all parameters (many_arrays.py).

    m <- β1 m + (1 - β1) g,   v <- β2 v + (1 - β2) g²,   p <- p - lr m̂ / (√v̂ + eps)

The formula is that of optim.Adam, applied while a number is in a register, so 7 numbers are moved per parameter.
Nothing here waits for the GPU: the norm and the factor that scales the gradients stay there.

Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import optim
from ...backend import module_of
from . import many_arrays
from .launch import THREADS, launch, real_of, supports
from .many_arrays import tables

SOURCE = (
    many_arrays.SOURCE
    + r"""
extern "C" __global__ void adam(number* const* parameters, const number* const* gradients, number* const* means,
                                number* const* squares, const long long* sizes, const int* chunks, int chunk_size,
                                long long step, real lr, real beta1, real one_minus_beta1, real log_beta1, real beta2,
                                real one_minus_beta2, real log_beta2, real eps, real decay, int decoupled) {
    Chunk chunk = chunk_of_block(sizes, chunks, chunk_size);
    number *p = parameters[chunk.array], *m = means[chunk.array], *v = squares[chunk.array];
    const number* gradient = gradients[chunk.array];
    // 1 - β^t = -(e^(t ln β) - 1): as a difference of 1 and a float it would lose half of its digits.
    real correction1 = -expm1(step * log_beta1), correction2 = sqrt(-expm1(step * log_beta2));
    for (long long i = chunk.start + threadIdx.x; i < chunk.stop; i += blockDim.x) {
        real parameter = load(p, i), g = load(gradient, i);
        if (decoupled) parameter *= 1 - lr * decay;
        else g += decay * parameter;
        real mean = beta1 * load(m, i) + one_minus_beta1 * g;
        real square = beta2 * load(v, i) + one_minus_beta2 * g * g;
        store(m, i, mean);
        store(v, i, square);
        store(p, i, parameter - lr * (mean / correction1) / (sqrt(square) / correction2 + eps));
    }
}

// sums[block] = Σ x² over the block's numbers
extern "C" __global__ void squares_of(const number* const* arrays, const long long* sizes, const int* chunks,
                                      int chunk_size, real* sums) {
    Chunk chunk = chunk_of_block(sizes, chunks, chunk_size);
    const number* array = arrays[chunk.array];
    real sum = 0;
    for (long long i = chunk.start + threadIdx.x; i < chunk.stop; i += blockDim.x) {
        real x = load(array, i);
        sum += x * x;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void scale(number* const* arrays, const long long* sizes, const int* chunks, int chunk_size,
                                 const real* factor) {
    if (*factor == 1) return;  // nothing to do is the usual case, and it costs no memory traffic
    Chunk chunk = chunk_of_block(sizes, chunks, chunk_size);
    number* array = arrays[chunk.array];
    for (long long i = chunk.start + threadIdx.x; i < chunk.stop; i += blockDim.x) {
        store(array, i, load(array, i) * *factor);
    }
}
"""
)


def update_all(optimizer, updates):
    """Adam.update or AdamW.update for every (parameter, gradient, state, group), in place.

    Arrays with another dtype, or that are not contiguous, are updated one by one.
    """
    xp = module_of(updates[0][1])
    together: dict[Any, Any] = {}
    for p, grad, state, group in updates:
        if not state:
            state.update(step=0, exp_avg=xp.zeros_like(p.data), exp_avg_sq=xp.zeros_like(p.data))
        arrays = [p.data, grad, state["exp_avg"], state["exp_avg_sq"]]
        if not (supports(*arrays) and all(array.flags.c_contiguous for array in arrays)):
            optimizer.update(p, grad, state, group)
            continue
        state["step"] += 1
        same = together.setdefault((id(group), state["step"], p.dtype), (group, state["step"], []))
        same[2].append(arrays)
    for group, step, arrays in together.values():
        beta1, beta2 = group["betas"]
        settings = [group["lr"], *_rates(beta1), *_rates(beta2), group["eps"], group["weight_decay"]]
        blocks, args = tables(*zip(*arrays, strict=True))
        args += [np.int64(step), *map(float, settings), isinstance(optimizer, optim.AdamW)]
        launch(SOURCE, "adam", arrays[0][0], blocks, THREADS, args)


def _rates(beta):
    return beta, 1 - beta, math.log(beta) if beta else -math.inf


def sum_of_squares(arrays):
    """Σ x² over all arrays, always in the same order."""
    total = 0
    for together in _by_dtype([module_of(array).ascontiguousarray(array) for array in arrays]):
        if not supports(*together):
            total = total + optim.sum_of_squares(together)
            continue
        blocks, args = tables(together)
        sums = module_of(together[0]).empty(blocks, real_of(together[0]))
        launch(SOURCE, "squares_of", together[0], blocks, THREADS, [*args, sums])
        total = total + sums.sum()
    return total


def scale(arrays, factor):
    """x *= factor, in place, for all arrays."""
    for together in _by_dtype(arrays):
        if not supports(*together) or not all(array.flags.c_contiguous for array in together):
            optim.scale(together, factor)
            continue
        blocks, args = tables(together)
        launch(SOURCE, "scale", together[0], blocks, THREADS, [*args, factor.astype(real_of(together[0]))])


def _by_dtype(arrays):
    return [[array for array in arrays if array.dtype == dtype] for dtype in {array.dtype: None for array in arrays}]
