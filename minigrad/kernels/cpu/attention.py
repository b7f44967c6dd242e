"""Attention in tiles: the same result as functional/attention.py, up to rounding, but the T x S matrix of attention
weights never exists as a whole.

Three ideas, from Dao et al. 2022 (FlashAttention) and Milakov & Gimelshein 2018 (online softmax):

1. *Online softmax.* The softmax of a row needs its maximum and its sum. We read the keys tile by tile and keep both as
   running values m and l, together with the unfinished output. When a tile raises the maximum from m to m', the sums so
   far are multiplied by e^(m - m'). At the end, out = sum / l. Besides the output, only m + ln l is saved: one number
   per row, so memory is O(T).
2. *Recompute instead of storing.* Backward computes the weights of each tile again, as e^(scores - (m + ln l)), and
   uses them at once. The row sum in softmax's backward, Σ_j dprobs_j probs_j, equals dout · out: it needs no weights.
3. *Skip what the mask hides.* With a causal mask, tiles above the diagonal are not computed, which saves nearly half of
   the work. With a mask of booleans, keys that no query of a block sees are in no tile.

One head without a mask, in tiles of two keys, first forward:

>>> q, k, v, dout = np.random.default_rng(0).normal(size=(4, 6, 3))  # (T, D) each
>>> k /= math.sqrt(3)  # the scale
>>> m, l, out = np.full((6, 1), -np.inf), np.zeros((6, 1)), np.zeros((6, 3))
>>> for keys in (slice(0, 2), slice(2, 4), slice(4, 6)):
...     scores = q @ k[keys].T  # (T, 2): a tile
...     larger = np.maximum(m, scores.max(axis=1, keepdims=True))  # m', the maximum so far
...     weights, shrink = np.exp(scores - larger), np.exp(m - larger)
...     l = l * shrink + weights.sum(axis=1, keepdims=True)
...     out = out * shrink + weights @ v[keys]
...     m = larger
>>> out /= l
>>> probs = np.exp(q @ k.T) / np.exp(q @ k.T).sum(axis=1, keepdims=True)  # all weights at once
>>> np.allclose(out, probs @ v)
True

And backward, from `out` and one number per row. Here, too, only a tile of the weights exists at a time:

>>> saved, row_sums = m + np.log(l), (dout * out).sum(axis=1, keepdims=True)
>>> dq, dk, dv = np.zeros((3, 6, 3))
>>> for keys in (slice(0, 2), slice(2, 4), slice(4, 6)):
...     tile = np.exp(q @ k[keys].T - saved)  # probs[:, keys], again
...     dscores = tile * (dout @ v[keys].T - row_sums)
...     dv[keys] = tile.T @ dout
...     dk[keys] = dscores.T @ q
...     dq += dscores @ k[keys]
>>> dscores = probs * (dout @ v.T - (dout @ v.T * probs).sum(axis=1, keepdims=True))
>>> np.allclose(dq, dscores @ k), np.allclose(dk, dscores.T @ q), np.allclose(dv, probs.T @ dout)
(True, True, True)

Two more ideas make the products fast. The keys and values of a head are copied once into contiguous memory, in forward
with the keys as columns. And in backward, which works on transposed tiles (keys x queries), subtractions are part of a
product: with a column of ones beside the keys, and the negative of the subtrahend beside the queries,

    [k, 1] @ [q, -(m + ln l)]ᵀ = scoresᵀ - (m + ln l)            [v, 1] @ [dout, -dout · out]ᵀ = dprobsᵀ - dout · out

A tile has a few heads x query rows x KEYS numbers, which fit in the processor's cache. Groups of heads are split among
the threads. Query heads that share a head of keys and values (grouped-query attention) stay in one group, which reads
the keys and values once.
"""

from __future__ import annotations

import functools
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

FAR = 8192  # beyond it, m + ln l is too coarse in float32: see _sums_of_probs
KEYS = 1024  # keys of a tile
TILE = 256 * 1024  # numbers in a tile over all its heads


