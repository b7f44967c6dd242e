"""Where PyTorch's own samples do not look: ties, nan, infinities, masks, ignored targets, indexing; and result dtypes.

One function runs in both libraries, with `f` as torch (and torch.nn.functional) or as F; results and gradients must
agree.
"""

import itertools
import warnings

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor

pytestmark = pytest.mark.oracle("torch")

INF, NAN = np.inf, np.nan


class Torch:
    """torch under the names of F."""

    def __getattr__(self, name):
        import torch

        if name == "getitem":
            return lambda x, index: x[index]
        for module in (torch.nn.functional, torch):
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def dtype(f, name):
    """The dtype of this name in torch or in NumPy."""
    return getattr(f, name) if isinstance(f, Torch) else np.dtype(name)


def randn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def integers(high, *shape):
    return np.random.default_rng([high, *shape]).integers(0, high, shape)


def booleans(*shape):
    return np.random.default_rng(shape).random(shape) < 0.5


def causal(t, s):
    return np.tri(t, s, dtype=bool)


def complex_rotation(x, angle):
    """(x₁ + i x₂) e^(i angle), with the real and imaginary parts in the two halves of the last axis."""
    import torch

    real, imaginary = x.chunk(2, dim=-1)
    turned = torch.complex(real, imaginary) * torch.exp(1j * angle.detach())
    return torch.cat([turned.real, turned.imag], dim=-1)


A = np.array
TIES = [A([1.0, 2.0, 2.0, NAN, 0.0, -INF]), A([1.0, 3.0, 2.0, 1.0, -0.0, INF])]
POWERS = [A([0.0, 0.0, 0.0, 2.0, -2.0, -2.0, 5.0]), A([0.0, 1.0, 2.0, 0.0, 2.0, 3.0, -1.5])]
EXTREMES = A([-INF, -1e4, -800.0, -90.0, -20.0, -1.0, 0.0, 1.0, 20.0, 90.0, 800.0, 1e4])
MASKED_SCORES = A([[0.0, -INF, 1.0], [-INF, -INF, 3.0], [1e4, -1e4, 0.0]])
LOGITS = A([[2.0, -1.0, 0.5], [-INF, 0.0, 1.0], [0.1, 0.2, 0.3], [1e4, 0.0, -1e4]])
IMPOSSIBLE = A([[0.0, 1.0], [-INF, 1.0]])
PROBABILITIES = A([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]])
QKV = [randn(2, 3, 4, 5, seed=i) for i in range(3)]
CROSS = [randn(2, 3, 4, 5), randn(2, 3, 6, 5), randn(2, 3, 6, 7)]
GROUPED = [randn(2, 6, 4, 5), randn(2, 3, 4, 5), randn(2, 3, 4, 7)]  # two heads of queries to one of keys

