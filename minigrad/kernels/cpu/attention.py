"""Attention in tiles: the same result as functional/attention.py, up to rounding, but the T x S matrix of attention
weights never exists as a whole.

Three ideas, from Dao et al. 2022 (FlashAttention) and Milakov & Gimelshein 2018 (online softmax):

1. *Online softmax.* A row of the output is Σ_j e^(score_j - m) v_j / l, where m is the row's largest score, and
   l = Σ_j e^(score_j - m). We read the keys tile by tile, and keep m and both sums as they are so far. When a tile
   raises the maximum from m to m', the sums so far are multiplied by e^(m - m'). The division by l comes at the end.
   Besides the output, only m + ln l is saved: one number per row, so memory is O(T).
2. *Recompute instead of storing.* Backward computes the weights of each tile again, as e^(score - (m + ln l)), and uses
   them at once. The row sum in softmax's backward, Σ_j dprobs_j probs_j, equals dout · out (`row_sums`).
3. *Skip what the mask hides.* With a causal mask, tiles above the diagonal are not computed, which saves nearly half of
   the work. With a mask of booleans, keys that no query of a block sees are in no tile.

*One head* without a mask, in tiles of two keys. First forward, which equals the textbook form:

>>> q, k, v, dout = np.random.default_rng(0).normal(size=(4, 6, 3))  # (T, D) each
>>> k /= math.sqrt(3)  # the scale
>>> m = np.full((6, 1), -np.inf)  # the largest score so far
>>> l = np.zeros((6, 1))
>>> out = np.zeros((6, 3))
>>> for keys in (slice(0, 2), slice(2, 4), slice(4, 6)):
...     scores = q @ k[keys].T  # (T, 2): a tile
...     new_m = np.maximum(m, scores.max(axis=1, keepdims=True))
...     weights = np.exp(scores - new_m)
...     shrink = np.exp(m - new_m)  # e^(m - m'), 0 for the first tile
...     l = l * shrink + weights.sum(axis=1, keepdims=True)
...     out = out * shrink + weights @ v[keys]
...     m = new_m
>>> out /= l
>>> probs = np.exp(q @ k.T) / np.exp(q @ k.T).sum(axis=1, keepdims=True)  # the textbook form: all weights at once
>>> np.allclose(out, probs @ v)
True

Then backward, from `out` and one number per row. Again only one tile of the weights exists at a time:

>>> logsumexp = m + np.log(l)
>>> row_sums = (dout * out).sum(axis=1, keepdims=True)
>>> dq, dk, dv = np.zeros((3, 6, 3))
>>> for keys in (slice(0, 2), slice(2, 4), slice(4, 6)):
...     tile = np.exp(q @ k[keys].T - logsumexp)  # probs[:, keys], again
...     dscores = tile * (dout @ v[keys].T - row_sums)
...     dv[keys] = tile.T @ dout
...     dk[keys] = dscores.T @ q
...     dq += dscores @ k[keys]
>>> dscores = probs * (dout @ v.T - (dout @ v.T * probs).sum(axis=1, keepdims=True))  # the textbook form
>>> np.allclose(dq, dscores @ k), np.allclose(dk, dscores.T @ q), np.allclose(dv, probs.T @ dout)
(True, True, True)

`_forward_rows` and `_backward_rows` are these two loops for several heads, with a mask and dropout. `TiledAttention`
calls them for each block of queries. `_Plan` decides which heads, queries and keys a tile has.

Two more ideas make the products fast. The keys and values of a head are copied once into contiguous memory, in forward
with the keys as columns. And in backward, which works on transposed tiles (keys x queries), subtractions are part of a
product: with a column of ones beside the keys, and the negative of the subtrahend beside the queries,

    [k, 1] @ [q, -(m + ln l)]ᵀ = scoresᵀ - (m + ln l)            [v, 1] @ [dout, -row_sums]ᵀ = dprobsᵀ - row_sumsᵀ
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...autograd import Context, Function
from ...backend import place_in_batch
from ...functional.attention import ScaledDotProductAttention, SplitHeads
from ...functional.broadcasting import unbroadcast
from ...functional.stochastic import DROPOUT_ROWS, keep_scale
from .threads import SMALL, divide_evenly, parallel

KEYS = 1024  # keys of a tile
TILE = 256 * 1024  # numbers in a tile over all its heads: they fit in the processor's cache
FAR = 8192  # beyond it, m + ln l is too coarse in float32: see _split_far


class TiledAttention(Function):
    """softmax(q kᵀ scale + mask) v, tile by tile. See ScaledDotProductAttention for the mathematics."""

    @staticmethod
    def suits(needs_grad, q, k, v, mask, is_causal, scale, dropout_p, stream):
        """Not for a learned mask, whose gradient needs the weights themselves.

        Nor for one query, which has no tiles, except in groups of heads: see `_group_as_rows`.
        """
        if mask is not None and needs_grad[3]:
            return False
        is_one_row = q.shape[-2] == 1 and True not in needs_grad[:3]
        return not is_one_row or (_shares_keys(q, k, v) and not is_causal and not dropout_p)

    @staticmethod
    def forward(ctx, q, k, v, mask, is_causal, scale, dropout_p, stream):
        if q.shape[-2] == 1 and True not in ctx.needs_grad[:3]:
            return _group_as_rows(ctx, q, k, v, mask, scale)
        ctx.q, ctx.k, ctx.v = q, k, v  # where the engine sees what is saved
        ctx.plan = plan = _Plan(q, k, v, mask, is_causal, scale, dropout_p, stream)
        ctx.out = plan.empty_heads_last(plan.lead, q.shape[-2], v.shape[-1], q.dtype)
        ctx.logsumexp = np.empty((*plan.lead, q.shape[-2], 1), q.dtype)  # m + ln l of each query

        def attend(heads):
            k, v = plan.k[plan.of_keys(heads)], plan.v[plan.of_keys(heads)]
            keys, values = np.ascontiguousarray(k.swapaxes(-1, -2)), np.ascontiguousarray(v)
            for rows in plan.query_blocks():
                out, logsumexp = _forward_rows(plan, heads, rows, keys, values)
                ctx.out[heads][..., rows, :] = out
                ctx.logsumexp[heads][..., rows, :] = logsumexp

        parallel(attend, plan.head_groups())
        return ctx.out.reshape(plan.out_shape)

    @staticmethod
    def backward(ctx, dout):
        plan = ctx.plan
        dq, dk, dv = plan.empty_gradients(dout.dtype)
        dout = dout.reshape(ctx.out.shape)
        plan.above_diagonal = np.asfortranarray(plan.above_diagonal)  # same values; only the layout changes
        logsumexp = _split_far(plan, ctx.logsumexp)

        def attend(heads):
            keys, values = (_with_column(x[plan.of_keys(heads)], 1) for x in (plan.k, plan.v))  # (b, h or 1, S, D + 1)
            dkeys, dvalues = np.zeros_like(keys[..., :-1]), np.zeros_like(values[..., :-1])
            for rows in plan.query_blocks():
                dout_rows = dout[heads][..., rows, :]  # (b, h, R, D)
                row_sums = np.einsum("...i,...i->...", dout_rows, ctx.out[heads][..., rows, :])  # (b, h, R): dout · out
                douts = _with_column(dout_rows, -row_sums[..., None])
                queries = _with_column(plan.q[heads][..., rows, :] * plan.scale, -logsumexp[heads][..., rows, :])
                if plan.far is not None:  # only for scores beyond 8,192: see the end of this file
                    douts /= _sums_of_far_rows(plan, heads, rows, queries, keys)
                dq[heads][..., rows, :] = _backward_rows(
                    plan, heads, rows, queries, keys, values, douts, dkeys, dvalues
                )
            dk[plan.of_keys(heads)] = dkeys
            dv[plan.of_keys(heads)] = dvalues

        parallel(attend, plan.head_groups())
        gradients = zip((dq, dk, dv), plan.shapes, strict=True)
        return *(plan.sum_to_input(gradient, shape) for gradient, shape in gradients), None


# --- a block of queries -----------------------------------------------------------------------------------------------
#
# The scores are (B, H, T, S), and a tile of them is scores[heads][..., rows, columns], (b, h, R, KEYS). Here `heads` is
# the index of a few sequences and heads, `rows` a slice of R queries, and `columns` a slice of up to KEYS keys.


def _forward_rows(plan, heads, rows, keys, values):
    """Output and m + ln l of a block of queries; keys (b, h, D, S) and values (b, h, S, D)."""
    q = plan.q[heads][..., rows, :] * plan.scale  # (b, h, R, D)
    m: Any = None  # (b, h, R, 1), as l
    l: Any = None
    out: Any = None  # (b, h, R, D)
    for columns in plan.key_blocks(rows):
        scores = plan.hide(q @ keys[..., columns], heads, rows, columns)  # (b, h, R, KEYS)
        new_m = scores.max(axis=-1, keepdims=True)
        if m is not None:
            new_m = np.maximum(m, new_m)
        # where nothing has been seen yet, e^(-inf - 0) = 0 and not e^(-inf + inf) = nan
        safe_m = np.where(np.isinf(new_m), 0, new_m) if plan.may_hide_rows else new_m
        scores -= safe_m
        weights = np.exp(scores, out=scores)
        tile_l = (weights @ np.ones(weights.shape[-1], weights.dtype))[..., None]  # sums of rows, as products with ones
        keep = plan.keep(heads, rows, columns)  # dropout
        tile_out = (weights if keep is None else weights * keep) @ values[..., columns, :]
        if m is None:  # the first tile
            l, out = tile_l, tile_out
        else:
            shrink = np.exp(m - safe_m)
            l = l * shrink + tile_l
            out = out * shrink + tile_out
        m = new_m  # -inf while nothing has been seen
    if m is None:  # no keys at all
        return 0, 0
    l = np.where(l != 0, l, 1)  # 0 for a query that sees no key: its output is 0
    out /= l
    return out, safe_m + np.log(l)


def _backward_rows(plan, heads, rows, queries, keys, values, douts, dkeys, dvalues):
    """dq of a block of queries; adds to dkeys and dvalues (b, h or 1, S, D). Tiles are (b, h, KEYS, R): a row per key.

    queries [q scale, -(m + ln l)], keys [k, 1], values [v, 1], douts [dout, -row_sums].
    """
    q, dout = queries[..., :-1], douts[..., :-1]
    dq = np.zeros_like(q)
    for columns in plan.key_blocks(rows):
        probs = _probs(plan, heads, rows, columns, queries, keys)
        keep = plan.keep(heads, rows, columns)
        # out = (probs * keep) @ v
        if keep is None:
            _add_shared(dvalues[..., columns, :], probs @ dout)
            dscores = values[..., columns, :] @ douts.swapaxes(-1, -2)
        else:
            keep = keep.swapaxes(-1, -2)
            _add_shared(dvalues[..., columns, :], (probs * keep) @ dout)
            dscores = values[..., columns, :-1] @ dout.swapaxes(-1, -2)
            dscores *= keep
            dscores += douts[..., -1][..., None, :]
        # probs = softmax(scores)
        dscores *= probs
        # scores = (q * scale) @ k.T
        dq += dscores.swapaxes(-1, -2) @ keys[..., columns, :-1]
        _add_shared(dkeys[..., columns, :], dscores @ q)
    dq *= plan.scale
    return dq


def _probs(plan, heads, rows, columns, queries, keys):
    """e^(scores - (m + ln l)) of a tile (b, h, KEYS, R)."""
    scores = keys[..., columns, :] @ queries.swapaxes(-1, -2)  # less (m + ln l)
    scores = plan.hide(scores.swapaxes(-1, -2), heads, rows, columns)
    if plan.far is not None:  # only for scores beyond 8,192: see the end of this file
        scores -= plan.far[heads][..., rows, :]
    scores = scores.swapaxes(-1, -2)
    return np.exp(scores, out=scores)


def _add_shared(total, addend):
    """total += addend. Query heads that share the keys and values of `total` are summed."""
    total += addend if addend.shape == total.shape else addend.sum(axis=-3, keepdims=True)


def _with_column(x, column):
    """[x, column]: (..., D + 1)."""
    out = np.empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    out[..., :-1], out[..., -1:] = x, column
    return out


# --- which tiles ------------------------------------------------------------------------------------------------------


class _Plan:
    """What all tiles of one call share: the operands with common leading axes, and the order of the tiles.

    As a rule, q, k and v are (2, 12, T, D), say: then the leading axes are (2, 12), so B = 2 and H = 12.

    In grouped-query attention, several query heads share a head of keys and values. Then q is (2, 4, 3, T, D), and k
    and v are (2, 4, 1, S, D). The leading axes are (2, 4, 3): H = 3 is the number of heads in a group, and B stands for
    (2, 4). A group stays in one tile, which reads its keys and values once.
    """

    def __init__(self, q, k, v, mask, is_causal, scale, dropout_p, stream):
        # The leading axes.
        mask_lead = () if mask is None else mask.shape[:-2]
        self.scores_lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], mask_lead)  # those of q kᵀ + mask
        lead = np.broadcast_shapes(self.scores_lead, v.shape[:-2])
        self.lead = (1,) * (2 - len(lead)) + lead  # (B, H), even where the caller has no batch or head axis
        self.shared = _shares_keys(q, k, v)  # do all H query heads read the same keys and values?
        self.key_lead = (*lead[:-1], 1) if self.shared else self.lead  # (B, H), or (B, 1) if shared
        # What the caller passed, and gets.
        self.shapes = q.shape, k.shape, v.shape  # dq, dk and dv have the same
        self.out_shape = (*lead, q.shape[-2], v.shape[-1])  # (..., T, D)
        # The operands. The mask is (B, H, T, S), or None.
        self.q = np.broadcast_to(q, (*self.lead, *q.shape[-2:]))  # (B, H, T, D)
        self.k, self.v = (np.broadcast_to(x, (*self.key_lead, *x.shape[-2:])) for x in (k, v))  # (B, H or 1, S, D)
        self.queries, self.keys = q.shape[-2], k.shape[-2]  # T and S
        self.mask = None if mask is None else np.broadcast_to(mask, (*self.lead, self.queries, self.keys))
        self.is_causal, self.scale, self.dropout_p, self.stream = is_causal, scale, dropout_p, stream
        # The tiles.
        self.rows = DROPOUT_ROWS  # R, the query rows of a tile: as many as dropout is drawn for at once
        self.above_diagonal = np.triu(np.full((self.rows, self.rows), -math.inf, q.dtype), 1)  # (R, R): 0 or -inf
        self.may_hide_rows = mask is not None  # may all keys of a query be hidden?
        self.seen: Any = None  # (T, S) booleans: the keys that a query sees in at least one head
        if mask is not None and mask.dtype == bool:
            self.seen = np.broadcast_to(mask.any(axis=tuple(range(mask.ndim - 2))), (self.queries, self.keys))
        self.far: Any = None  # (B, H, T, 1), in backward, if there are far rows: see _split_far

    def of_keys(self, heads):
        """The index of the keys and values of `heads`: the only head of them if they are shared."""
        return (*heads[:-1], slice(0, 1)) if self.shared else heads

    def sum_to_input(self, gradient, shape):
        """A gradient with the common leading axes, summed to the shape of its input."""
        lead = gradient.shape[gradient.ndim - len(self.out_shape) : -2]  # without the axes that __init__ added
        return unbroadcast(gradient.reshape(*lead, *shape[-2:]), shape)

    def empty_heads_last(self, lead, rows, size, dtype):
        """An empty (..., H, T, D) array laid out as (..., T, H, D), so that merging the heads afterwards needs no copy.

        With the heads in groups, (..., K, G, T, D) as (..., T, K, G, D).
        """
        heads = 2 if self.shared else 1
        outer, inner = lead[: len(lead) - heads], lead[len(lead) - heads :]
        in_memory = np.empty((*outer, rows, *inner, size), dtype)  # (..., T, H, D)
        return np.moveaxis(in_memory, len(outer), -2)  # (..., H, T, D)

    def empty_gradients(self, dtype):
        """Empty dq, dk and dv. If their shapes are equal, they have the memory layout that `FastSplitHeads` expects."""
        if self.q.shape == self.k.shape == self.v.shape:
            *outer, heads, rows, size = self.q.shape
            in_memory = np.empty((*outer, rows, 3, heads, size), dtype)  # (..., T, 3, H, D)
            return np.moveaxis(in_memory, -3, 0).swapaxes(-2, -3)  # (3, ..., T, H, D), then (3, ..., H, T, D)
        return [self.empty_heads_last(x.shape[:-2], x.shape[-2], x.shape[-1], dtype) for x in (self.q, self.k, self.v)]

    def head_groups(self) -> Iterator[tuple[Any, ...]]:
        """The heads to compute together: as many as fit in a tile, in groups that split evenly among the threads.

        If 4 heads fit in a tile, the 12 heads of a sequence are 3 groups. If a sequence has 2 heads, those of 2
        sequences are a group. If there is too little work for several threads, all heads are one group.
        """
        *outer, batch, heads = self.lead
        per_head = min(self.rows, self.queries) * min(self.keys, KEYS)  # numbers in a tile
        most = max(1, TILE // max(1, per_head))  # heads that fit in a tile
        # The largest piece of the heads, up to `most`, that gives all threads equally many pieces.
        together = heads if self.shared else divide_evenly(heads, most, batch)
        sequences = 1
        if together == heads:  # perhaps those of several sequences fit
            sequences = divide_evenly(batch, max(1, most // max(heads, 1)), 1)
        if math.prod(self.lead) * self.queries * self.keys < SMALL:
            together, sequences = max(heads, 1), max(batch, 1)
        for index in np.ndindex(*outer):
            for first in range(0, batch, sequences):
                for head in range(0, heads, together):
                    yield (*index, slice(first, first + sequences), slice(head, head + together))

    def query_blocks(self) -> Iterator[slice]:
        for row in range(0, self.queries, self.rows):
            yield slice(row, min(row + self.rows, self.queries))

    def key_blocks(self, rows: slice) -> Iterator[slice]:
        """The columns of the tiles for these queries: none above the diagonal, and none where a mask hides R or more.

        If a mask of booleans shows keys 0 to 3 and 400 to 431, these are two tiles.
        """
        keys = min(rows.stop, self.keys) if self.is_causal else self.keys
        runs: Any = [range(keys)]  # runs of keys: one as a rule
        if self.seen is not None:
            seen = np.flatnonzero(self.seen[rows].any(axis=0))
            runs = np.split(seen, np.flatnonzero(np.diff(seen) > self.rows) + 1)  # cut at each gap of R keys
        for run in runs:
            if len(run):
                stop = run[-1] + 1
                for column in range(run[0], stop, KEYS):
                    yield slice(column, min(column + KEYS, stop))

    def hide(self, scores, heads, rows, columns):
        """The scores of a tile (b, h, R, columns) with -inf at masked places. The causal mask is applied in place.

        Say R = 64, and the tile has rows 64 to 127 and columns 0 to 127: the diagonal crosses columns 64 to 127.
        """
        if self.is_causal and columns.stop > rows.start:  # the diagonal crosses this tile: hide the scores right of it
            crossed = slice(max(rows.start, columns.start), columns.stop)
            first = crossed.start - rows.start
            mask = self.above_diagonal[: rows.stop - rows.start, first : first + crossed.stop - crossed.start]
            scores[..., crossed.start - columns.start :] += mask
        if self.mask is not None:
            mask = self.mask[heads][..., rows, columns]
            scores = np.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
        return scores

    def keep(self, heads, rows, columns):
        """The dropout scales of a tile, equal to those that the textbook form draws for the same place."""
        if self.dropout_p == 0:
            return None
        # The number of each head of this tile, from 0 to B H - 1. (The values may have more leading axes.)
        numbers = np.arange(math.prod(self.scores_lead)).reshape(self.scores_lead)
        numbers = np.broadcast_to(numbers, self.lead)[heads]
        per_row = math.prod(self.scores_lead[1:])
        shape = (rows.stop - rows.start, self.keys)
        block = rows.start // DROPOUT_ROWS
        scales = []
        for number in numbers.flat:
            head = place_in_batch(int(number), per_row)
            scales.append(keep_scale(np, self.q.dtype, self.stream, shape, self.dropout_p, head, block))
        tile = np.stack(scales)[:, :, columns]
        return tile.reshape(*numbers.shape, *tile.shape[1:])


def _shares_keys(q, k, v):
    """Whether the last leading axis is a group of query heads that share their keys and values."""
    return k.ndim == v.ndim == q.ndim >= 4 and k.shape[-3] == v.shape[-3] == 1 < q.shape[-3]


# --- rows with scores far from 0: a rare case -------------------------------------------------------------------------
#
# Beyond FAR, neighboring float32 numbers are 0.001 apart. If a mask of numbers adds -1e9 to a whole row, m is about
# -1e9, where they are 64 apart. Backward does two things for such rows:
#
# 1. It subtracts their m + ln l, `plan.far`, only after the mask has been added. Then the difference is exact.
# 2. In m + ln l itself, ln l is lost. So all weights of the row are wrong by one factor, which is their sum. Backward
#    divides dout by it, and so dq, dk and dv.


def _split_far(plan, logsumexp):
    """m + ln l (B, H, T, 1) with 0 in far rows. If there are any, `plan.far` holds theirs, and is 0 in all others."""
    is_far = np.abs(logsumexp) > FAR
    if not is_far.any():
        return logsumexp
    plan.far = np.where(is_far, logsumexp, 0)
    return logsumexp - plan.far


def _sums_of_far_rows(plan, heads, rows, queries, keys):
    """The sum of the weights of each far row, and 1 for the others: (b, h, R, 1)."""
    tiles = (_probs(plan, heads, rows, columns, queries, keys) for columns in plan.key_blocks(rows))
    sums = sum((tile.sum(axis=-2) for tile in tiles), np.zeros(queries.shape[:-1], queries.dtype))
    return np.where(plan.far[heads][..., rows, :] != 0, sums[..., None], 1)


# --- one query: a token is written -----------------------------------------------------------------------------------


def _group_as_rows(ctx, q, k, v, mask, scale):
    """With one query per head, the G heads of a group (..., G, 1, D) become G rows of one head: keys are read once."""
    if mask is not None and mask.ndim >= 3:  # (..., 1 or G, 1, S) -> (..., 1 or G, S)
        mask = mask[..., 0, :]
    rows, keys, values = q[..., 0, :], k[..., 0, :, :], v[..., 0, :, :]
    return ScaledDotProductAttention.forward(ctx, rows, keys, values, mask, False, scale, 0, None)[..., None, :]


# --- the heads of q, k and v ------------------------------------------------------------------------------------------


class FastSplitHeads(Function):
    """Like functional.attention.SplitHeads, without a copy if the gradients are already side by side in memory."""

    forward = SplitHeads.forward

    @staticmethod
    def backward(ctx, *douts):
        if len(douts) == 1:
            return (douts[0].transpose(0, 2, 1, 3).reshape(ctx.shape),)
        whole = douts[0].base
        if whole is not None and whole.flags.c_contiguous and whole.size == math.prod(ctx.shape):
            _, heads, _, size = douts[0].shape  # (B, H, T, D)
            # whole (B, T, 3, H, D), as `empty_gradients` makes it: are its parts (B, H, T, D) the douts?
            parts = SplitHeads.forward(Context(), whole.reshape(ctx.shape), heads, len(douts))
            if all(_same_place(dout, part) for dout, part in zip(douts, parts, strict=True)):
                return (whole.reshape(ctx.shape),)
        return SplitHeads.backward(ctx, *douts)


def _same_place(x, y):
    """Whether two arrays of one shape are the same part of memory, read in the same order."""
    return x.strides == y.strides and x.__array_interface__["data"] == y.__array_interface__["data"]
