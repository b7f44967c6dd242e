"""Attention on a GPU: cuBLAS multiplies, and one kernel in each direction does everything between the products.

    scores = q kᵀ scale,  probs = softmax(scores where seen),  out = probs v        (see functional/attention.py)

* *Tiles.* Only the scores of some heads and QUERIES queries exist at a time, so memory stays bounded for any length of
  text. With a causal mask a tile ends at the key of its last query, which saves nearly half of the work.
* *Recompute instead of storing.* Forward saves one number per row, ln Σ e^score. Backward multiplies q kᵀ again, and
  each weight is e^(score - that number), so no weights are saved (Dao et al. 2022, FlashAttention).
* *Grouped queries.* The G query heads that share a key head become G adjacent rows of one product (Ainslie et al.
  2023), so keys are neither copied nor read G times.
* *Dropout.* The random numbers of a tile are drawn by CuPy where they are needed, in forward and again in backward.

Simplified: FlashAttention keeps the scores on the chip. Here a tile of scores goes through the GPU's memory, which
takes time; in return a library that uses the tensor cores well computes the products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...autograd import Function
from ...backend import Array, module_of, place_in_batch
from ...functional.broadcasting import unbroadcast
from ...functional.stochastic import keep_scale
from .launch import WARP, ceil_div, launch, real_of, supports
from .products import multiply

QUERIES = 256  # in a tile
TILE = 64 * 1024 * 1024  # numbers in a tile over all its heads
WARPS = 4  # of a block

# `number`, the type in memory, `real`, the type to compute in, and `warp_sum` are explained in launch.py.
SOURCE = r"""
// A tile holds the scores of some heads (heads, rows, columns), and one warp computes each row. The rows of a head are
// its queries, and for each query the `group` heads that share its keys.
struct Row {
    bool exists, is_causal;
    int query;
    long long first;    // where its scores begin
    long long saved;    // where its logsumexp is, in (all heads, queries, group)
    const bool* mask;   // a boolean for each key, or null
};
__device__ Row row_of_warp(const bool* mask, int has_mask, int is_causal, int heads, int first_head, int tile_queries,
                           int first_query, int columns, int queries, int keys, int group, int heads_per_mask) {
    long long number = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32;
    int rows = tile_queries * group;
    int head = first_head + number / rows, in_head = number % rows;
    Row row;
    row.exists = number < (long long)heads * rows;
    row.query = first_query + in_head / group;
    row.first = number * columns;
    row.saved = ((long long)head * queries + first_query) * group + in_head;
    row.is_causal = is_causal;
    row.mask = has_mask ? mask + ((long long)(head / heads_per_mask) * queries + row.query) * keys : nullptr;
    return row;
}

// Whether the row's query sees a key.
__device__ bool sees(Row row, int key) {
    return (!row.is_causal || key <= row.query) && (row.mask == nullptr || row.mask[key]);
}

//     probs = e^scores / Σ e^scores over the keys that are seen, 0 elsewhere;  logsumexp = ln Σ e^scores
// A row that sees nothing gets zeros. `probs` may be `scores`: a thread writes only what nobody reads any more.
extern "C" __global__ void softmax(const real* scores, number* probs, real* logsumexp, const bool* mask,
                                   int has_mask, int is_causal, int heads, int first_head, int tile_queries,
                                   int first_query, int columns, int queries, int keys, int group, int heads_per_mask) {
    Row row = row_of_warp(mask, has_mask, is_causal, heads, first_head, tile_queries, first_query, columns, queries,
                          keys, group, heads_per_mask);
    if (!row.exists) return;  // a whole warp: none of its lanes is waited for
    scores += row.first, probs += row.first;
    int lane = threadIdx.x % 32;

    real largest = -1e30;  // not -infinity, from which nothing can be subtracted where a row sees nothing
    for (int key = lane; key < columns; key += 32)
        if (sees(row, key)) largest = max(largest, scores[key]);
    largest = warp_max(largest);

    real sum = 0;
    for (int key = lane; key < columns; key += 32)
        if (sees(row, key)) sum += exp(scores[key] - largest);
    sum = warp_sum(sum);

    real inverse = sum == 0 ? real(0) : 1 / sum;
    for (int key = lane; key < columns; key += 32)
        store(probs, key, sees(row, key) ? exp(scores[key] - largest) * inverse : real(0));
    if (lane == 0) logsumexp[row.saved] = sum == 0 ? real(0) : largest + log(sum);
}