# what it is: (inputs, of which the floating-point ones are differentiated; the function)
CASES = {
    "maximum at ties and nan": (TIES, lambda f, x, y: f.maximum(x, y)),
    "minimum at ties and nan": (TIES, lambda f, x, y: f.minimum(x, y)),
    "max of all, tied": ([A([[3.0, 1.0], [3.0, 3.0]])], lambda f, x: f.max(x)),
    "max of all, with nan": ([A([3.0, NAN, NAN])], lambda f, x: f.max(x)),
    "max along an axis, tied": ([A([[3.0, 3.0, 1.0], [NAN, 3.0, NAN]])], lambda f, x: f.max(x, 1)),
    "amax, tied": ([A([[3.0, 3.0, 1.0], [-INF, 3.0, INF]])], lambda f, x: f.amax(x, 1)),
    "amin over two axes, tied": ([A([[[1.0, 2.0]], [[1.0, 0.5]]])], lambda f, x: f.amin(x, (0, 2), True)),
    "argmax and argmin, tied": (
        [A([[3.0, 3.0, 1.0], [NAN, 1.0, 1.0]])],
        lambda f, x: (f.argmax(x), f.argmax(x, 1), f.argmin(x, -1, True), f.argmin(x, 0)),
    ),
    "prod with zeros": (
        [A([[2.0, 0.0, 3.0], [0.0, 0.0, 5.0], [1.0, -2.0, 4.0]])],
        lambda f, x: (f.prod(x), f.prod(x, 1), f.prod(x, 0, True)),
    ),
    "sort, tied": ([A([[2.0, 1.0, 2.0, NAN, 1.0]])], lambda f, x: tuple(f.sort(x, stable=True))),
    "sort downwards, tied": (
        [A([[2.0, 1.0, 2.0, NAN, 1.0]])],
        lambda f, x: tuple(f.sort(x, stable=True, dim=1, descending=True)),
    ),
    "topk of the smallest": ([randn(3, 4)], lambda f, x: tuple(f.topk(x, 2, 0, False))),
    "softplus of extremes": ([EXTREMES], lambda f, x: f.softplus(x)),
    "softplus, scaled": ([randn(9) * 5], lambda f, x: f.softplus(x, 2, 3)),
    "std of a constant": ([A([[2.0, 2.0], [1.0, 3.0]])], lambda f, x: f.std(x, 1)),
    "std of one": ([A([[1.0], [2.0]])], lambda f, x: (f.std(x, 1), f.std(x, 1, False))),
    "std of all": ([randn(3, 4)], lambda f, x: (f.std(x), f.std(x, False), f.var(x, 0, False, True))),
    "min along an axis, kept": ([randn(3, 4)], lambda f, x: f.min(x, -2, True)),
    "clip at its bounds": ([A([-2.0, -1.0, 0.0, 1.0, 2.0, NAN])], lambda f, x: f.clip(x, -1, 1)),
    "clip with bounds that cross": (
        [A([-2.0, 0.0, 2.0]), A([1.0]), A([-1.0])],
        lambda f, x, low, high: f.clip(x, low, high),
    ),
    "relu at 0 and nan": ([A([-1.0, -0.0, 0.0, 1.0, NAN, INF])], lambda f, x: f.relu(x)),
    "abs at 0 and nan": ([A([-1.0, -0.0, 0.0, 1.0, NAN, -INF])], lambda f, x: f.abs(x)),
    "sqrt at 0": ([A([0.0, 4.0])], lambda f, x: f.sqrt(x)),
    "exp": ([randn(2, 3)], lambda f, x: f.exp(x)),
    "log": ([randn(2, 3) ** 2], lambda f, x: f.log(x)),
    "tanh": ([randn(2, 3)], lambda f, x: f.tanh(x)),
    "erf": ([randn(2, 3) * 2], lambda f, x: f.erf(x)),
    "arithmetic": (
        [randn(2, 3), randn(3), randn(2, 1)],
        lambda f, x, y, z: f.div(f.sub(f.add(f.mul(x, y), z), f.neg(x)), z),
    ),
    "shapes": (
        [randn(2, 1, 3)],
        lambda f, x: f.permute(f.transpose(f.unsqueeze(f.squeeze(f.reshape(x, (3, 1, 2)), 1), 0), 1, -1), (2, 0, 1)),
    ),
    "pow of special numbers": (POWERS, lambda f, x, y: f.pow(x, y)),
    "pow 0": ([A([0.0, 1.0, -3.0, NAN])], lambda f, x: f.pow(x, 0)),
    "pow 1": ([A([0.0, 1.0, -3.0])], lambda f, x: f.pow(x, 1.0)),
    "pow 2": ([A([0.0, 1.0, -3.0])], lambda f, x: f.pow(x, 2)),
    "pow -1": ([A([0.5, -3.0])], lambda f, x: f.pow(x, -1)),
    "2 to the power": ([A([0.0, 1.0, -3.0])], lambda f, x: f.pow(2, x)),
    "0 to the power": ([A([0.0, 1.0, 3.0])], lambda f, x: f.pow(0.0, x)),
    "where, with nan where it is not looked": (
        [booleans(2, 3), A([[NAN, 1.0, 2.0]]), A([[1.0], [INF]])],
        lambda f, c, x, y: f.where(c, x, y),
    ),
    "masked_fill": ([randn(2, 3), booleans(3)], lambda f, x, mask: f.masked_fill(x, mask, -INF)),
    "masked_fill with a tensor": (
        [randn(2, 3), booleans(2, 1), A(0.5)],
        lambda f, x, mask, v: f.masked_fill(x, mask, v),
    ),
    "masked_fill of integers": ([integers(9, 2, 3), booleans(2, 3)], lambda f, x, mask: f.masked_fill(x, mask, 2.9)),
    "sigmoid of extremes": ([EXTREMES], lambda f, x: f.sigmoid(x)),
    "logsigmoid of extremes": ([EXTREMES], lambda f, x: f.logsigmoid(x)),
    "silu of extremes": ([EXTREMES[1:]], lambda f, x: f.silu(x)),
    "gelu of extremes": ([EXTREMES[1:-1]], lambda f, x: f.gelu(x)),
    "gelu tanh of extremes": ([EXTREMES[1:-1]], lambda f, x: f.gelu(x, approximate="tanh")),
    "softmax of masked scores": ([MASKED_SCORES], lambda f, x: f.softmax(x, -1)),
    "log_softmax of masked scores": ([MASKED_SCORES], lambda f, x: f.log_softmax(x, -1)),
    "softmax along the first axis": ([randn(3, 2, 4)], lambda f, x: f.softmax(x, 0)),
    "logsumexp with -inf": ([IMPOSSIBLE], lambda f, x: f.logsumexp(x, 0)),
    "logsumexp of -inf only": ([A([[-INF, -INF], [0.0, -INF]])], lambda f, x: f.logsumexp(x.detach(), 1)),
    "logsumexp of +inf": ([A([INF, 0.0])], lambda f, x: f.logsumexp(x, 0)),
    "logsumexp of nothing": ([np.zeros((2, 0))], lambda f, x: f.logsumexp(x, 1)),
    "logsumexp over two axes": ([randn(2, 3, 4)], lambda f, x: f.logsumexp(x, (0, -1), True)),
    "sum of nothing": ([np.zeros((2, 0))], lambda f, x: f.sum(x, 1)),
    "mean of nothing": ([np.zeros((2, 0))], lambda f, x: f.mean(x, 1)),
    "var of one": ([A([[1.0], [2.0]])], lambda f, x: f.var(x, 1)),
    "var with correction 3": ([randn(4, 5)], lambda f, x: f.var(x, 1, correction=3)),
    "var of a number": ([A(2.0)], lambda f, x: f.var(x, correction=0)),
    "cumsum from behind": ([randn(2, 3, 4)], lambda f, x: f.cumsum(x, -2)),
    "layer_norm over two axes": (
        [randn(2, 3, 4), randn(3, 4), randn(3, 4, seed=1)],
        lambda f, x, w, b: f.layer_norm(x, (3, 4), w, b, 1e-3),
    ),
    "layer_norm without weight": ([randn(2, 3)], lambda f, x: f.layer_norm(x, (3,))),
    "layer_norm with bias only": ([randn(2, 3), randn(3)], lambda f, x, b: f.layer_norm(x, (3,), None, b)),
    "swiglu": (
        [EXTREMES[1:], randn(11)],
        lambda f, x, y: f.silu(x) * y if isinstance(f, Torch) else f.swiglu(x, y),
    ),
    "rotary_embedding is a complex product": (
        [randn(2, 3, 4, 6), randn(4, 3)],
        lambda f, x, angle: (
            complex_rotation(x, angle)
            if isinstance(f, Torch)
            else f.rotary_embedding(x, np.cos(angle.data), np.sin(angle.data))
        ),
    ),
    "rms_norm": ([randn(2, 3), randn(3)], lambda f, x, w: f.rms_norm(x, (3,), w)),
    "linear of no rows": ([randn(0, 3), randn(2, 3), randn(2)], lambda f, x, w, b: f.linear(x, w, b)),
    "linear of no features": ([randn(4, 0), randn(2, 0), randn(2)], lambda f, x, w, b: f.linear(x, w, b)),
    "linear of a vector": ([randn(3), randn(2, 3)], lambda f, x, w: f.linear(x, w)),
    "matmul of broadcast batches": ([randn(2, 1, 3, 4), randn(5, 4, 2)], lambda f, x, y: f.matmul(x, y)),
    "matmul of vector and batch": ([randn(4), randn(5, 4, 2)], lambda f, x, y: f.matmul(x, y)),
    "matmul of batch and vector": ([randn(5, 2, 4), randn(4)], lambda f, x, y: f.matmul(x, y)),
    "matmul with no inner size": ([randn(2, 0), randn(0, 3)], lambda f, x, y: f.matmul(x, y)),
    "embedding, a row that does not learn": ([integers(5, 2, 3), randn(5, 4)], lambda f, i, w: f.embedding(i, w, 1)),
    "embedding, counted from behind": (
        [integers(5, 2, 3), randn(5, 4)],
        lambda f, i, w: f.embedding(i, w, padding_idx=-3),
    ),
    "embedding of one id": ([A(2), randn(5, 4)], lambda f, i, w: f.embedding(i, w)),
    "embedding of no ids": ([np.zeros((0, 2), int), randn(5, 4)], lambda f, i, w: f.embedding(i, w)),
    "gather with repeats": ([randn(3, 4), integers(3, 5, 2)], lambda f, x, i: f.gather(x, 0, i)),
    "gather from behind": ([randn(3, 4), integers(4, 2, 6)], lambda f, x, i: f.gather(x, -1, i)),
    "gather, shorter than x": ([randn(3, 4, 2), integers(4, 2, 6, 1)], lambda f, x, i: f.gather(x, 1, i)),
    "gather of nothing": ([randn(3, 4), np.zeros((2, 0, 5), int)], lambda f, x, i: f.gather(x, 1, i)),
    "index_select with repeats": ([randn(3, 4), A([2, 0, 2])], lambda f, x, i: f.index_select(x, 0, i)),
    "flatten in the middle": ([randn(2, 3, 4, 5)], lambda f, x: f.flatten(x, 1, -2)),
    "chunk into fewer": ([randn(2, 9)], lambda f, x: f.chunk(x, 4, 1)),
    "sums in another dtype": (
        [randn(2, 3), integers(9, 2, 3)],
        lambda f, x, i: (
            f.sum(x, dtype=dtype(f, "float32")),
            f.sum(i, 0, dtype=dtype(f, "float64")),
            f.mean(i, dtype=dtype(f, "float64")),
            f.prod(i, 0, dtype=dtype(f, "float64")),
            f.cumsum(i, 1, dtype=dtype(f, "int32")),
        ),
    ),
    "gather of a number": ([A(3.0), A(0)], lambda f, x, i: f.gather(x, 0, i)),
    "expand": (
        [randn(3, 1)],
        lambda f, x: f.broadcast_to(x, (2, 3, 4)) if isinstance(f, Torch) else f.expand(x, (2, -1, 4)),
    ),
    "split, some pieces unused": ([randn(7, 2)], lambda f, x: f.split(x, 3)[1:]),
    "pad that cuts": ([randn(3, 4)], lambda f, x: f.pad(x, (-1, 2, 1, -1), value=7.0)),
    "pad without a value": ([randn(3, 4)], lambda f, x: f.pad(x, (1, 2), "constant", None)),
    "flip": ([randn(2, 3, 4)], lambda f, x: f.flip(x, (0, -1))),
    "tril": ([randn(2, 3, 4)], lambda f, x: f.tril(x, -1)),
    "triu": ([randn(2, 3, 4)], lambda f, x: f.triu(x, 1)),
    "cat of two dtypes": ([randn(2, 3), integers(9, 1, 3)], lambda f, x, y: f.cat((x, y))),
    "cat with an empty vector": ([np.zeros(0), randn(2, 3)], lambda f, x, y: f.cat([x, y], 1)),
    "stack at the end": ([randn(2, 3), randn(2, 3, seed=1)], lambda f, x, y: f.stack([x, y], -1)),
    "one tensor in both places": ([randn(3, 3)], lambda f, x: f.matmul(x, x) + x * x + f.cat([x, x])[:3]),
    # --- losses ---
    "cross_entropy of one row": ([randn(5), A(3)], lambda f, x, y: f.cross_entropy(x, y)),
    "cross_entropy of extreme logits": (
        [LOGITS, A([0, 2, 1, 2])],
        lambda f, x, y: f.cross_entropy(x, y, reduction="none"),
    ),
    "cross_entropy of ignored rows": ([LOGITS, A([0, -100, 1, -100])], lambda f, x, y: f.cross_entropy(x, y)),
    "cross_entropy, ignored are impossible": (
        [IMPOSSIBLE, A([1, 0])],
        lambda f, x, y: f.cross_entropy(x, y, ignore_index=0),
    ),
    "cross_entropy, all ignored": ([randn(2, 3), A([-100, -100])], lambda f, x, y: f.cross_entropy(x, y)),
    "cross_entropy, all ignored, sum": (
        [randn(2, 3), A([1, 1])],
        lambda f, x, y: f.cross_entropy(x, y, None, ignore_index=1, reduction="sum"),
    ),
    "cross_entropy of no rows": ([np.zeros((0, 3)), np.zeros(0, int)], lambda f, x, y: f.cross_entropy(x, y)),
    "nll_loss of ignored rows": ([randn(4, 3), A([0, -100, 1, -100])], lambda f, x, y: f.nll_loss(x, y)),
    "nll_loss, ignored are impossible": ([IMPOSSIBLE, A([1, 0])], lambda f, x, y: f.nll_loss(x, y, ignore_index=0)),
    "nll_loss, all ignored": ([randn(2, 3), A([-100, -100])], lambda f, x, y: f.nll_loss(x, y)),
    "nll_loss of one row": (
        [randn(5), A(3), randn(5) ** 2],
        lambda f, x, y, w: f.nll_loss(x, y, w.detach(), reduction="none"),
    ),
    "kl_div": ([randn(4, 3), PROBABILITIES], lambda f, x, y: f.kl_div(x, y.detach(), reduction="batchmean")),
    "kl_div of logarithms": (
        [randn(4, 3), randn(4, 3, seed=1)],
        lambda f, x, y: f.kl_div(x, y, reduction="sum", log_target=True),
    ),
    "mse_loss": ([randn(4, 3), randn(4, 3, seed=1)], lambda f, x, y: f.mse_loss(x, y)),
    "bce of extreme logits": (
        [EXTREMES[1:], A([0.0, 1.0] * 5 + [0.5])],
        lambda f, x, y: f.binary_cross_entropy_with_logits(x, y, reduction="none"),
    ),
    "bce with weights": (
        [randn(4, 3), PROBABILITIES, randn(3) ** 2, A([1.0, 2.0, 3.0])],
        lambda f, x, y, w, p: f.binary_cross_entropy_with_logits(
            x, y, w.detach(), reduction="sum", pos_weight=p.detach()
        ),
    ),
    # --- attention ---
    "attention": (QKV, lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v)),
    "attention, causal": (QKV, lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "attention, causal, more keys": (CROSS, lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "attention, causal, fewer keys": (
        [randn(2, 6, 5), randn(2, 3, 5), randn(2, 3, 4)],
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
    ),
    "attention, rows that see nothing": (
        [*CROSS, causal(4, 6) & (np.arange(4) != 2)[:, None]],
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m),
    ),
    "attention, padding": (
        [*CROSS, booleans(2, 1, 1, 6)],
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, attn_mask=m),
    ),
    "attention, a mask that learns": (
        [*CROSS, randn(3, 1, 6)],
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m),
    ),
    "attention, -inf in the mask": (
        [*CROSS, np.where(causal(4, 6), 0, -INF)],
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m.detach()),
    ),
    "attention, grouped": (GROUPED, lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
    "attention, grouped and causal": (
        GROUPED,
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True),
    ),
    "attention, grouped, padding": (
        [*GROUPED, booleans(2, 1, 4, 4)],
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
    ),
    "attention, grouped, a mask per head that learns": (
        [*GROUPED, randn(6, 4, 4)],
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
    ),
    "attention, one key head for all": (
        [randn(2, 3, 4, 5), randn(1, 6, 5), randn(6, 7)],
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v),
    ),
}
for reduction, smoothing, weighted, ignore in itertools.product(
    ("mean", "sum", "none"), (0.0, 0.1), (False, True), (-100, 2)
):
    options = {"reduction": reduction, "label_smoothing": smoothing}
    name = f"{reduction}, smoothing {smoothing}{', weighted' if weighted else ''}"
    weight = np.array([0.5, 2.0, 0.0, 1.0])
    CASES[f"cross_entropy, {name}, ignoring {ignore}"] = (
        [randn(2, 4, 3, 2), integers(4, 2, 3, 2), weight],
        lambda f, x, y, w, o=options, use=weighted, i=ignore: f.cross_entropy(
            x, y, w.detach() if use else None, ignore_index=i, **o
        ),
    )
    CASES[f"cross_entropy of probabilities, {name}"] = (
        [randn(4, 3), PROBABILITIES, weight[:3]],
        lambda f, x, y, w, o=options, use=weighted: f.cross_entropy(x, y, w.detach() if use else None, **o),
    )
