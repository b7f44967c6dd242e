"""Adam(W) and the gradient norm on the CPU.

Idea: an optimiser step is pure memory traffic, 7 numbers moved for each parameter. The textbook's eleven array expressions move about 30,
through temporary arrays. Here all parameters are cut into blocks, and everything is done to a block while it is in the cache.
With s1 = 1 - β1^t and s2 = 1 - β2^t,   lr m̂ / (√v̂ + eps) = (lr √s2 / s1) m / (√v + eps √s2).
"""

from __future__ import annotations

import math

import numpy as np

from .threads import BLOCK, parallel


def adam_step(updates):
    """Update each (p, grad, m, v, settings) in place; settings = (lr, beta1, beta2, eps, decay, step), the decay decoupled."""
    blocks = []
    for p, grad, m, v, settings in updates:
        arrays = [_flat(array) for array in (p, grad, m, v)]
        for start in range(0, p.size, BLOCK):
            blocks.append(([array[start : start + BLOCK] for array in arrays], settings))
    parallel(_update_block, blocks, uses_blas=False)


def _flat(array):
    view = array.reshape(-1)
    if array.size and not np.may_share_memory(view, array):
        raise ValueError("a parameter, its gradient and its moments must be contiguous")
    return view


def _update_block(block):
    (p, grad, m, v), (lr, beta1, beta2, eps, decay, step) = block
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    scratch = grad * (1 - beta1)
    m *= beta1
    m += scratch
    np.multiply(grad, grad, out=scratch)
    scratch *= 1 - beta2
    v *= beta2
    v += scratch
    np.sqrt(v, out=scratch)
    scratch += eps * correction2
    np.divide(m, scratch, out=scratch)
    scratch *= lr * correction2 / correction1
    if decay:
        p *= 1 - lr * decay
    p -= scratch


def sum_of_squares(arrays):
    """Σ x² over all arrays, block by block."""
    blocks = [flat[start : start + BLOCK] for flat in map(np.ravel, arrays) for start in range(0, flat.size, BLOCK)]
    return np.asarray(sum(parallel(lambda block: np.dot(block, block), blocks), 0.0), np.float32 if not blocks else blocks[0].dtype)


def scale(arrays, factor):
    """x *= factor for all arrays."""
    blocks = [flat[start : start + BLOCK] for flat in map(_flat, arrays) for start in range(0, flat.size, BLOCK)]

    def multiply(block):
        block *= factor

    parallel(multiply, blocks, uses_blas=False)
