"""What an op refuses: each with one sentence that names the op, what it got, and what to do about it."""

import inspect

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor


def t(*shape, dtype=np.float32):
    return Tensor(np.ones(shape, dtype))


def ids(*values):
    return Tensor(np.array(values))


Q, K, V = t(2, 3, 4), t(2, 5, 4), t(2, 5, 6)

# what is wrong: (call, exception, what the message says)
CASES = {
    # --- shapes ---
    "add": (lambda: F.add(t(2, 3), t(4)), ValueError, r"\(2,3\) \(4,\)"),
    "matmul, inner sizes": (lambda: F.matmul(t(2, 3), t(4, 5)), ValueError, r"matmul: .*\(2, 3\) and \(4, 5\)"),
    "matmul, batches": (lambda: F.matmul(t(2, 3, 4), t(3, 4, 5)), ValueError, r"matmul.*\(2,\) and \(3,\)"),
    "matmul, a number": (lambda: F.matmul(t(2, 3), t()), ValueError, r"matmul: .*\(2, 3\) and \(\)"),
    "linear": (lambda: F.linear(t(2, 3), t(4, 5)), ValueError, r"linear: .*\(2, 3\).*\(4, 5\)"),
    "linear, weight of one axis": (lambda: F.linear(t(2, 3), t(3)), ValueError, r"linear: .*\(3,\)"),
    "linear, bias": (lambda: F.linear(t(2, 3), t(4, 3), t(3)), ValueError, r"linear: bias .*\(3,\).*4 outputs"),
    "linear_gelu": (lambda: F.linear_gelu(t(2, 3), t(4, 5)), ValueError, r"linear_gelu: .*\(2, 3\).*\(4, 5\)"),
    "linear_cross_entropy": (
        lambda: F.linear_cross_entropy(t(2, 5, 3), t(4, 3), ids(0, 1)),
        ValueError,
        r"linear_cross_entropy: .*\(2, 5, 3\)",
    ),
    "reshape": (lambda: F.reshape(t(2, 3), (4, 2)), ValueError, r"reshape: the 6 elements of shape \(2, 3\).*\(4, 2\)"),
    "reshape, two -1": (lambda: F.reshape(t(2, 3), (-1, -1)), ValueError, r"reshape: .*\(-1, -1\)"),
    "reshape, -1 of nothing": (lambda: F.reshape(t(0, 3), (0, -1)), ValueError, r"reshape: .*\(0, -1\)"),
    "expand": (lambda: F.expand(t(2, 3), (4, 3)), ValueError, r"expand: .*\(2, 3\).*\(4, 3\)"),
    "expand, fewer axes": (lambda: F.expand(t(2, 3), (3,)), ValueError, r"expand: .*\(2, 3\)"),
    "expand, -1 for a new axis": (lambda: F.expand(t(3), (-1, 3)), ValueError, r"expand: .*\(-1, 3\)"),
    "cat": (lambda: F.cat([t(2, 3), t(2, 4)]), ValueError, r"cat: .*\(2, 3\), \(2, 4\).*dim 0"),
    "cat of numbers": (lambda: F.cat([t(), t()]), ValueError, "cat: .*stack"),
    "cat of nothing": (lambda: F.cat([]), ValueError, "cat: .*at least one"),
    "stack": (lambda: F.stack([t(2), t(3)]), ValueError, r"stack: .*\(2,\), \(3,\)"),
    "stack of nothing": (lambda: F.stack([]), ValueError, "stack: .*at least one"),
    "split, sizes": (lambda: F.split(t(5), [2, 2]), ValueError, r"split: .*\[2, 2\].*5"),
    "split_heads, channels": (lambda: F.split_heads(t(2, 3, 8), 3), ValueError, r"split_heads: \(2, 3, 8\).*1 x 3"),
    "split_heads, axes": (lambda: F.split_heads(t(3, 8), 2), ValueError, r"split_heads: \(3, 8\)"),
    "merge_heads, axes": (lambda: F.merge_heads(t(3, 8)), ValueError, r"merge_heads: \(3, 8\)"),
    "split by 0": (lambda: F.split(t(5), 0), ValueError, "split: .*0"),
    "split of a number": (lambda: F.split(t(), 1), ValueError, "split: "),
    "pad, odd": (lambda: F.pad(t(2, 3), (1,)), ValueError, "pad: 1 widths"),
    "pad, too many": (lambda: F.pad(t(2), (1, 1, 1, 1)), ValueError, "pad: 4 widths"),
    "pad, more cut than there is": (lambda: F.pad(t(2, 3), (-2, -2)), ValueError, r"pad: .*\(2, 3\)"),
    "pad, mode": (lambda: F.pad(t(2, 3), (1, 1), "reflect"), ValueError, "pad: mode 'reflect'"),
    "tril": (lambda: F.tril(t(3)), ValueError, r"tril: .*\(3,\)"),
    "layer_norm": (lambda: F.layer_norm(t(2, 3), 2), ValueError, r"layer_norm: .*\(2, 3\).*\(2,\)"),
    "layer_norm, weight": (lambda: F.layer_norm(t(2, 3), 3, t(2)), ValueError, r"layer_norm: weight .*\(2,\)"),
    "rms_norm": (lambda: F.rms_norm(t(2, 3), (2, 2, 3)), ValueError, r"rms_norm: .*\(2, 2, 3\)"),
    "rotary_embedding, odd": (
        lambda: F.rotary_embedding(t(2, 3), t(2, 1), t(2, 1)),
        ValueError,
        r"rotary_embedding: .*\(2, 3\).*pairs",
    ),
    "rotary_embedding, angles": (
        lambda: F.rotary_embedding(t(2, 4), t(3, 2), t(3, 2)),
        ValueError,
        r"rotary_embedding \(pairs and angles\): .*\(2, 2\) and \(3, 2\)",
    ),
    "rotary_embedding, more angles than pairs": (
        lambda: F.rotary_embedding(t(2, 4), t(5, 2, 2), t(5, 2, 2)),
        ValueError,
        r"rotary_embedding: cos of shape \(5, 2, 2\)",
    ),
    "rotary_embedding, cos and sin": (
        lambda: F.rotary_embedding(t(2, 4), t(2, 2), t(1, 2)),
        ValueError,
        r"rotary_embedding: .*sin of shape \(1, 2\)",
    ),
    "swiglu": (lambda: F.swiglu(t(2, 3), t(3)), ValueError, r"swiglu: gate \(2, 3\) and up \(3,\)"),
    "gather, axes": (lambda: F.gather(t(2, 3), 1, ids(0, 1)), ValueError, r"gather: .*\(2,\).*\(2, 3\)"),
    "gather, larger": (lambda: F.gather(t(1, 3), 1, ids([0], [1])), ValueError, r"gather: .*\(2, 1\).*\(1, 3\)"),
    "embedding, weight": (lambda: F.embedding(ids(0), t(3)), ValueError, r"embedding: weight .*\(3,\)"),
    "masked_fill": (lambda: F.masked_fill(t(2), t(2, dtype=bool), t(1)), ValueError, r"masked_fill: .*\(1,\).*where"),
    "einsum, count": (lambda: F.einsum("ij,jk", t(2, 3)), ValueError, "einsum: 'ij,jk' is for 2 operands, got 1"),
    "einsum, axes": (lambda: F.einsum("ijk->i", t(2, 3)), ValueError, r"einsum: 'ijk' .*\(2, 3\)"),
    "einsum, sizes": (lambda: F.einsum("ij,jk", t(2, 3), t(4, 5)), ValueError, "einsum: .* 3 and 4"),
    "einsum, letters": (lambda: F.einsum("i1->i", t(2, 3)), ValueError, "einsum: 'i1'"),
    "einsum, result": (lambda: F.einsum("ij->k", t(2, 3)), ValueError, "einsum: the result"),
    "einsum, result twice": (lambda: F.einsum("ij->ii", t(2, 3)), ValueError, "einsum: the result"),
    "attention, features": (lambda: F.scaled_dot_product_attention(Q, t(2, 5, 3), V), ValueError, r"\(2, 5, 3\)"),
    "attention, keys and values": (
        lambda: F.scaled_dot_product_attention(Q, K, t(2, 4, 6)),
        ValueError,
        r"\(2, 4, 6\)",
    ),
    "attention, vectors": (lambda: F.scaled_dot_product_attention(t(4), K, V), ValueError, r"query \(4,\)"),
    "attention, batches": (
        lambda: F.scaled_dot_product_attention(Q, t(3, 5, 4), t(3, 5, 6)),
        ValueError,
        r"\(2,\) and \(3,\)",
    ),
    "attention, mask": (lambda: F.scaled_dot_product_attention(Q, K, V, t(3, 4)), ValueError, r"attn_mask.*\(3, 4\)"),
    "attention, mask of more queries": (
        lambda: F.scaled_dot_product_attention(t(2, 1, 4), K, V, t(3, 5)),
        ValueError,
        r"attn_mask of shape \(3, 5\) does not fit 1 queries and 5 keys",
    ),
    "attention, query heads that cannot share": (
        lambda: F.scaled_dot_product_attention(t(3, 2, 4), t(2, 5, 4), t(2, 5, 4), enable_gqa=True),
        ValueError,
        r"enable_gqa, .*divides that of query; got query \(3, 2, 4\), key \(2, 5, 4\)",
    ),
    "attention, more heads of values": (
        lambda: F.scaled_dot_product_attention(t(4, 2, 4), t(2, 5, 4), t(4, 5, 4), enable_gqa=True),
        ValueError,
        r"enable_gqa, .*value \(4, 5, 4\)",
    ),
    "attention, no heads to share": (
        lambda: F.scaled_dot_product_attention(t(2, 4), t(5, 4), t(5, 4), enable_gqa=True),
        ValueError,
        r"enable_gqa, .*query \(2, 4\)",
    ),
    "attention, a mask for the heads of keys": (
        lambda: F.scaled_dot_product_attention(t(4, 2, 4), t(2, 5, 4), t(2, 5, 4), t(2, 2, 5), enable_gqa=True),
        ValueError,
        r"attn_mask of shape \(2, 2, 5\) does not fit 4 heads",
    ),
    "attention, mask and causal": (
        lambda: F.scaled_dot_product_attention(Q, K, V, t(3, 5), is_causal=True),
        ValueError,
        "attn_mask or is_causal",
    ),
    "cross_entropy": (lambda: F.cross_entropy(t(2, 3), ids(0, 1, 2)), ValueError, r"cross_entropy: .*\(3,\).*\(2, 3\)"),
    "cross_entropy, classes last": (
        lambda: F.cross_entropy(t(2, 5, 3), Tensor(np.zeros((2, 5), int))),
        ValueError,
        r"cross_entropy: .*scores.reshape\(-1, classes\)",
    ),
    "cross_entropy, probabilities": (lambda: F.cross_entropy(t(2, 3), t(2)), ValueError, r"cross_entropy: .*\(2,\)"),
    "cross_entropy, weight": (
        lambda: F.cross_entropy(t(2, 3), ids(0, 1), t(2)),
        ValueError,
        r"cross_entropy: weight .*\(2,\)",
    ),
    "nll_loss": (lambda: F.nll_loss(t(2, 3), ids(0)), ValueError, r"nll_loss: .*\(1,\).*\(2, 3\)"),
    "mse_loss": (lambda: F.mse_loss(t(2, 1), t(2)), ValueError, r"mse_loss: .*\(2, 1\) and \(2,\)"),
    "bce": (
        lambda: F.binary_cross_entropy_with_logits(t(2), t(2, 1)),
        ValueError,
        r"binary_cross_entropy_with_logits: .*\(2, 1\).*\(2,\)",
    ),
    # --- axes ---
    "sum": (lambda: F.sum(t(2, 3), 2), IndexError, r"sum: dim 2 .* 2 dimensions; it must be -2..1"),
    "sum of an axis twice": (lambda: F.sum(t(2, 3), (0, -2)), ValueError, r"sum: dim \(0, -2\) names an axis twice"),
    "softmax": (lambda: F.softmax(t(2, 3), -3), IndexError, "softmax: dim -3"),
    "max": (lambda: F.max(t(2, 3), 5), IndexError, "max: dim 5"),
    "max of two tensors": (lambda: F.max(t(2), t(2)), TypeError, r"max: .*F.maximum\(x, y\)"),
    "min of nothing": (lambda: F.min(t(0)), ValueError, r"min: shape \(0,\) has no elements to choose"),
    "max of nothing along an axis": (lambda: F.max(t(2, 0), 1), ValueError, r"max: shape \(2, 0\).*dim 1"),
    "transpose": (lambda: F.transpose(t(2, 3), 0, 2), IndexError, "transpose: dim 2"),
    "permute": (lambda: F.permute(t(2, 3), (0, 0)), ValueError, r"permute: \(0, 0\)"),
    "unsqueeze": (lambda: F.unsqueeze(t(2, 3), 3), IndexError, "unsqueeze: dim 3"),
    "cumsum": (lambda: F.cumsum(t(2, 3), 2), IndexError, "cumsum: dim 2"),
    "dim as a boolean": (lambda: F.sum(t(2, 3), False), TypeError, "sum: dim must be an integer, got bool False"),
    "prod over two axes": (lambda: F.prod(t(2, 3), (0, 1)), TypeError, "prod: dim must be an integer, got tuple"),
    "amax of nothing": (lambda: F.amax(t(2, 0), 1), ValueError, r"amax: shape \(2, 0\) has no elements"),
    "argmax of nothing": (lambda: F.argmax(t(0)), ValueError, r"argmax: shape \(0,\) has no elements"),
    "flatten": (lambda: F.flatten(t(2, 3), 1, 0), ValueError, "flatten: end_dim 0 is before start_dim 1"),
    "chunk": (lambda: F.chunk(t(2), 0), ValueError, "chunk: needs at least 1 chunk, got 0"),
    "topk": (lambda: F.topk(t(2, 3), 4), ValueError, r"topk: k must be in 0..3 along dim 1 of shape \(2, 3\), got 4"),
    "index_select": (lambda: F.index_select(t(2, 3), 1, ids(3)), IndexError, r"index_select: index 3 at \(0,\)"),
    "index_select, shape": (lambda: F.index_select(t(2, 3), 1, ids([0])), ValueError, r"index_select: .*\(1, 1\)"),
    "one_hot": (lambda: F.one_hot(ids(0, 3), 3), IndexError, "one_hot: index 3 .* 0..2 of the 3 classes"),
    "one_hot, floats": (lambda: F.one_hot(t(2)), TypeError, "one_hot: .*integers, got float32"),
    "dim as a number": (lambda: F.sum(t(2, 3), 1.0), TypeError, "sum: dim must be an integer, got float"),
    # --- numbers out of range ---
    "embedding, too large": (
        lambda: F.embedding(ids(0, 7), t(5, 4)),
        IndexError,
        r"embedding: index 7 at \(1,\) is outside 0..4",
    ),
    "embedding, negative": (lambda: F.embedding(ids([0, -1]), t(5, 4)), IndexError, r"embedding: index -1 at \(0, 1\)"),
    "embedding, padding_idx": (lambda: F.embedding(ids(0), t(5, 4), 5), IndexError, "embedding: padding_idx 5"),
    "gather, too large": (
        lambda: F.gather(t(2, 3), 1, ids([0], [3])),
        IndexError,
        r"gather: index 3 at \(1, 0\).*0..2 of dim 1",
    ),
    "gather, negative": (lambda: F.gather(t(2, 3), 1, ids([0], [-1])), IndexError, "gather: index -1"),
    "getitem": (lambda: t(3)[3], IndexError, "index 3 is out of bounds"),
    "getitem of ids": (lambda: t(3)[ids(0, 3)], IndexError, "index 3 is out of bounds"),
    "target too large": (
        lambda: F.cross_entropy(t(2, 3), ids(0, 3)),
        IndexError,
        r"cross_entropy: index 3 at \(1,\) .* 3 classes",
    ),
    "target negative": (lambda: F.cross_entropy(t(2, 3), ids(-1, 0)), IndexError, r"cross_entropy: index -1 at \(0,\)"),
    "-100 not ignored": (lambda: F.cross_entropy(t(2, 3), ids(0, -100), ignore_index=0), IndexError, "index -100 at"),
    "nll_loss, target": (lambda: F.nll_loss(t(2, 3), ids(0, 3)), IndexError, "nll_loss: index 3"),
    "linear_cross_entropy, target": (
        lambda: F.linear_cross_entropy(t(2, 4), t(3, 4), ids(0, 3)),
        IndexError,
        "linear_cross_entropy: index 3",
    ),
    "dropout": (lambda: F.dropout(t(2), 1.5), ValueError, "dropout: .*1.5"),
    "attention, dropout": (lambda: F.scaled_dot_product_attention(Q, K, V, None, -0.1), ValueError, "-0.1"),
    "label_smoothing": (
        lambda: F.cross_entropy(t(2, 3), ids(0, 1), label_smoothing=2.0),
        ValueError,
        "label_smoothing .* 2.0",
    ),
    # --- dtypes ---
    "matmul, dtypes": (
        lambda: F.matmul(t(2, 2), t(2, 2, dtype=np.float64)),
        TypeError,
        "matmul: cannot mix float32 and float64",
    ),
    "linear, dtypes": (lambda: F.linear(t(2, 2), t(2, 2, dtype=np.float64)), TypeError, "linear: cannot mix"),
    "layer_norm, dtypes": (
        lambda: F.layer_norm(t(2, 2), 2, t(2, dtype=np.float64)),
        TypeError,
        "layer_norm: cannot mix",
    ),
    "layer_norm of integers": (lambda: F.layer_norm(t(2, 2, dtype=int), 2), TypeError, "layer_norm: .*int64"),
    "mean of integers": (lambda: F.mean(t(2, dtype=int)), TypeError, r"mean: .*int64; convert with .to\(np.float32\)"),
    "var of integers": (lambda: F.var(t(2, dtype=int)), TypeError, "var: .*int64"),
    "attention, dtypes": (
        lambda: F.scaled_dot_product_attention(Q, K, t(2, 5, 6, dtype=np.float64)),
        TypeError,
        "cannot mix",
    ),
    "attention of integers": (lambda: F.scaled_dot_product_attention(*[t(2, 3, dtype=int)] * 3), TypeError, "int64"),
    "attention, mask of 0 and 1": (
        lambda: F.scaled_dot_product_attention(Q, K, V, t(3, 5, dtype=int)),
        TypeError,
        "attn_mask must be boolean .* or float32 .* not int64",
    ),
    "attention, mask of another precision": (
        lambda: F.scaled_dot_product_attention(Q, K, V, t(3, 5, dtype=np.float64)),
        TypeError,
        "float64",
    ),
    "cross_entropy of integers": (
        lambda: F.cross_entropy(t(2, 3, dtype=int), ids(0, 1)),
        TypeError,
        "cross_entropy: .*int64",
    ),
    "cross_entropy, weight's dtype": (
        lambda: F.cross_entropy(t(2, 3), ids(0, 1), t(3, dtype=np.float64)),
        TypeError,
        "cross_entropy: .*float32.*float64",
    ),
    "cross_entropy, targets in a list": (lambda: F.cross_entropy(t(2, 3), [0, 1]), TypeError, "cross_entropy: .*list"),
    "nll_loss, floats": (lambda: F.nll_loss(t(2, 3), t(2)), TypeError, "nll_loss: .*float32"),
    "embedding, floats": (lambda: F.embedding(t(2), t(5, 4)), TypeError, "embedding: .*integers, got float32"),
    "embedding, a list": (lambda: F.embedding([0, 1], t(5, 4)), TypeError, "embedding: .*list"),
    "gather, floats": (lambda: F.gather(t(2), 0, t(1)), TypeError, "gather: .*float32"),
    "where": (lambda: F.where(t(2), t(2), t(2)), TypeError, "where: .*boolean, got float32"),
    "where, a number": (lambda: F.where(True, t(2), t(2)), TypeError, "where: .*boolean, got bool"),
    "masked_fill, mask": (lambda: F.masked_fill(t(2), ids(0, 1), 0.0), TypeError, "masked_fill: .*boolean, got int64"),
    "add of a list": (lambda: F.add(t(2), [1, 2]), TypeError, "add: expected tensors, arrays or numbers, got list"),
    "exp of a string": (lambda: F.exp("x"), TypeError, "exp: expected .* got str"),
    "minus a mask": (lambda: F.neg(t(2, dtype=bool)), TypeError, "boolean negative"),
    # --- words ---
    "gelu": (lambda: F.gelu(t(2), "fast"), ValueError, "gelu: .*'none' or 'tanh', got 'fast'"),
    "linear_gelu, approximate": (
        lambda: F.linear_gelu(t(2, 3), t(4, 3), approximate="fast"),
        ValueError,
        "linear_gelu: .*'fast'",
    ),
    "kl_div": (lambda: F.kl_div(t(2), t(2), reduction="max"), ValueError, "kl_div: .*'batchmean', got 'max'"),
    "clip": (lambda: F.clip(t(2)), ValueError, "clip: at least one"),
    "probabilities ignored": (
        lambda: F.cross_entropy(t(2, 3), t(2, 3), ignore_index=1),
        ValueError,
        "ignore_index is for class numbers",
    ),
}
WITH_DIM = [name for name in F.__all__ if {"dim", "dims"} & set(inspect.signature(getattr(F, name)).parameters)]
REQUIRED = {"split": [1], "chunk": [1], "gather": [0, ids(0)], "index_select": [0, ids(0)], "topk": [1]}
for name in WITH_DIM:
    function, first = getattr(F, name), [t(2), t(2)] if name in ("cat", "stack") else t(2)
    rest = REQUIRED.get(name, [(0,)] if name in ("permute", "flip") else [0])
    for word in ("axis", "keepdims", "dmi"):
        CASES[f"{name}, {word}="] = (
            lambda function=function, first=first, rest=rest, word=word: function(first, *rest, **{word: 0}),
            TypeError,
            rf"{name}: there is no argument '{word}'; .* dim \(or dims\) for NumPy's axis, keepdim for keepdims",
        )
    CASES[f"{name} of a list"] = (
        lambda function=function, rest=rest: function([1.0, 2.0], *rest),
        TypeError,
        rf"{name}: expected a tensor, got (list|float); make one with minigrad.tensor\(\.\.\.\)",
    )