class _Plan:
    """What all tiles of one call share: the operands with common leading axes, and the order of the tiles.

    Below, B stands for all leading axes before the heads. With groups of query heads, H is the number of heads in a
    group, and B includes the groups.
    """

    def __init__(self, q, k, v, mask, is_causal, scale, dropout_p, stream):
        # Leading axes. Of q, k and v (2, 12, T, D), they are (2, 12): B = 2 and H = 12, and nothing is shared. Of
        # q (2, 4, 3, T, D) with k and v (2, 4, 1, S, D), they are (2, 4, 3), shared, with the key_lead (2, 4, 1).
        mask_lead = () if mask is None else mask.shape[:-2]
        self.scores_lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], mask_lead)  # those of q kᵀ + mask
        lead = np.broadcast_shapes(self.scores_lead, v.shape[:-2])
        self.lead = (1,) * (2 - len(lead)) + lead  # (B, H), even where the caller has no batch or head axis
        self.shared = _shares_keys(q, k, v)  # do all H query heads read the same keys and values?
        self.key_lead = (*lead[:-1], 1) if self.shared else self.lead  # (B, H), or (B, 1) if shared
        # What the caller passed, and gets.
        self.shapes = q.shape, k.shape, v.shape  # those of the gradients too
        self.out_shape = (*lead, q.shape[-2], v.shape[-1])  # (..., T, D)
        # The operands. The mask is (B, H, T, S), or None.
        self.q = np.broadcast_to(q, (*self.lead, *q.shape[-2:]))  # (B, H, T, D)
        self.k, self.v = (np.broadcast_to(x, (*self.key_lead, *x.shape[-2:])) for x in (k, v))  # (B, H or 1, S, D)
        self.queries, self.keys = q.shape[-2], k.shape[-2]  # T and S
        self.mask = None if mask is None else np.broadcast_to(mask, (*self.lead, self.queries, self.keys))
        self.is_causal, self.scale, self.dropout_p, self.stream = is_causal, scale, dropout_p, stream
        # The tiles.
        self.rows = DROPOUT_ROWS  # R, the query rows of a tile
        self.above_diagonal = np.triu(np.full((self.rows, self.rows), -math.inf, q.dtype), 1)  # (R, R): 0 or -inf
        self.may_hide_rows = mask is not None  # may all keys of a query be hidden?
        self.seen: Any = None  # (T, S) booleans: the keys that a query sees in at least one head
        if mask is not None and mask.dtype == bool:
            self.seen = np.broadcast_to(mask.any(axis=tuple(range(mask.ndim - 2))), (self.queries, self.keys))
        self.far: Any = None  # (B, H, T, 1), in backward, if some rows need it: see _sums_of_probs

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

        12 heads, 4 fit: 3 groups for each sequence. 2 heads, 4 fit: the heads of 2 sequences are a group. If there is
        too little work to share, all heads are one group.
        """
        *outer, batch, heads = self.lead
        most = max(1, TILE // max(1, min(self.rows, self.queries) * min(self.keys, KEYS)))  # heads that fit in a tile
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
        keys = min(rows.stop, self.keys) if self.is_causal else self.keys
        runs: Any = [range(keys)]
        if self.seen is not None:  # no tile where many keys are hidden
            seen = np.flatnonzero(self.seen[rows].any(axis=0))
            # Cut where R keys or more in a row are hidden.
            runs = np.split(seen, np.flatnonzero(np.diff(seen) > self.rows) + 1)
        for run in runs:
            for column in range(run[0], run[-1] + 1, KEYS) if len(run) else ():
                yield slice(column, min(column + KEYS, run[-1] + 1))

    def hide(self, scores, heads, rows, columns):
        """The scores of a tile (b, h, R, columns) with -inf at masked places. The causal mask is applied in place."""
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
        numbers = np.arange(math.prod(self.scores_lead)).reshape(self.scores_lead)  # values may have more leading axes
        numbers = np.broadcast_to(numbers, self.lead)[heads]  # of the heads of this tile
        shape = (rows.stop - rows.start, self.keys)
        block = rows.start // DROPOUT_ROWS
        draw = functools.partial(keep_scale, np, self.q.dtype, self.stream, shape, self.dropout_p, block=block)
        per_row = math.prod(self.scores_lead[1:])
        tile = np.stack([draw(place_in_batch(int(head), per_row)) for head in numbers.flat])[:, :, columns]
        return tile.reshape(*numbers.shape, *tile.shape[1:])


class TiledAttention(Function):
    """softmax(q kᵀ scale + mask) v, tile by tile. See ScaledDotProductAttention for the mathematics."""

    @staticmethod
    def suits(needs_grad, q, k, v, mask, is_causal, scale, dropout_p, stream):
        """Not for a learned mask, whose gradient needs the weights themselves; nor for one row, which has no tiles."""
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
        ctx.logsumexp = np.empty((*plan.lead, q.shape[-2], 1), q.dtype)

        def attend(heads):
            k, v = plan.k[plan.of_keys(heads)], plan.v[plan.of_keys(heads)]
            keys, values = np.ascontiguousarray(k.swapaxes(-1, -2)), np.ascontiguousarray(v)
            for rows in plan.query_blocks():
                out, logsumexp = _forward_rows(plan, heads, rows, keys, values)
                ctx.out[heads][..., rows, :], ctx.logsumexp[heads][..., rows, :] = out, logsumexp

        parallel(attend, plan.head_groups())
        return ctx.out.reshape(plan.out_shape)

    @staticmethod
    def backward(ctx, dout):
        plan = ctx.plan
        dq, dk, dv = plan.empty_gradients(dout.dtype)
        dout = dout.reshape(ctx.out.shape)
        plan.above_diagonal = np.asfortranarray(plan.above_diagonal)  # same values; only the layout changes
        logsumexp = ctx.logsumexp
        far = np.abs(ctx.logsumexp) > FAR  # a rare case: see _sums_of_probs
        if far.any():
            plan.far = np.where(far, logsumexp, 0)
            logsumexp = logsumexp - plan.far

        def attend(heads):
            keys, values = (_with_column(x[plan.of_keys(heads)], 1) for x in (plan.k, plan.v))  # (b, h or 1, S, D + 1)
            dkeys, dvalues = np.zeros_like(keys[..., :-1]), np.zeros_like(values[..., :-1])
            for rows in plan.query_blocks():
                at = (..., rows, slice(None))
                queries = _with_column(plan.q[heads][at] * plan.scale, -logsumexp[heads][at])
                dots = np.einsum("...i,...i->...", dout[heads][at], ctx.out[heads][at])  # (b, h, R): dout · out
                douts = _with_column(dout[heads][at], -dots[..., None])
                if plan.far is not None:
                    douts /= np.where(far[heads][at], _sums_of_probs(plan, heads, rows, queries, keys), 1)
                dq[heads][at] = _backward_rows(plan, heads, rows, queries, keys, values, douts, dkeys, dvalues)
            dk[plan.of_keys(heads)], dv[plan.of_keys(heads)] = dkeys, dvalues

        parallel(attend, plan.head_groups())
        gradients = zip((dq, dk, dv), plan.shapes, strict=True)
        return *(plan.sum_to_input(gradient, shape) for gradient, shape in gradients), None


def _forward_rows(plan, heads, rows, keys, values):
    """Output and m + ln l of a block of queries; keys (b, h, D, S) and values (b, h, S, D)."""
    q = plan.q[heads][..., rows, :] * plan.scale  # (b, h, R, D)
    running_max: Any = None
    running_sum: Any = None
    weighted: Any = None
    for columns in plan.key_blocks(rows):
        scores = plan.hide(q @ keys[..., columns], heads, rows, columns)  # (b, h, R, KEYS)
        new_max = scores.max(axis=-1, keepdims=True)
        if running_max is not None:
            new_max = np.maximum(running_max, new_max)
        # where nothing has been seen yet, e^(-inf - 0) = 0 and not e^(-inf + inf) = nan
        safe_max = np.where(np.isinf(new_max), 0, new_max) if plan.may_hide_rows else new_max
        scores -= safe_max
        probs = np.exp(scores, out=scores)
        tile_sum = (probs @ np.ones(probs.shape[-1], probs.dtype))[..., None]  # sums of rows, as products with ones
        keep = plan.keep(heads, rows, columns)
        tile_out = (probs if keep is None else probs * keep) @ values[..., columns, :]
        if running_max is None:
            running_sum, weighted = tile_sum, tile_out
        else:
            shrink = np.exp(running_max - safe_max)
            running_sum = running_sum * shrink + tile_sum
            weighted = weighted * shrink + tile_out
        running_max = new_max  # -inf while nothing has been seen
    if running_max is None:  # no keys at all
        return 0, 0
    seen = np.where(running_sum != 0, running_sum, 1)
    weighted /= seen
    return weighted, safe_max + np.log(seen)


def _backward_rows(plan, heads, rows, queries, keys, values, douts, dkeys, dvalues):
    """dq of a block of queries; adds to dkeys and dvalues (b, h or 1, S, D). Tiles are (b, h, KEYS, R): a row per key.

    queries [q scale, -(m + ln l)], keys [k, 1], values [v, 1], douts [dout, -dout · out].
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
    if plan.far is not None:
        scores -= plan.far[heads][..., rows, :]  # see _sums_of_probs
    scores = scores.swapaxes(-1, -2)
    return np.exp(scores, out=scores)


