"""Ops refuse wrong arguments, each with one sentence that names the op, what it got, and what to do about it."""

import inspect
import re

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor


def t(*shape, dtype=np.float32):
    return Tensor(np.ones(shape, dtype))


def ids(*values):
    return Tensor(np.array(values, np.int64))


def attention(*inputs, **options):
    return F.scaled_dot_product_attention(*inputs, **options)


def grouped(*inputs):
    return attention(*inputs, enable_gqa=True)


Q, K, V = t(2, 3, 4), t(2, 5, 4), t(2, 5, 6)

# The tables hold what is called, and what the message says; "..." stands for any text.
VALUE_ERRORS = {
    # --- shapes ---
    "F.add(t(2, 3), t(4))": "(2,3) (4,)",
    "F.matmul(t(2, 3), t(4, 5))": "matmul: ...(2, 3) and (4, 5)",
    "F.matmul(t(), t(2))": "matmul: needs at least one dimension",
    "F.matmul(t(2, 3, 4), t(3, 4, 5))": "matmul...(2,) and (3,)",
    "F.linear(t(2, 3), t(4, 5))": "linear: ...(2, 3)...(4, 5)",
    "F.linear(t(2, 3), t(3))": "linear: ...(3,)",
    "F.linear(t(2, 3), t(4, 3), t(3))": "linear: bias ...(3,)...4 outputs",
    "F.linear_cross_entropy(t(2, 5, 3), t(4, 3), ids(0, 1))": "linear_cross_entropy: ...(2, 5, 3)",
    "F.reshape(t(2, 3), (4, 2))": "reshape: the 6 elements of shape (2, 3)...(4, 2)",
    "F.reshape(t(2, 3), (-1, -1))": "reshape: ...(-1, -1)",
    "F.expand(t(2, 3), (3,))": "expand: ...(2, 3)",
    "F.expand(t(3), (-1, 3))": "expand: ...(-1, 3)",
    "F.cat([t(2, 3), t(2, 4)])": "cat: ...(2, 3), (2, 4)...dim 0",
    "F.cat([t(), t()])": "cat: ...stack",
    "F.cat([])": "cat: ...at least one",
    "F.stack([t(2), t(3)])": "stack: ...(2,), (3,)",
    "F.split(t(), 1)": "split: ...no dimensions",
    "F.split(t(5), [2, 2])": "split: ...[2, 2]...5",
    "F.split_heads(t(2, 3, 8), 3)": "split_heads: (2, 3, 8)...1 x 3",
    "F.split_heads(t(3, 8), 2)": "split_heads: (3, 8)",
    "F.merge_heads(t(2, 3))": "merge_heads: (2, 3)",
    "F.split(t(5), 0)": "split: ...0",
    "F.pad(t(2, 3), (1,))": "pad: 1 widths",
    "F.pad(t(2), (1, 1, 1, 1))": "pad: 4 widths",
    "F.pad(t(2, 3), (-2, -2))": "pad: ...(2, 3)",
    'F.pad(t(2, 3), (1, 1), "reflect")': "pad: mode 'reflect'",
    "F.tril(t(3))": "tril: ...(3,)",
    "F.layer_norm(t(2, 3), 2)": "layer_norm: ...(2, 3)...(2,)",
    "F.layer_norm(t(2, 3), 3, t(2))": "layer_norm: weight ...(2,)",
    "F.rms_norm(t(2, 3), (2, 2, 3))": "rms_norm: ...(2, 2, 3)",
    "F.rotary_embedding(t(2, 3), t(2, 1), t(2, 1))": "rotary_embedding: ...(2, 3)...pairs",
    "F.rotary_embedding(t(2, 4), t(3, 2), t(3, 2))": "rotary_embedding (pairs and angles): ...(2, 2) and (3, 2)",
    "F.rotary_embedding(t(2, 4), t(5, 2, 2), t(5, 2, 2))": "rotary_embedding: cos of shape (5, 2, 2)",
    "F.rotary_embedding(t(2, 4), t(2, 2), t(1, 2))": "rotary_embedding: ...sin of shape (1, 2)",
    "F.swiglu(t(2, 3), t(3))": "swiglu: gate (2, 3) and up (3,)",
    "F.gather(t(2, 3), 1, ids(0, 1))": "gather: ...(2,)...(2, 3)",
    "F.gather(t(1, 3), 1, ids([0], [1]))": "gather: ...(2, 1)...(1, 3)",
    "F.embedding(ids(0), t(3))": "embedding: weight ...(3,)",
    "F.masked_fill(t(2), t(2, dtype=bool), t(1))": "masked_fill: ...(1,)...where",
    'F.einsum("ij,jk", t(2, 3))': "einsum: 'ij,jk' is for 2 operands, got 1",
    'F.einsum("ijk->i", t(2, 3))': "einsum: 'ijk' ...(2, 3)",
    'F.einsum("ij,jk", t(2, 3), t(4, 5))': "einsum: ... 3 and 4",
    'F.einsum("i1->i", t(2, 3))': "einsum: 'i1'",
    'F.einsum("ij->k", t(2, 3))': "einsum: the result",
    "attention(Q, t(2, 5, 3), V)": "(2, 5, 3)",
    "attention(Q, K, t(2, 4, 6))": "(2, 4, 6)",
    "attention(t(4), K, V)": "query (4,)",
    "attention(Q, t(3, 5, 4), t(3, 5, 6))": "(2,) and (3,)",
    "attention(Q, K, V, t(3, 4))": "attn_mask...(3, 4)",
    "attention(t(2, 1, 4), K, V, t(3, 5))": "attn_mask of shape (3, 5) does not fit 1 queries and 5 keys",
    "grouped(t(3, 2, 4), K, K)": "enable_gqa, ...divides that of query; got query (3, 2, 4), key (2, 5, 4)",
    "grouped(t(4, 2, 4), K, t(4, 5, 4))": "enable_gqa, ...value (4, 5, 4)",
    "grouped(t(2, 4), t(5, 4), t(5, 4))": "enable_gqa, ...query (2, 4)",
    "grouped(t(4, 2, 4), K, K, t(2, 2, 5))": "attn_mask of shape (2, 2, 5) does not fit 4 heads",
    "attention(Q, K, V, t(3, 5), is_causal=True)": "attn_mask or is_causal",
    "F.cross_entropy(t(2, 3), ids(0, 1, 2))": "cross_entropy: ...(3,)...(2, 3)",
    "F.cross_entropy(t(2, 5, 3), Tensor(np.zeros((2, 5), int)))": "cross_entropy: ...scores.reshape(-1, classes)",
    "F.cross_entropy(t(2, 3), t(2))": "cross_entropy: ...(2,)",
    "F.cross_entropy(t(2, 3), ids(0, 1), t(2))": "cross_entropy: weight ...(2,)",
    "F.nll_loss(t(2, 3), ids(0))": "nll_loss: ...(1,)...(2, 3)",
    "F.mse_loss(t(2, 1), t(2))": "mse_loss: ...(2, 1) and (2,)",
    "F.binary_cross_entropy_with_logits(t(2), t(2, 1))": "binary_cross_entropy_with_logits: ...(2, 1)...(2,)",
    # --- axes ---
    "F.sum(t(2, 3), (0, -2))": "sum: dim (0, -2) names an axis twice",
    "F.min(t(0))": "min: shape (0,) has no elements to choose",
    "F.max(t(2, 0), 1)": "max: shape (2, 0)...dim 1",
    "F.permute(t(2, 3), (0, 0))": "permute: (0, 0)",
    "F.amax(t(2, 0), 1)": "amax: shape (2, 0) has no elements",
    "F.argmax(t(0))": "argmax: shape (0,) has no elements",
    "F.flatten(t(2, 3), 1, 0)": "flatten: end_dim 0 is before start_dim 1",
    "F.chunk(t(2), 0)": "chunk: needs at least 1 chunk, got 0",
    "F.topk(t(2, 3), 4)": "topk: k must be in 0..3 along dim 1 of shape (2, 3), got 4",
    "F.index_select(t(2, 3), 1, ids([0]))": "index_select: ...(1, 1)",
    "F.one_hot(ids())": "one_hot: no ids",
    # --- numbers and words ---
    "F.dropout(t(2), 1.5)": "dropout: ...1.5",
    "attention(Q, K, V, None, -0.1)": "-0.1",
    "F.cross_entropy(t(2, 3), ids(0, 1), label_smoothing=2.0)": "label_smoothing ... 2.0",
    'F.gelu(t(2), "fast")': "gelu: ...'none' or 'tanh', got 'fast'",
    'F.linear_gelu(t(2, 3), t(4, 3), approximate="fast")': "linear_gelu: ...'fast'",
    'F.kl_div(t(2), t(2), reduction="max")': "kl_div: ...'batchmean', got 'max'",
    "F.clip(t(2))": "clip: at least one",
    "F.cross_entropy(t(2, 3), t(2, 3), ignore_index=1)": "ignore_index is for class numbers",
}
INDEX_ERRORS = {
    # --- axes ---
    "F.sum(t(2, 3), 2)": "sum: dim 2 ... 2 dimensions; it must be -2..1",
    "F.max(t(2, 3), 5)": "max: dim 5",
    "F.transpose(t(2, 3), 0, 2)": "transpose: dim 2",
    "F.unsqueeze(t(2, 3), 3)": "unsqueeze: dim 3",
    "F.cumsum(t(2, 3), 2)": "cumsum: dim 2",
    "F.embedding(ids(0), t(5, 4), 5)": "embedding: padding_idx 5",
}
TYPE_ERRORS = {
    # --- axes ---
    "F.max(t(2), t(2))": "max: ...F.maximum(x, y)",
    "F.sum(t(2, 3), False)": "sum: dim must be an integer, got bool False",
    "F.prod(t(2, 3), (0, 1))": "prod: dim must be an integer, got tuple",
    "F.one_hot(t(2))": "one_hot: ...integers, got float32",
    # --- dtypes ---
    "F.matmul(t(2, 2), t(2, 2, dtype=np.float64))": "matmul: cannot mix float32 and float64",
    "F.linear(t(2, 2), t(2, 2, dtype=np.float64))": "linear: cannot mix",
    "F.layer_norm(t(2, 2), 2, t(2, dtype=np.float64))": "layer_norm: cannot mix",
    "F.linear_gelu(ids([1]), ids([1]))": "linear_gelu: ...int64",
    "F.linear_cross_entropy(t(1, 2), t(2, 2, dtype=np.float64), ids(0))": "linear_cross_entropy: cannot mix",
    "F.linear_cross_entropy(ids([1]), ids([1]), ids(0))": "linear_cross_entropy: ...int64",
    "F.layer_norm(t(2, 2, dtype=np.int64), 2)": "layer_norm: ...int64",
    "F.mean(t(2, dtype=np.int64))": "mean: ...int64; convert with .to(np.float32)",
    "attention(Q, K, t(2, 5, 6, dtype=np.float64))": "cannot mix",
    "attention(*[t(2, 3, dtype=np.int64)] * 3)": "int64",
    "attention(Q, K, V, t(3, 5, dtype=np.int64))": "attn_mask must be boolean ... or float32 ... not int64",
    "F.cross_entropy(t(2, 3, dtype=np.int64), ids(0, 1))": "cross_entropy: ...int64",
    "F.cross_entropy(t(2, 3), ids(0, 1), t(3, dtype=np.float64))": "cross_entropy: ...float32...float64",
    "F.cross_entropy(t(2, 3), [0, 1])": "cross_entropy: ...list",
    "F.embedding(t(2), t(5, 4))": "embedding: ...integers, got float32",
    "F.gather(t(2), 0, t(1))": "gather: ...float32",
    "F.where(t(2), t(2), t(2))": "where: ...boolean, got float32",
    "F.where(True, t(2), t(2))": "where: ...boolean, got bool",
    "F.masked_fill(t(2), ids(0, 1), 0.0)": "masked_fill: ...boolean, got int64",
    "F.masked_fill(t(1), t(1) > 0, None)": "masked_fill: value must be a number, got None",
    "F.linear(t(2, 3), t(4, 3), [1.0] * 4)": "linear: expected a tensor, got list",
    "F.swiglu(t(2), None)": "swiglu: ...got NoneType",
    "F.rotary_embedding(t(1, 2), [1.0], [0.0])": "rotary_embedding: ...got list",
    "attention(Q, None, V)": "got NoneType",
    "attention(Q, K, V, [True])": "got list",
    "F.softmax(3.0, 0)": "softmax: expected a tensor, got float",
    "F.add(t(2), [1, 2])": "add: expected tensors, arrays or numbers, got list",
    'F.exp("x")': "exp: expected ... got str",
    "F.neg(t(2, dtype=bool))": "boolean negative",
}
OUT_OF_RANGE = {
    "F.embedding(ids([0, 1], [0, -7]), t(5, 4))": "embedding: index -7 at (1, 1) is outside 0..4",
    "F.gather(t(2, 3), 1, ids([0], [3]))": "gather: index 3 at (1, 0)...0..2 of dim 1",
    "t(3)[ids(0, 3)]": "index 3 is out of bounds",
    "F.cross_entropy(t(2, 3), ids(0, 3))": "cross_entropy: index 3 at (1,) ... 3 classes",
    "F.cross_entropy(t(2, 3), ids(-1, 0))": "cross_entropy: index -1 at (0,)",
    "F.cross_entropy(t(2, 3), ids(0, -100), ignore_index=0)": "index -100 at",
    "F.nll_loss(t(2, 3), ids(0, 3))": "nll_loss: index 3",
    "F.linear_cross_entropy(t(2, 4), t(3, 4), ids(0, 3))": "linear_cross_entropy: index 3",
    # --- axes ---
    "F.index_select(t(2, 3), 1, ids(3))": "index_select: index 3 at (0,)",
    "F.one_hot(ids(0, 3), 3)": "one_hot: index 3 ... 0..2 of the 3 classes",
}

