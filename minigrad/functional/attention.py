"""Attention: each query takes a weighted average of the values, and the weights come from the data.

    out = softmax(q kᵀ / √D + mask) v                                Vaswani et al. 2017, section 3.2.1

The product of a query and a key is a sum of D products. Dividing by √D makes its size independent of D. With 3 queries
and 4 keys:

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> q, k, v = rng.normal(size=(3, 8)), rng.normal(size=(4, 8)), rng.normal(size=(4, 8))  # (T, D), (S, D), (S, D)
>>> scores = q @ k.T / math.sqrt(8)  # (T, S): how well each query fits each key
>>> probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)  # (T, S): softmax, so each row sums to 1
>>> out = probs @ v  # (T, D): each query's weighted average of the values
>>> np.allclose(out, scaled_dot_product_attention(q, k, v).data)
True

Here the whole matrix of weights, T queries x S keys, is in memory, where you can look at it. The fast kernel
(kernels/cpu/attention.py) computes the same result piece by piece.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import array_of, module_of, next_stream
from .argument_checks import check_floating, check_fraction, check_tensor
from .broadcasting import check_broadcastable, shape_of, unbroadcast
from .shape import reshape, unsqueeze
from .stochastic import apply_dropout, attention_dropout

if TYPE_CHECKING:
    from ..tensor import Tensor


class ScaledDotProductAttention(Function):
    """out = softmax(q kᵀ scale + mask) v, with scale = 1 / √D.

    Backward goes through the three steps from the last to the first:

        out    = probs v                 dv = probsᵀ dout,  dprobs = dout vᵀ          (without dropout)
        probs  = softmax(scores)         dscores = probs (dprobs - Σ_s dprobs probs)   (see Softmax)
        scores = q kᵀ scale + mask       dq = dscores k scale,  dk = dscoresᵀ q scale,  dmask = dscores

    Dropout sets some of the probs to 0 and scales up the others, before the product with v. It multiplies by constants,
    so its backward is the same multiplication. Where the mask is -inf, probs is 0, and so is dscores: a key gets no
    gradient from a query that cannot see it.
    """

    autocast = True
    widens_float16 = True

    @staticmethod
    def forward(ctx, q, k, v, mask, is_causal, scale, dropout_p, stream):
        # q (..., T, D), k (..., S, D), v (..., S, Dv)
        scores = q @ k.swapaxes(-1, -2) * scale  # (..., T, S): how well each query fits each key
        scores = hide(scores, mask, is_causal)  # -inf where a query may not look
        ctx.probs = softmax_or_zeros(scores)  # (..., T, S): the weights of each query, which sum to 1
        ctx.keep = attention_dropout(q, scores.shape, dropout_p, stream)  # (..., T, S) random scales, or None
        ctx.q, ctx.k, ctx.v, ctx.scale = q, k, v, scale
        ctx.mask_shape = shape_of(mask)
        return apply_dropout(ctx.probs, ctx.keep) @ v  # (..., T, Dv)

    @staticmethod
    def backward(ctx, dout):
        # out = apply_dropout(probs, keep) @ v
        dv = apply_dropout(ctx.probs, ctx.keep).swapaxes(-1, -2) @ dout  # (..., S, Dv)
        dprobs = apply_dropout(dout @ ctx.v.swapaxes(-1, -2), ctx.keep)  # (..., T, S)
        # probs = softmax(scores)
        dscores = ctx.probs * (dprobs - (dprobs * ctx.probs).sum(axis=-1, keepdims=True))  # (..., T, S)
        # scores = q @ k.T * scale + mask
        dq = dscores @ ctx.k * ctx.scale  # (..., T, D)
        dk = dscores.swapaxes(-1, -2) @ ctx.q * ctx.scale  # (..., S, D)
        dmask = unbroadcast(dscores, ctx.mask_shape) if ctx.needs_grad[3] else None
        # an input that was broadcast gets the sum of its copies' gradients
        return unbroadcast(dq, ctx.q.shape), unbroadcast(dk, ctx.k.shape), unbroadcast(dv, ctx.v.shape), dmask


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query keyᵀ scale + mask) value: (..., T, D), (..., S, D), (..., S, Dv) -> (..., T, Dv).

    attn_mask broadcasts to (..., T, S). Where a boolean mask is True, the query may look at the key; a mask of numbers
    is added to the scores. `is_causal` lets query i look at the keys 0..i. A query that may look at no key gets zeros.
    scale=None is 1/√D. enable_gqa: see `_grouped_query_attention`. Raises ValueError for shapes that do not fit,
    TypeError for mixed dtypes and for a mask of integers.
    """
    check_fraction("scaled_dot_product_attention: probability", dropout_p)
    if enable_gqa:
        return _grouped_query_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)
    _check_fit(query, key, value, array_of(attn_mask))
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale
    stream = next_stream() if dropout_p > 0 else None  # which random numbers dropout draws
    options = {"is_causal": is_causal, "scale": scale, "dropout_p": dropout_p, "stream": stream}
    return ScaledDotProductAttention.apply(query, key, value, attn_mask, **options)


