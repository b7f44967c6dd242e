"""Attention in tiles: the same result as functional/attention.py, to rounding, without ever holding the T x S matrix of weights.

Three ideas, from Dao et al. 2022 (FlashAttention) and Milakov & Gimelshein 2018 (online softmax):

1. *Online softmax.* A row's softmax needs its maximum and its sum. Read the keys tile by tile and keep both as running values m and l,
   together with the unfinished output; when a tile raises the maximum from m to m', what has been summed so far shrinks by e^(m - m').
   At the end, out = sum / l. Besides the output only m + ln l is kept: one number per row, O(T) memory.
2. *Recompute instead of remember.* Backward makes each tile's weights again, as e^(scores - (m + ln l)), and uses them at once.
   softmax's row sum Σ_j dprobs_j probs_j equals dout · out, which needs no weights at all.
3. *Skip what the mask hides.* With a causal mask, tiles above the diagonal are never computed: nearly half of the work.

A tile here is a few heads x QUERIES x KEYS numbers, chosen to stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..autograd import Function
from ..backend import module_of
from ..functional.attention import DROPOUT_ROWS, ScaledDotProductAttention
from ..functional.broadcasting import unbroadcast
from ..functional.stochastic import keep_scale

QUERIES = 64  # rows of a tile; the rows that share a dropout stream, too
KEYS = 512
TILE = 128 * 1024  # numbers in a tile over all its heads


class TiledAttention(Function):
    """softmax(q kᵀ scale + mask) v, tile by tile. See ScaledDotProductAttention for the mathematics."""

    autocast = True

    @staticmethod
    def forward(ctx, q, k, v, mask, is_causal, scale, dropout_p, stream):
        if ctx.needs_grad[3] and mask is not None:  # a mask that learns needs the weights themselves
            ctx.naive = True
            return ScaledDotProductAttention.forward(ctx, q, k, v, mask, is_causal, scale, dropout_p, stream)
        ctx.naive = False
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        ctx.plan = plan = _Plan(lead, q, k, v, mask, is_causal, scale, dropout_p, stream)
        xp = module_of(q)
        out = _heads_last(xp, lead, q.shape[-2], v.shape[-1], q.dtype)
        logsumexp = xp.empty((*plan.lead, q.shape[-2], 1), q.dtype)
        for heads, rows in plan.query_blocks():
            q_block = plan.q[heads][:, rows] * scale
            running_max, running_sum, weighted = _start(xp, q_block, v.shape[-1])
            for columns in plan.key_blocks(rows):
                scores = plan.scores(q_block, heads, rows, columns)  # (h, QUERIES, KEYS)
                new_max = xp.maximum(running_max, scores.max(axis=-1, keepdims=True))
                safe_max = xp.where(xp.isinf(new_max), 0, new_max)  # nothing seen yet: e^(-inf - 0) = 0, not nan
                scores -= safe_max
                probs = xp.exp(scores, out=scores)
                shrink = xp.exp(running_max - safe_max)
                running_sum = running_sum * shrink + probs.sum(axis=-1, keepdims=True)
                keep = plan.keep(heads, rows, columns)
                probs = probs if keep is None else probs * keep
                weighted = weighted * shrink + probs @ plan.v[heads][:, columns]
                running_max = new_max
            seen = running_sum > 0
            plan.of(out)[heads][:, rows] = weighted / xp.where(seen, running_sum, 1)
            logsumexp[heads][:, rows] = xp.where(seen, running_max + xp.log(xp.where(seen, running_sum, 1)), 0)
        ctx.out, ctx.logsumexp = out, logsumexp
        return out.reshape(*lead, q.shape[-2], v.shape[-1]) if not lead else out

    @staticmethod
    def backward(ctx, dout):
        if ctx.naive:
            return ScaledDotProductAttention.backward(ctx, dout)
        plan, xp = ctx.plan, module_of(dout)
        dq, dk, dv = (_heads_last(xp, plan.outer_lead, x.shape[-2], x.shape[-1], dout.dtype) for x in (plan.q, plan.k, plan.v))
        dk[...], dv[...] = 0, 0
        dout, out = plan.of(dout), plan.of(ctx.out)
        for heads, rows in plan.query_blocks():
            q_block, dout_block = plan.q[heads][:, rows] * plan.scale, dout[heads][:, rows]
            row_sum = (dout_block * out[heads][:, rows]).sum(axis=-1, keepdims=True)
            dq_block = xp.zeros_like(q_block)
            for columns in plan.key_blocks(rows):
                probs = plan.scores(q_block, heads, rows, columns)
                probs -= ctx.logsumexp[heads][:, rows]
                probs = xp.exp(probs, out=probs)
                keep = plan.keep(heads, rows, columns)
                # out = (probs * keep) @ v
                dropped = probs if keep is None else probs * keep
                plan.of(dv)[heads][:, columns] += dropped.swapaxes(-1, -2) @ dout_block
                dprobs = dout_block @ plan.v[heads][:, columns].swapaxes(-1, -2)
                if keep is not None:
                    dprobs *= keep
                # probs = softmax(scores)
                dprobs -= row_sum
                dprobs *= probs
                # scores = (q * scale) @ k.T
                dq_block += dprobs @ plan.k[heads][:, columns]
                plan.of(dk)[heads][:, columns] += dprobs.swapaxes(-1, -2) @ q_block
            dq_block *= plan.scale
            plan.of(dq)[heads][:, rows] = dq_block
        return unbroadcast(dq, plan.shapes[0]), unbroadcast(dk, plan.shapes[1]), unbroadcast(dv, plan.shapes[2]), None


class _Plan:
    """The operands with common leading axes (batch..., heads), and the order of the tiles."""

    def __init__(self, lead, q, k, v, mask, is_causal, scale, dropout_p, stream):
        xp = module_of(q)
        self.outer_lead = lead
        self.lead = lead or (1,)
        self.shapes = q.shape, k.shape, v.shape
        self.q, self.k, self.v = (xp.broadcast_to(x, (*self.lead, *x.shape[-2:])) for x in (q, k, v))
        self.mask = None if mask is None else xp.broadcast_to(mask, (*self.lead, q.shape[-2], k.shape[-2]))
        self.is_causal, self.scale, self.dropout_p, self.stream = is_causal, scale, dropout_p, stream

    def of(self, array):
        """A result array, with a head axis even where the caller has none."""
        return array if self.outer_lead else array[None]

    def query_blocks(self) -> Iterator[tuple[tuple, slice]]:
        queries, keys = self.q.shape[-2], min(self.k.shape[-2], KEYS)
        at_once = max(1, TILE // max(1, min(QUERIES, queries) * keys))
        for batch in np.ndindex(*self.lead[:-1]):
            for head in range(0, self.lead[-1], at_once):
                for row in range(0, queries, QUERIES):
                    yield (*batch, slice(head, head + at_once)), slice(row, min(row + QUERIES, queries))

    def key_blocks(self, rows: slice) -> Iterator[slice]:
        keys = min(rows.stop, self.k.shape[-2]) if self.is_causal else self.k.shape[-2]
        for column in range(0, keys, KEYS):
            yield slice(column, min(column + KEYS, keys))

    def scores(self, q_block, heads, rows, columns):
        xp = module_of(q_block)
        scores = q_block @ self.k[heads][:, columns].swapaxes(-1, -2)
        if self.is_causal and columns.stop > rows.start + 1:  # only the tiles that the diagonal crosses
            visible = xp.arange(rows.start, rows.stop)[:, None] >= xp.arange(columns.start, columns.stop)
            scores = xp.where(visible, scores, -math.inf)
        if self.mask is not None:
            mask = self.mask[heads][:, rows, columns]
            scores = xp.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
        return scores.astype(q_block.dtype, copy=False)

    def keep(self, heads, rows, columns):
        """The dropout scales of a tile: those that the naive form draws for the same place."""
        if self.dropout_p == 0:
            return None
        xp = module_of(self.q)
        *batch, head_slice = heads
        first = int(np.ravel_multi_index((*batch, head_slice.start), self.lead))
        count = min(head_slice.stop, self.lead[-1]) - head_slice.start
        shape, block = (rows.stop - rows.start, self.k.shape[-2]), rows.start // DROPOUT_ROWS
        scales = [keep_scale(xp, self.stream, shape, self.dropout_p, first + i, block)[:, columns] for i in range(count)]
        return xp.stack(scales).astype(self.q.dtype, copy=False)


def _start(xp, q_block, value_size):
    """The running maximum, sum and output of a block of queries that has seen no key yet."""
    rows = q_block.shape[:-1]
    return (
        xp.full((*rows, 1), -math.inf, q_block.dtype),
        xp.zeros((*rows, 1), q_block.dtype),
        xp.zeros((*rows, value_size), q_block.dtype),
    )


def _heads_last(xp, lead, rows, size, dtype):
    """An empty (..., H, T, D) array laid out as (..., T, H, D), so that merging the heads afterwards needs no copy."""
    if not lead:
        return xp.empty((rows, size), dtype)
    return xp.empty((*lead[:-1], rows, lead[-1], size), dtype).swapaxes(-2, -3)