for equation, shapes in {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "ij,jk": [(2, 3), (3, 4)],
    "bthd,bshd->bhts": [(2, 3, 2, 4), (2, 5, 2, 4)],
    "ii": [(3, 3)],
    "ii->i": [(3, 3)],
    "iij->ji": [(3, 3, 2)],
    "ij->": [(2, 3)],
    "ij->j": [(2, 3)],
    "ij,ij->ij": [(2, 3), (2, 3)],
    "ii,ij->j": [(3, 3), (3, 2)],
    "i,j,k->kij": [(2,), (3,), (4,)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 2)],
    "...ij,...jk->...ik": [(2, 1, 3, 4), (5, 4, 2)],
    "...,...": [(2, 3), (3,)],
    "b...->...": [(2, 3, 4)],
    "ij,jk->ik ": [(2, 1), (3, 4)],
    "ab,b->a": [(2, 3), (1,)],
    "iij,j->": [(2, 2, 3), (1,)],
    "ij,jk->k": [(0, 3), (3, 4)],
    ",i->i": [(), (3,)],
    "Ba,aB->aB": [(2, 3), (3, 2)],
}.items():
    operands = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    CASES[f"einsum {equation!r} {shapes}"] = (operands, lambda f, *xs, e=equation: f.einsum(e, *xs))