def hide(scores, mask, is_causal):
    """Scores (..., T, S), -inf where the mask is False or a key comes after the query; a mask of numbers is added."""
    xp = module_of(scores)
    if is_causal:
        scores = xp.where(causal_mask(xp, *scores.shape[-2:]), scores, -math.inf)
    if mask is not None:
        scores = xp.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    return scores


def causal_mask(xp, queries, keys, past=0):
    """(T, S) booleans: query i, which comes after `past` other tokens, may look at the keys 0..past + i."""
    return xp.tri(queries, keys, past, dtype=bool)


def softmax_or_zeros(scores):
    """softmax over the last axis; a row of -inf only (a query that may look at no key) becomes zeros."""
    xp = module_of(scores)
    if scores.shape[-1] == 0:
        return scores
    largest = scores.max(axis=-1, keepdims=True)  # (..., T, 1)
    largest = xp.where(xp.isinf(largest), 0, largest)  # -inf - (-inf) would be nan
    exps = xp.exp(scores - largest)
    total = exps.sum(axis=-1, keepdims=True)  # (..., T, 1)
    return exps / xp.where(total == 0, 1, total)  # 0 / 1, where 0 / 0 would be nan


def _grouped_query_attention(q, k, v, mask, dropout_p, is_causal, scale):
    """Attention with H query heads (the axis before T) and only K heads of keys and values. Ainslie et al. 2023.

    Query head h looks at key head h // G, where G = H / K. So the query heads are put in K groups of G. An axis of
    length 1 beside the K key heads broadcasts over the G query heads of a group, and no key is copied.
    """
    _check_groups(q, k, v, mask)
    groups = k.shape[-3]
    queries = _in_groups(q, groups)  # (..., H, T, D) -> (..., K, G, T, D)
    keys, values = unsqueeze(k, -3), unsqueeze(v, -3)  # (..., K, S, D) -> (..., K, 1, S, D)
    if mask is not None and mask.ndim >= 3:  # it has an axis of heads
        # (..., 1, T, S) -> (..., 1, 1, T, S), or (..., H, T, S) -> (..., K, G, T, S)
        mask = unsqueeze(mask, -3) if mask.shape[-3] == 1 else _in_groups(mask, groups)
    out = scaled_dot_product_attention(queries, keys, values, mask, dropout_p, is_causal, scale)
    return reshape(out, (*q.shape[:-1], v.shape[-1]))  # (..., K, G, T, Dv) -> (..., H, T, Dv)