WITHOUT_DIM = [
    *[("mean",), ("reshape", (1,)), ("tril",), ("matmul", [1.0]), ("linear", [[1.0]]), ("expand", (2,))],
    *[("mse_loss", [1.0]), ("binary_cross_entropy_with_logits", [1.0]), ("kl_div", [1.0]), ("split_heads", 1)],
    *[("merge_heads",), ("pad", (1, 1)), ("layer_norm", 1), ("cross_entropy", [0])],
]
for name, *rest in WITHOUT_DIM:
    function = getattr(F, name)
    CASES[f"{name} of a list "] = (
        lambda function=function, rest=rest: function([1.0], *rest),
        TypeError,
        f"{name}: expected a tensor, got list",
    )
for loss in ("cross_entropy", "nll_loss", "mse_loss", "binary_cross_entropy_with_logits", "linear_cross_entropy"):
    call = {
        "cross_entropy": lambda: F.cross_entropy(t(2, 3), ids(0, 1), reduction="avg"),
        "nll_loss": lambda: F.nll_loss(t(2, 3), ids(0, 1), reduction="avg"),
        "mse_loss": lambda: F.mse_loss(t(2), t(2), "avg"),
        "binary_cross_entropy_with_logits": lambda: F.binary_cross_entropy_with_logits(t(2), t(2), reduction="avg"),
        "linear_cross_entropy": lambda: F.linear_cross_entropy(t(2, 4), t(3, 4), ids(0, 1), reduction="avg"),
    }[loss]
    CASES[f"{loss}, reduction"] = (
        call,
        ValueError,
        f"{loss}: reduction must be one of 'mean', 'sum', 'none', got 'avg'",
    )


@pytest.mark.parametrize("name", CASES)
def test_refused_with_a_sentence(name):
    call, exception, message = CASES[name]
    with pytest.raises(exception, match=message):
        call()