for loss, inputs in {
    "cross_entropy": "t(2, 3), ids(0, 1)",
    "nll_loss": "t(2, 3), ids(0, 1)",
    "mse_loss": "t(2), t(2)",
    "binary_cross_entropy_with_logits": "t(2), t(2)",
    "linear_cross_entropy": "t(2, 4), t(3, 4), ids(0, 1)",
}.items():
    words = f"{loss}: reduction must be one of 'mean', 'sum', 'none', got 'avg'"
    VALUE_ERRORS[f"F.{loss}({inputs}, reduction='avg')"] = words
TABLES = [(ValueError, VALUE_ERRORS), (IndexError, INDEX_ERRORS), (TypeError, TYPE_ERRORS), (IndexError, OUT_OF_RANGE)]
REFUSED = [(call, exception, words) for exception, table in TABLES for call, words in table.items()]


@pytest.mark.parametrize("call, exception, words", REFUSED)
def test_what_an_op_refuses(call, exception, words):
    with pytest.raises(exception, match=".*".join(map(re.escape, words.split("...")))):
        eval(call)


WITH_DIM = [name for name in F.__all__ if {"dim", "dims"} & set(inspect.signature(getattr(F, name)).parameters)]
REQUIRED = {"split": [1], "chunk": [1], "gather": [0, ids(0)], "index_select": [0, ids(0)], "topk": [1]}
REQUIRED |= {name: [(0,)] for name in ("permute", "flip")}
LISTS = {name: REQUIRED.get(name, [0]) for name in WITH_DIM}
LISTS |= {"mean": [], "reshape": [(1,)], "matmul": [[1.0]], "linear": [[[1.0]]], "mse_loss": [[1.0]], "pad": [(1, 1)]}
LISTS |= {"tril": [], "expand": [(2,)], "split_heads": [1], "layer_norm": [1], "cross_entropy": [[0]]}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_refused(name):
    wrong = rf"{name}: expected a tensor, got (list|float); make one with minigrad.tensor\("
    with pytest.raises(TypeError, match=wrong):
        getattr(F, name)([1.0, 2.0], *LISTS[name])