def _in_groups(x: Any, groups: int) -> Any:
    return reshape(x, (*x.shape[:-3], groups, x.shape[-3] // groups, *x.shape[-2:]))


def _check_groups(q: Any, k: Any, v: Any, mask: Any) -> None:
    op = "scaled_dot_product_attention"
    if min(q.ndim, k.ndim, v.ndim) < 3 or k.shape[-3] != v.shape[-3] or not k.shape[-3] or q.shape[-3] % k.shape[-3]:
        shapes = f"query {q.shape}, key {k.shape} and value {v.shape}"
        raise ValueError(
            f"{op}: with enable_gqa, key and value need one number of heads (axis -3), which divides that of query; "
            f"got {shapes}"
        )
    if mask is not None and mask.ndim >= 3 and mask.shape[-3] not in (1, q.shape[-3]):
        raise ValueError(f"{op}: attn_mask of shape {mask.shape} does not fit {q.shape[-3]} heads")


def _check_fit(q: Any, k: Any, v: Any, mask: Any) -> None:
    op = "scaled_dot_product_attention"
    check_floating(op, q)
    check_tensor(op, k, v, *([] if mask is None else [mask]))
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        shapes = f"query {q.shape}, key {k.shape} and value {v.shape}"
        raise ValueError(f"{op}: {shapes} do not fit as (..., T, D), (..., S, D) and (..., S, Dv)")
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"{op}: cannot mix {q.dtype}, {k.dtype} and {v.dtype}; convert with .to(dtype)")
    lead = check_broadcastable(f"{op} (leading axes)", q.shape[:-2], k.shape[:-2], v.shape[:-2])
    if mask is None:
        return
    if mask.dtype.kind != "b" and mask.dtype != q.dtype:
        allowed = f"boolean (True: attend) or {q.dtype} (added to the scores)"
        raise TypeError(f"{op}: attn_mask must be {allowed}, not {mask.dtype}")
    scores = (*lead, q.shape[-2], k.shape[-2])
    if check_broadcastable(f"{op} (attn_mask and scores)", mask.shape, scores)[-2:] != scores[-2:]:
        wanted = f"{scores[-2]} queries and {scores[-1]} keys"
        raise ValueError(f"{op}: attn_mask of shape {mask.shape} does not fit {wanted}")


# --- multi-head attention: the channels of a token, divided among H heads ---
#
# A head is attention on its own D channels. With the heads as an axis before T, attention treats each head like another
# sequence of the batch. Nothing is computed here: the same numbers take another order.
# Vaswani et al. 2017, section 3.2.2.


class SplitHeads(Function):
    """x (B, T, P H D) -> P parts (B, H, T, D): query, key and value of each head, out of one row per token.

    The gradient of x is that of its parts, side by side.
    """

    @staticmethod
    def forward(ctx, x, n_head, parts):
        B, T, C = x.shape
        ctx.shape = x.shape
        split = x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)  # (P, B, H, T, D)
        return tuple(split)

    @staticmethod
    def backward(ctx, *douts):
        # split = x.reshape(B, T, P, H, D).transpose(2, 0, 3, 1, 4); back: (P, B, H, T, D) -> (B, T, P, H, D)
        return (module_of(douts[0]).stack(douts).transpose(1, 3, 0, 2, 4).reshape(ctx.shape),)


def split_heads(input: Tensor, n_head: int, parts: int = 1) -> Any:
    """Cut the channels (B, T, parts * n_head * D) into `parts` tensors (B, n_head, T, D): one Tensor, or a tuple.

    Raises ValueError for channels that cannot be divided so.
    """
    check_tensor("split_heads", input)
    if input.ndim != 3 or n_head < 1 or parts < 1 or input.shape[2] % (parts * n_head):
        raise ValueError(
            f"split_heads: {input.shape} is not (batch, time, channels) with channels that {parts} x {n_head} heads "
            "can share"
        )
    split = SplitHeads.apply(input, n_head=n_head, parts=parts)
    return split[0] if parts == 1 else split


class MergeHeads(Function):
    """x (B, H, T, D) -> (B, T, H D): a token's heads side by side. The gradient is split into heads again."""

    @staticmethod
    def forward(ctx, x):
        B, H, T, D = x.shape
        ctx.shape = x.shape
        return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)

    @staticmethod
    def backward(ctx, dout):
        B, H, T, D = ctx.shape
        return (dout.reshape(B, T, H, D).transpose(0, 2, 1, 3),)


def merge_heads(input: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D), the reverse of `split_heads`.

    Raises ValueError unless there are four axes.
    """
    check_tensor("merge_heads", input)
    if input.ndim != 4:
        raise ValueError(f"merge_heads: {input.shape} is not (batch, heads, time, head size)")
    return MergeHeads.apply(input)
