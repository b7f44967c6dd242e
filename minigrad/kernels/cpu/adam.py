"""Adam(W) and the gradient norm on the CPU.

Idea: memory traffic limits an optimizer step, which must move 7 numbers per parameter. The eleven array expressions of
the textbook form move about 30, because of temporary arrays. Here all parameters are cut into blocks, and every step of
the formula is applied to a block while it is in the cache. With s1 = 1 - β1^t and s2 = 1 - β2^t,

    lr m̂ / (√v̂ + eps) = (lr √s2 / s1) m / (√v + eps √s2)
"""

from __future__ import annotations

import math

import numpy as np

from ... import optim
from .threads import BLOCK, parallel


def update_all(optimizer, updates):
    """Adam.update or AdamW.update for every (parameter, gradient, state, group), in place."""
    blocks = []
    decoupled = isinstance(optimizer, optim.AdamW)
    for p, grad, state, group in updates:
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(p.data), exp_avg_sq=np.zeros_like(p.data))
        state["step"] += 1
        arrays = [p.data, grad, state["exp_avg"], state["exp_avg_sq"]]
        blocks += [(block, group, state["step"], decoupled) for block in _blocks(arrays)]
    parallel(_update_block, blocks, uses_blas=False)


def _blocks(arrays):
    """Arrays of one shape, cut into matching blocks. If one of them is not contiguous, they stay whole."""
    if not all(array.flags.c_contiguous for array in arrays):
        return [arrays]
    flat = [array.reshape(-1) for array in arrays]
    return [[array[start : start + BLOCK] for array in flat] for start in range(0, flat[0].size, BLOCK)]


def _update_block(block):
    (p, grad, m, v), group, step, decoupled = block
    beta1, beta2 = group["betas"]
    lr = group["lr"]
    decay = group["weight_decay"]
    correction1 = 1 - beta1**step
    correction2 = math.sqrt(1 - beta2**step)
    if decay and not decoupled:
        grad = grad + decay * p
    scratch = grad * (1 - beta1)
    m *= beta1
    m += scratch
    np.multiply(grad, grad, out=scratch)
    scratch *= 1 - beta2
    v *= beta2
    v += scratch
    np.sqrt(v, out=scratch)
    scratch += group["eps"] * correction2
    np.divide(m, scratch, out=scratch)
    scratch *= lr * correction2 / correction1
    if decay and decoupled:
        p *= 1 - lr * decay
    p -= scratch


def sum_of_squares(arrays):
    """Σ x² over all arrays, block by block."""
    return sum(parallel(optim.sum_of_squares, [block for array in arrays for block in _blocks([array])]))


def scale(arrays, factor):
    """x *= factor, in place, for all arrays."""
    if factor == 1:
        return

    def multiply(block):
        optim.scale(block, factor)

    parallel(multiply, [block for array in arrays for block in _blocks([array])], uses_blas=False)
