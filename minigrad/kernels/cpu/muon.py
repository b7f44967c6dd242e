"""Muon on the CPU: the matrices side by side, and Newton-Schulz on small squares.

Idea: a step of Newton-Schulz is X <- P X, where P = a I + b G + c G² and G = X Xᵀ. So five steps give P5 P4 P3 P2 P1 X,
and the next G needs no X: it is (P X) (P X)ᵀ = P G Pᵀ = P (P G), because P is symmetric and commutes with G. For a
matrix (n, m) with n < m, only the first G and the last product read all m columns; the rest are products of (n, n).
G holds the squares of the singular values, so rounding counts more: in float32 the result is computed to within 0.01,
and in textbook form to within 0.001 (tests/minigrad/test_muon.py). Newton-Schulz itself misses 1 by up to 0.3.
"""

from __future__ import annotations

import math

import numpy as np

from ... import muon as textbook
from . import adam
from .threads import parallel


def update_all(optimizer, updates):
    """Muon.update for every (parameter, gradient, state, group), in place. AdamW's groups: adam.py."""
    adam.update_all(optimizer, [update for update in updates if not update[3]["orthogonalize"]])
    matrices = [update for update in updates if update[3]["orthogonalize"]]
    matrices.sort(key=lambda update: -update[1].size)  # the last ones are short: threads end together
    parallel(_update, matrices)


def _update(of_one):
    p, grad, state, group = of_one
    if not state:
        state["momentum_buffer"] = np.zeros_like(p.data)
    p = p.data
    m = state["momentum_buffer"]
    beta = group["momentum"]
    lr = group["lr"]
    new = (1 - beta) * grad
    m *= beta
    m += new
    new += beta * m
    direction = newton_schulz(new)
    direction *= lr * 0.2 * math.sqrt(max(p.shape))
    p *= 1 - lr * group["weight_decay"]
    p -= direction


def newton_schulz(matrix, steps=5):
    """minigrad.muon.newton_schulz by way of G, unless the matrix is almost square: then G is no smaller."""
    if 2 * max(matrix.shape) < 3 * min(matrix.shape):
        return textbook.newton_schulz(matrix, steps)
    a, b, c = textbook.COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / np.maximum(np.sqrt((x * x).sum()), 1e-7)
    gram = x @ x.T  # G_k
    total = None  # P_k ... P_1
    diagonal = np.arange(len(x))
    for step in range(1, steps + 1):
        factor = gram @ gram.T  # the transpose of a symmetric matrix: NumPy computes only half of y @ y.T
        factor *= c
        factor += b * gram
        factor[diagonal, diagonal] += a
        total = factor if total is None else factor @ total
        if step < steps:
            gram = factor @ (factor @ gram)
    x = total @ x
    return x.T if is_tall else x