def _sums_of_probs(plan, heads, rows, queries, keys):
    """The sum of each row's `_probs`, (b, h, R, 1): not 1 in rows far from 0, because of rounding in m + ln l.

    Neighboring float32 numbers are 0.001 apart beyond FAR. If a mask of numbers adds -1e9 to a whole row, m is about
    -1e9, where they are 64 apart. For such rows backward does two things:

    * It subtracts their m + ln l, `plan.far`, only after the mask has been added: then the difference is exact.
    * In m + ln l itself, ln l is lost. So all probs of the row are wrong by one factor, which is their sum. Backward
      divides dout by it, and so dq, dk and dv.
    """
    tiles = (_probs(plan, heads, rows, columns, queries, keys) for columns in plan.key_blocks(rows))
    return sum((tile.sum(axis=-2) for tile in tiles), np.zeros(queries.shape[:-1], queries.dtype))[..., None]


def _add_shared(total, addend):
    """total += addend. Query heads that share the keys and values of `total` are summed."""
    total += addend if addend.shape == total.shape else addend.sum(axis=-3, keepdims=True)


def _shares_keys(q, k, v):
    """Whether the last leading axis is a group of query heads that share their keys and values."""
    return k.ndim == v.ndim == q.ndim >= 4 and k.shape[-3] == v.shape[-3] == 1 < q.shape[-3]


def _group_as_rows(ctx, q, k, v, mask, scale):
    """With one query per head, the G heads of a group (..., G, 1, D) become G rows of one head: keys are read once."""
    if mask is not None and mask.ndim >= 3:  # (..., 1 or G, 1, S) -> (..., 1 or G, S)
        mask = mask[..., 0, :]
    rows, keys, values = q[..., 0, :], k[..., 0, :, :], v[..., 0, :, :]
    return ScaledDotProductAttention.forward(ctx, rows, keys, values, mask, False, scale, 0, None)[..., None, :]


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


def _with_column(x, column):
    """[x, column]: (..., D + 1)."""
    out = np.empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    out[..., :-1], out[..., -1:] = x, column
    return out
