"""The amount of arithmetic in an op, in floating-point operations (FLOPs).

Nearly all arithmetic of a transformer is in its matrix products. These are counted exactly: 2 M N K for a product of
(M, K) and (K, N), which is one multiplication and one addition for each of the K terms of each of the M N results.
Backward needs one more product of that size for each operand that needs a gradient.

Every other op counts one operation per element of its largest array, in forward and in backward, and none if it only
moves elements. The true number is larger, up to a dozen for GELU, but the time of such an op depends on the bytes that
it moves. For the same reason biases, the softmax inside attention and the GELU of linear_gelu are not counted.

The count describes the textbook formula. A kernel that computes less (causal attention in tiles) or more (recomputing
the weights in backward) gets the same count, so their GFLOP/s can be compared. A causal mask does not halve the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]


@dataclass
class Call:
    """The sizes in one call of a Function. In backward the shape of an input without gradient is unknown: None."""

    inputs: list[Shape | None]
    outputs: list[Shape]
    needs_grad: list[bool]
    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> int:
        """Elements of the first output."""
        return math.prod(self.outputs[0])

    @property
    def largest(self) -> int:
        """Elements of the largest array: an elementwise op's output, a reduction's input."""
        return max(math.prod(shape) for shape in [*self.inputs, *self.outputs] if shape is not None)


def count(op: str, phase: str, call: Call) -> int | None:
    """The FLOPs of one call of the op with this class name in `minigrad.functional`; None if a size is unknown."""
    if op not in PRODUCTS:
        return 0 if op in MOVES else call.largest
    products = 1 if phase == "forward" else _products_in_backward(op, call.needs_grad)
    flops = PRODUCTS[op](call) if products else 0
    return None if flops is None else products * flops


def _products_in_backward(op: str, needs_grad: list[bool]) -> int:
    """The arithmetic of backward as a multiple of that of forward."""
    if op == "ScaledDotProductAttention":
        return 2  # q kᵀ and weights @ v have two operands each
    return sum(needs_grad if op == "Einsum" else needs_grad[:2])  # the third input of the others is a bias


def matmul(call: Call) -> int:
    """(..., M, K) @ (..., K, N), or vectors (K,). At least one operand needs a gradient, so its shape is known."""
    x, y = call.inputs[:2]
    if x:
        inner = x[-1]
    else:
        inner = y[-2:][0] if y else 1
    return 2 * call.out * inner


def linear(call: Call) -> int:
    """x (..., K) @ weightᵀ (K, N)"""
    known = call.inputs[0] or call.inputs[1] or (1,)
    return 2 * call.out * known[-1]


def linear_cross_entropy(call: Call) -> int | None:
    """x (N, C) @ weightᵀ (C, V)"""
    x, weight = call.inputs[:2]
    return 2 * math.prod(x) * weight[0] if x and weight else None


def attention(call: Call) -> int:
    """q (..., T, D) @ kᵀ (D, S), then weights (..., T, S) @ v (S, Dv)"""
    *batch_and_time, dv = call.outputs[0]
    keys, d = call.saved["k"].shape[-2:]
    return 2 * math.prod(batch_and_time) * keys * (d + dv)


def einsum(call: Call) -> int:
    """One multiplication and one addition for each combination of all indices."""
    sizes: dict[str, int] = {}
    for term, operand in zip(call.saved["terms"], call.saved["operands"]):
        for letter, size in zip(term, operand.shape):
            sizes[letter] = max(size, sizes.get(letter, 1))  # an index of size 1 broadcasts
    return 2 * math.prod(sizes.values())


PRODUCTS: dict[str, Callable[[Call], int | None]] = {
    "Matmul": matmul,
    "Linear": linear,
    "LinearGelu": linear,
    "LinearCrossEntropy": linear_cross_entropy,
    "ScaledDotProductAttention": attention,
    "Einsum": einsum,
}
MOVES = {
    *("Reshape", "Permute", "Expand", "Split", "SplitHeads", "MergeHeads", "To"),
    *("Cat", "Pad", "Where", "Embedding", "Gather", "Getitem", "Sort"),
}
