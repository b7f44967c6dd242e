"""How much arithmetic an op does: one formula for each, for forward and for backward.

What is counted, so that the numbers can be compared:

* + - * / max exp log sqrt tanh erf of one element count 1 each: a multiply-add 2, a matrix product 2 M N K;
* moving, casting, comparing, choosing and drawing random numbers count 0;
* terms that are smaller by the length of a row (the logarithm of each row's sum) are left out;
* the count is that of the textbook formula. A kernel that computes less of it (causal attention in tiles) or more
  (recomputing the weights in backward) is given the same count, so that its GFLOP/s compare. A causal mask therefore
  halves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]


@dataclass
class Call:
    """The sizes of one call of a Function. In backward the shape of an input without gradient is not known: None."""

    inputs: list[Shape | None]
    outputs: list[Shape]
    needs_grad: list[bool]
    saved: dict[str, Any] = field(default_factory=dict)

    def shape(self, index: int) -> Shape | None:
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def out(self) -> int:
        """Elements of the first output."""
        return math.prod(self.outputs[0])

    @property
    def largest(self) -> int:
        """Elements of the largest array: an elementwise op's output, a reduction's input."""
        return max(math.prod(shape) for shape in [*self.inputs, *self.outputs] if shape is not None)


Formula: TypeAlias = Callable[[Call], int | None]  # None: a size that it needs is not known


def per_element(count: int) -> Formula:
    return lambda call: count * call.largest


def per_output(count: int) -> Formula:
    return lambda call: count * call.out


def per_operand(*counts: int) -> Formula:
    """Backward of a broadcasting op: for each input that wants it counts[i], and 1 to sum over what was broadcast."""

    def formula(call: Call) -> int:
        total = 0
        for count, shape, wanted in zip(counts, call.inputs, call.needs_grad, strict=False):
            if wanted:
                total += call.out * (count + (shape is not None and math.prod(shape) != call.out))
        return total

    return formula


def matmul(call: Call) -> int | None:
    """2 M N K: each of the M N outputs is a sum of K products."""
    x, y = call.shape(0), call.shape(1)
    inner = x[-1] if x else y[0 if len(y) == 1 else -2] if y else None
    return None if inner is None else 2 * call.out * inner


def matmul_backward(call: Call) -> int | None:
    """dx = dout yᵀ and dy = xᵀ dout are products of the same three sizes."""
    product = matmul(call)
    return None if product is None else product * sum(call.needs_grad[:2])


def linear(call: Call) -> int | None:
    """x @ weightᵀ + bias: 2 M N K + M N."""
    product = _linear_product(call)
    return None if product is None else product + call.out * _given(call, 2)


def linear_backward(call: Call) -> int | None:
    """dx = dout weight and dweight = doutᵀ x: 2 M N K each; dbias = Σ dout: M N."""
    product = _linear_product(call)
    return None if product is None else product * sum(call.needs_grad[:2]) + call.out * sum(call.needs_grad[2:3])


def _linear_product(call: Call) -> int | None:
    known = call.shape(0) or call.shape(1)
    return 2 * call.out * known[-1] if known else None


def linear_gelu(call: Call) -> int | None:
    product = linear(call)
    return None if product is None else product + 9 * call.out


def linear_gelu_backward(call: Call) -> int | None:
    product = linear_backward(call)
    return None if product is None else product + 13 * call.out


def linear_cross_entropy(call: Call) -> int | None:
    """x (N, C) @ weightᵀ (C, V), then 5 per logit."""
    x, weight = call.shape(0), call.shape(1)
    return (2 * x[-1] + 5) * math.prod(x[:-1]) * weight[0] if x and weight else None


def linear_cross_entropy_backward(call: Call) -> int | None:
    x, weight = call.shape(0), call.shape(1)
    return (2 * x[-1] * sum(call.needs_grad[:2]) + 2) * math.prod(x[:-1]) * weight[0] if x and weight else None


def einsum(call: Call) -> int | None:
    """For each combination of the indices: k - 1 products of k operands, and 1 addition if any index is summed."""
    sizes = _index_sizes(call)
    return None if sizes is None else _einsum_count(call.saved["terms"], call.saved["out"], sizes)


def einsum_backward(call: Call) -> int | None:
    """The gradient of an operand is the einsum of dout and the other operands onto its indices."""
    sizes = _index_sizes(call)
    if sizes is None:
        return None
    terms, out = call.saved["terms"], call.saved["out"]
    total = 0
    for which, wanted in enumerate(call.needs_grad):
        if wanted:
            others = [term for i, term in enumerate(terms) if i != which]
            total += _einsum_count([out, *others], terms[which], sizes)
    return total


def _index_sizes(call: Call) -> dict[str, int] | None:
    terms, out = call.saved.get("terms"), call.saved.get("out")
    if terms is None or out is None:
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip([*terms, out], [*call.inputs, call.outputs[0]], strict=True):
        for letter, size in zip(term, shape or (), strict=False):
            sizes[letter] = max(size, sizes.get(letter, 1))  # an index of size 1 broadcasts
    return sizes if all(letter in sizes for term in terms for letter in term) else None


def _einsum_count(terms: Any, out: str, sizes: dict[str, int]) -> int:
    letters = set("".join(terms))
    return math.prod(sizes[letter] for letter in letters) * (len(terms) - 1 + bool(letters - set(out)))


def attention(call: Call) -> int | None:
    """q kᵀ: 2 T S D; scale and softmax: 6 T S; weights @ v: 2 T S Dv; for each head of each sequence."""
    sizes = _attention_sizes(call)
    if sizes is None:
        return None
    scores, d, dv = sizes
    return scores * (2 * d + 6 + 2 * dv)


def attention_backward(call: Call) -> int | None:
    """dprobs = dout vᵀ and dv: 2 T S Dv each; softmax: 4 T S; dq and dk: 2 T S D each."""
    sizes = _attention_sizes(call)
    if sizes is None:
        return None
    scores, d, dv = sizes
    return scores * (2 * dv + 4 + 2 * dv * call.needs_grad[2] + 2 * d * sum(call.needs_grad[:2]))


def _attention_sizes(call: Call) -> tuple[int, int, int] | None:
    """(elements of the scores, D, Dv), with q (..., T, D), k (..., S, D), v (..., S, Dv), out (..., T, Dv)."""
    qk, kv = call.shape(0) or call.shape(1), call.shape(1) or call.shape(2)
    if qk is None or kv is None:
        return None
    return math.prod(call.outputs[0][:-1]) * kv[-2], qk[-1], call.outputs[0][-1]


def layer_norm(call: Call) -> int:
    """mean, minus, square, mean, divide: 5; times weight: 1; plus bias: 1."""
    return call.largest * (5 + _given(call, 1) + _given(call, 2))


def layer_norm_backward(call: Call) -> int:
    """dx: 7, and 1 for the weight; dweight = Σ dout x̂: 2; dbias = Σ dout: 1."""
    weighted = call.saved.get("weight", "") is not None
    return call.largest * sum(c for c, wanted in zip((7 + weighted, 2, 1), call.needs_grad, strict=False) if wanted)


def rms_norm(call: Call) -> int:
    """square, mean, divide: 3; times weight: 1."""
    return call.largest * (3 + _given(call, 1))


def rms_norm_backward(call: Call) -> int:
    """dx: 5, and 1 for the weight; dweight = Σ dout x̂: 2."""
    weighted = call.saved.get("weight", "") is not None
    return call.largest * sum(c for c, wanted in zip((5 + weighted, 2), call.needs_grad, strict=False) if wanted)


def _given(call: Call, index: int) -> bool:
    return call.shape(index) is not None


def gelu(call: Call) -> int:
    """x (1 + erf(x / √2)) / 2: 5.  tanh form, with u = √(2/π) (x + 0.044715 x x x): 9."""
    return call.largest * (5 if call.saved.get("approximate") == "none" else 9)


def gelu_backward(call: Call) -> int:
    return call.largest * (7 if call.saved.get("approximate") == "none" else 13)


def swiglu_backward(call: Call) -> int:
    """dgate = dout up σ (1 + gate (1 - σ)): 6; dup = dout gate σ: 2."""
    return call.out * sum(count for count, wanted in zip((6, 2), call.needs_grad, strict=True) if wanted)


# A number stands for so many per element of the largest array of the call.
FLOPS: dict[str, tuple[int | Formula, int | Formula]] = {
    # op                        forward            backward
    # elementwise
    "Add":                      (1,                per_operand(0, 0)),
    "Sub":                      (1,                per_operand(0, 1)),
    "Mul":                      (1,                per_operand(1, 1)),
    "Div":                      (1,                per_operand(1, 3)),
    "Pow":                      (1,                per_operand(3, 3)),
    "Maximum":                  (1,                per_operand(0, 0)),
    "Minimum":                  (1,                per_operand(0, 0)),
    "Clip":                     (2,                per_operand(0, 0, 0)),
    "Where":                    (0,                per_operand(0, 0, 0)),
    "Neg":                      (1,                1),
    "Abs":                      (1,                1),
    "Exp":                      (1,                1),
    "Log":                      (1,                1),
    "Sqrt":                     (1,                2),
    # activations
    "Relu":                     (1,                1),
    "Tanh":                     (1,                3),  # 1 - out * out, times dout
    "Sigmoid":                  (4,                3),  # 1 / (1 + e^-x): minus, exp, plus, divide
    "Logsigmoid":               (5,                5),
    "Silu":                     (5,                5),
    "Swiglu":                   (6,                swiglu_backward),
    "Erf":                      (1,                5),
    "Gelu":                     (gelu,             gelu_backward),
    "Softmax":                  (5,                4),  # max, minus, exp, sum, divide
    "LogSoftmax":               (5,                4),
    # reductions
    "Sum":                      (1,                0),
    "Mean":                     (1,                per_output(1)),
    "Var":                      (4,                3),
    "Max":                      (1,                0),
    "Min":                      (1,                0),
    "Logsumexp":                (4,                3),
    "Cumsum":                   (1,                1),
    # matrix products
    "Matmul":                   (matmul,           matmul_backward),
    "Linear":                   (linear,           linear_backward),
    "Einsum":                   (einsum,           einsum_backward),
    "ScaledDotProductAttention": (attention,       attention_backward),
    "RotaryEmbedding":          (3,                3),  # two products and a sum
    "LinearGelu":               (linear_gelu,      linear_gelu_backward),
    "LinearCrossEntropy":       (linear_cross_entropy, linear_cross_entropy_backward),
    # normalization, losses, dropout
    "LayerNorm":                (layer_norm,       layer_norm_backward),
    "RmsNorm":                  (rms_norm,         rms_norm_backward),
    "CrossEntropy":             (5,                2),  # a log-softmax; p - onehot, times dloss
    "Dropout":                  (1,                1),
    # moving elements; backward adds up where one was used more than once
    "Embedding":                (0,                per_output(1)),
    "Gather":                   (0,                per_output(1)),
    "Getitem":                  (0,                per_output(1)),
    "Expand":                   (0,                per_output(1)),
    "Reshape":                  (0,                0),
    "Permute":                  (0,                0),
    "Cat":                      (0,                0),
    "Stack":                    (0,                0),
    "Split":                    (0,                0),
    "SplitHeads":               (0,                0),
    "MergeHeads":               (0,                0),
    "Pad":                      (0,                0),
    "Flip":                     (0,                0),
    "Tril":                     (0,                0),
    "Triu":                     (0,                0),
    "To":                       (0,                0),
}  # fmt: skip


def count(op: str, phase: str, call: Call) -> int | None:
    """The FLOPs of one call of the op with that class name; None where there is no formula, or it lacks a size."""
    if op not in FLOPS:
        return None
    formula = FLOPS[op][0 if phase == "forward" else 1]
    return per_element(formula)(call) if isinstance(formula, int) else formula(call)