//     probs = e^(scores - logsumexp),  dscores = probs (dprobs - Σ dprobs probs)
// `probs` may be `scores`, and `dscores` may be `dprobs`.
extern "C" __global__ void softmax_backward(const real* scores, const real* dprobs, const real* logsumexp,
                                            number* probs, number* dscores, const bool* mask,
                                            int has_mask, int is_causal, int heads, int first_head, int tile_queries,
                                            int first_query, int columns, int queries, int keys, int group,
                                            int heads_per_mask) {
    Row row = row_of_warp(mask, has_mask, is_causal, heads, first_head, tile_queries, first_query, columns, queries,
                          keys, group, heads_per_mask);
    if (!row.exists) return;
    scores += row.first, dprobs += row.first, probs += row.first, dscores += row.first;
    int lane = threadIdx.x % 32;
    real log_of_sum = logsumexp[row.saved];

    // Far from 0, ln Σ e^(score - largest) is lost in logsumexp, which is then `largest`: divide by that sum here.
    real inverse = 1;
    if (fabs(log_of_sum) > 8192) {  // float32 numbers beyond it are 0.001 apart
        real sum = 0;
        for (int key = lane; key < columns; key += 32)
            if (sees(row, key)) sum += exp(scores[key] - log_of_sum);
        inverse = 1 / warp_sum(sum);
    }

    real dot = 0;
    for (int key = lane; key < columns; key += 32)
        if (sees(row, key)) dot += exp(scores[key] - log_of_sum) * dprobs[key];
    dot = warp_sum(dot) * inverse;

    for (int key = lane; key < columns; key += 32) {
        bool seen = sees(row, key);
        real prob = seen ? exp(scores[key] - log_of_sum) * inverse : real(0);
        real dscore = seen ? prob * (dprobs[key] - dot) : real(0);
        store(probs, key, prob);
        store(dscores, key, dscore);
    }
}
"""


class CudaAttention(Function):
    """softmax(q kᵀ scale + mask) v, in tiles. See ScaledDotProductAttention for the mathematics."""

    takes_bfloat16 = True

    @staticmethod
    def suits(needs_grad, q, k, v, mask, is_causal, scale, dropout_p, stream):
        """float32, float64 or bfloat16, not empty, and no mask or one boolean mask for all heads."""
        if not supports(q, k, v, source=SOURCE, bfloat16=True) or 0 in (q.size, k.size, v.size):
            return False
        if mask is None:
            return True
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        heads = (1,) * (len(lead) + 2 - mask.ndim) + mask.shape[:-2]  # as many axes as `lead`
        alike = len(heads) == len(lead) and all([n == 1 for n in heads[1:]]) and heads[:1] in ((), (1,), lead[:1])
        return mask.dtype == bool and alike and (len(lead) > 1 or heads[:1] in ((), (1,)))

    @staticmethod
    def forward(ctx, q, k, v, mask, is_causal, scale, dropout_p, stream):
        heads = _Heads(q, k, v, mask, is_causal, scale, dropout_p, stream)
        ctx.q, ctx.k, ctx.v = heads.q, heads.k, heads.v  # where the engine sees what is saved
        ctx.heads = heads
        ctx.logsumexp = heads.empty(heads.queries, heads.group)
        out = heads.empty(heads.queries * heads.group, heads.Dv)
        for tile in heads.tiles():
            scores = multiply(tile.q, tile.k.swapaxes(-1, -2), scale=scale)  # (heads, rows, columns)
            probs = _like_operands(scores, q)
            tile.launch("softmax", scores, probs, ctx.logsumexp)
            multiply(_dropped(probs, tile.keep_scale()), tile.v, out=out[tile.at])
        return heads.from_rows(out, heads.Dv)

    @staticmethod
    def backward(ctx, dout):
        heads = ctx.heads
        xp = module_of(dout)
        dout = heads.rows_of_queries(dout).astype(ctx.q.dtype, copy=False)
        dq = heads.empty(heads.queries * heads.group, heads.D)
        dk, dv = (xp.zeros(x.shape, dq.dtype) for x in (ctx.k, ctx.v))
        for tile in heads.tiles():
            scores = multiply(tile.q, tile.k.swapaxes(-1, -2), scale=heads.scale)
            keep = tile.keep_scale()
            dprobs = _dropped(multiply(dout[tile.at], tile.v.swapaxes(-1, -2)), keep)
            probs, dscores = _like_operands(scores, ctx.q), _like_operands(dprobs, ctx.q)
            tile.launch("softmax_backward", scores, dprobs, ctx.logsumexp, probs, dscores)
            # out = dropped probs @ v
            multiply(_dropped(probs, keep).swapaxes(-1, -2), dout[tile.at], out=dv[tile.keys], add=True)
            # scores = q @ k.T * scale
            multiply(dscores, tile.k, out=dq[tile.at], scale=heads.scale)
            multiply(dscores.swapaxes(-1, -2), tile.q, out=dk[tile.keys], scale=heads.scale, add=True)
        return *heads.gradients(dq, dk, dv), None


def _like_operands(tile: Array, operand: Array) -> Array:
    """The array for a result that is multiplied next: the same array, or a new one in bfloat16."""
    return tile if tile.dtype == operand.dtype else module_of(tile).empty(tile.shape, operand.dtype)


def _dropped(weights: Array, keep: Array | None) -> Array:
    """Attention weights, or their gradients, times dropout's scales; without dropout, as they are."""
    return weights if keep is None else (weights * keep).astype(weights.dtype, copy=False)