for name, index in {
    "a number": 1,
    "from behind": (-1, -2),
    "slices": (slice(1, 3), slice(None, None, 2)),
    "an empty slice": slice(2, 2),
    "ellipsis": (..., 0),
    "new axes": (None, slice(0, 1), None, ...),
    "nothing": (),
    "a list": [2, 0, 0],
    "two lists": ([0, 1, 1], [2, 2, 2]),
    "a nested list": ([[0, 1], [1, 1]],),
    "lists apart": ([0, 1, 1], slice(None), [2, 0, 2]),
    "tuples": (((0, 0), (1, 1)),),
    "lists that broadcast": (slice(None), [[0], [1]], [[1, 1, 0]]),
    "an empty list": ([],),
    "a list of booleans": ([True, False, True, False],),
    "a number beside a list": (slice(None), 1, [0, 0]),
    "True": True,
}.items():
    CASES[f"getitem {name}"] = ([randn(4, 3, 5)], lambda f, x, index=index: f.getitem(x, index))
for name, index in {
    "a tensor": integers(4, 2, 2),
    "a number in a tensor": A(2),
    "negative numbers": A([-1, 3, -4]),
    "a mask": booleans(4),
    "a mask of two axes": booleans(4, 3),
    "int32": A([1, 1], np.int32),
}.items():
    CASES[f"getitem {name}"] = ([randn(4, 3, 5), index], lambda f, x, i: f.getitem(x, i))
    CASES[f"getitem {name} behind a slice"] = ([randn(2, 4, 3), index], lambda f, x, i: f.getitem(x, (slice(None), i)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_case(name, dtype):
    import torch

    inputs, function = CASES[name]
    inputs = [x.astype(dtype) if x.dtype == np.float64 else x for x in inputs]
    theirs = [torch.tensor(x, requires_grad=x.dtype == dtype) for x in inputs]
    ours = [Tensor(x.copy(), requires_grad=x.dtype == dtype) for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = as_tuple(function(Torch(), *theirs))
    with np.errstate(all="ignore"):
        got = as_tuple(function(F, *ours))
        assert len(got) == len(expected)
        for e, g in zip(expected, got):
            assert_equal(g.numpy(), e.detach().numpy())
            if e.requires_grad:
                seed = seed_of(e).astype(dtype)
                e.backward(torch.tensor(seed), retain_graph=True)
                g.backward(seed, retain_graph=True)
    for e, g, x in zip(theirs, ours, inputs):
        if e.requires_grad and (e.grad is not None or g.grad is not None):
            zeros = np.zeros_like(x)
            assert_equal(zeros if g.grad is None else g.grad, zeros if e.grad is None else e.grad.numpy())
        np.testing.assert_array_equal(g.numpy(), x)  # the inputs are as they were


def seed_of(result):
    """What arrives at `result` from behind: never all ones, which would hide a wrong order."""
    return np.random.default_rng(0).normal(size=tuple(result.shape))


def as_tuple(result):
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def assert_equal(got, expected):
    assert got.dtype == expected.dtype
    rtol = 1e-10 if got.dtype == np.float64 else 1e-4
    scale = abs(expected[np.isfinite(expected)]).max(initial=1)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol / 10 * scale)


DTYPES = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]
NUMBERS = [True, 2, 0.5]


def operands(torch):
    """Pairs (theirs, ours): of every dtype with and without dimensions, and Python numbers."""
    for dtype, shape in itertools.product(DTYPES, [(2,), ()]):
        array = np.ones(shape, dtype)
        yield torch.tensor(array), Tensor(array)
    for number in NUMBERS:
        yield number, number


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "pow", "maximum", "where", "clip"])
def test_dtype_of_two_operands(op):
    import torch

    wrong = []
    for (x, our_x), (y, our_y) in itertools.product(operands(torch), repeat=2):
        if not torch.is_tensor(x) and not torch.is_tensor(y):
            continue
        condition, our_condition = torch.tensor([True, False]), Tensor(np.array([True, False]))
        try:
            if op == "where":
                expected = torch.where(condition, x, y).dtype
            elif op == "clip":
                expected = torch.clip(x, y).dtype
            else:
                expected = getattr(torch, op)(x, y).dtype
        except (RuntimeError, TypeError):  # PyTorch has no such combination, such as bool - bool
            continue
        if op == "pow" and expected == torch.bool:
            continue  # NumPy's is int8
        if op == "where":
            got = F.where(our_condition, our_x, our_y).dtype
        else:
            got = getattr(F, op)(our_x, our_y).dtype
        if str(got) != str(expected).removeprefix("torch."):
            wrong.append(f"{op}({x!r}, {y!r}) is {got}, in PyTorch {expected}")
    assert not wrong, "\n".join(wrong[:20])


ONE_OPERAND = ["exp", "log", "sqrt", "tanh", "sigmoid", "erf", "abs", "neg", "relu", "sum", "max", "cumsum"]
NOT_IN_PYTORCH = [("abs", "bool"), ("neg", "bool"), ("relu", "bool")]


@pytest.mark.parametrize(
    ("op", "dtype"),
    [(op, dtype) for op in ONE_OPERAND for dtype in DTYPES if (op, np.dtype(dtype).name) not in NOT_IN_PYTORCH],
)
def test_dtype_of_one_operand(op, dtype):
    import torch

    array = np.ones((2, 3), dtype)
    rest = (0,) if op == "cumsum" else ()
    expected = getattr(torch, op)(torch.tensor(array), *rest).dtype
    assert str(getattr(F, op)(Tensor(array), *rest).dtype) == str(expected).removeprefix("torch.")