class _Heads:
    """The operands in the layout for cuBLAS: N key heads, each with the G query heads that share it.

    q (N, T·G, D), with the G heads of each query adjacent; k (N, S, D); v (N, S, Dv); mask (sequences or 1, T, S).
    """

    def __init__(self, q, k, v, mask, is_causal, scale, dropout_p, stream):
        xp = module_of(q)
        self.is_causal, self.scale, self.dropout_p, self.stream = is_causal, scale, dropout_p, stream
        self.lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        self.shares = q.ndim > 2 and k.shape[-3:-2] == v.shape[-3:-2] == (1,)
        outer = self.lead[:-1] if self.shares else self.lead
        self.group = self.lead[-1] if self.shares else 1
        self.N = math.prod(outer)
        self.queries, self.D = q.shape[-2:]
        self.keys, self.Dv = v.shape[-2:]
        self.shapes = q.shape, k.shape, v.shape
        self.key_lead = (*outer, 1) if self.shares else outer
        self.q = self.rows_of_queries(q)
        self.k, self.v = (
            xp.broadcast_to(x, (*self.key_lead, *x.shape[-2:])).reshape(self.N, *x.shape[-2:]) for x in (k, v)
        )
        self.has_mask = mask is not None
        self.mask = xp.empty((1, 1, 1), bool)  # not read
        self.heads_per_mask = self.N
        if mask is not None:
            sequences = math.prod(mask.shape[:-2])
            full = xp.broadcast_to(mask, (*mask.shape[:-2], self.queries, self.keys))
            self.mask = xp.ascontiguousarray(full.reshape(sequences, self.queries, self.keys))
            self.heads_per_mask = self.N // sequences

    def rows_of_queries(self, x: Array) -> Array:
        """x (..., T, D) as (N, T·G, D)."""
        T, D = x.shape[-2:]
        grouped = module_of(x).broadcast_to(x, (*self.lead, T, D)).reshape(self.N, self.group, T, D)
        return grouped.swapaxes(1, 2).reshape(self.N, T * self.group, D)

    def from_rows(self, x: Array, D: int) -> Array:
        """x (N, T·G, D) as (..., T, D): the reverse of `rows_of_queries`."""
        return x.reshape(self.N, self.queries, self.group, D).swapaxes(1, 2).reshape(*self.lead, self.queries, D)

    def gradients(self, dq: Array, dk: Array, dv: Array) -> tuple[Array, ...]:
        q_shape, k_shape, v_shape = self.shapes
        dk, dv = (x.reshape(*self.key_lead, *x.shape[-2:]) for x in (dk, dv))
        return unbroadcast(self.from_rows(dq, self.D), q_shape), unbroadcast(dk, k_shape), unbroadcast(dv, v_shape)

    def empty(self, rows: int, size: int) -> Array:
        """An empty (N, rows, size) for results."""
        return module_of(self.q).empty((self.N, rows, size), real_of(self.q))

    def tiles(self) -> Iterator[_Tile]:
        for first in range(0, self.queries, QUERIES):
            stop = min(first + QUERIES, self.queries)
            columns = min(stop, self.keys) if self.is_causal else self.keys
            together = max(1, TILE // ((stop - first) * self.group * columns))
            for head in range(0, self.N, together):
                yield _Tile(self, slice(head, min(head + together, self.N)), slice(first, stop), columns)


class _Tile:
    """Some heads and some queries, and the keys that these queries may see."""

    def __init__(self, whole: _Heads, heads: slice, queries: slice, columns: int):
        self.whole, self.heads, self.queries, self.columns = whole, heads, queries, columns
        self.at = (heads, slice(queries.start * whole.group, queries.stop * whole.group))
        self.keys = (heads, slice(0, columns))
        self.q, self.k, self.v = whole.q[self.at], whole.k[self.keys], whole.v[self.keys]

    def launch(self, name: str, *arrays: Array) -> None:
        """Run a kernel of SOURCE, a warp for each row of the tile."""
        whole = self.whole
        heads = self.heads.stop - self.heads.start
        queries = self.queries.stop - self.queries.start
        place = [heads, self.heads.start, queries, self.queries.start, self.columns]
        sizes = [whole.queries, whole.keys, whole.group, whole.heads_per_mask]
        args = [*arrays, whole.mask, whole.has_mask, whole.is_causal, *place, *sizes]
        launch(SOURCE, name, whole.q, ceil_div(heads * queries * whole.group, WARPS), WARPS * WARP, args)

    def keep_scale(self) -> Array | None:
        """Dropout's scales (heads, rows, columns): 1 / (1 - p) or 0. None without dropout."""
        whole = self.whole
        if whole.stream is None:
            return None
        shape = (*self.q.shape[:2], self.columns)
        dtype = np.dtype(real_of(whole.q))
        per_row = whole.N // (whole.lead or (1,))[0]
        place = place_in_batch(self.heads.start, per_row), self.queries.start
        return keep_scale(module_of(whole.q), dtype, whole.stream, shape, whole.dropout_p, *place)
