"""Attention on a GPU: cuBLAS multiplies, and one kernel in each direction does everything between the products.

    scores = q kᵀ scale,  probs = softmax(scores where seen),  out = probs v        (see functional/attention.py)

* *Tiles.* Only the scores of some heads and QUERIES queries exist at a time, so memory stays bounded for any length of
  text. With a causal mask a tile ends at the key of its last query, which saves nearly half of the work.
* *Recompute instead of storing.* Forward saves one number per row, ln Σ e^score. Backward multiplies q kᵀ again, and
  each weight is e^(score - that number), so no weights are saved (Dao et al. 2022, FlashAttention).
* *Grouped queries.* The G query heads that share a key head become G adjacent rows of one product (Ainslie et al.
  2023), so keys are neither copied nor read G times.
* *Dropout.* The random bits of a tile are drawn where they are needed, in forward and in backward: see dropout.py.
* *One query*, as in generation, has a kernel that does everything at once: see one_query.py.

Simplified: FlashAttention keeps the scores on the chip. Here a tile of scores goes through the GPU's memory, which
takes time; in return a library that uses the tensor cores well computes the products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np

from ...autograd import Function
from ...backend import Array, module_of
from ...functional.attention import DROPOUT_ROWS
from ...functional.broadcasting import unbroadcast
from . import one_query
from .dropout import draw_kept, scale_of_kept
from .launch import WARP, ceil_div, defines, launch, real_of, supports
from .products import multiply

QUERIES = 4 * DROPOUT_ROWS  # queries in a tile
TILE = 64 * 1024 * 1024  # numbers in a tile over all its heads
WARPS = 4  # of a block

SOURCE = r"""
// Whether a query sees a key. The mask of a row is a line of booleans, one per key.
__device__ bool sees(const bool* mask, int query, int key) {
    return (!IS_CAUSAL || key <= query) && (!HAS_MASK || mask[key]);
}

// A tile holds the scores of some heads (heads, rows, columns), and one warp computes each row. The rows of a head are
// its queries, and for each query the `group` heads that share its keys.
struct Row {
    bool exists;
    int query;
    long long first;    // where its scores begin
    long long saved;    // where its logsumexp is, in (all heads, queries, group)
    const bool* mask;
    long long kept;     // where its bits for dropout begin
};
__device__ Row row_of_warp(const bool* mask, int heads, int first_head, int tile_queries, int first_query, int columns,
                           int queries, int keys, int group, int heads_per_mask) {
    long long number = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32;
    int rows = tile_queries * group;
    int head = first_head + number / rows, in_head = number % rows;
    Row row;
    row.exists = number < (long long)heads * rows;
    row.query = first_query + in_head / group;
    row.first = number * columns;
    row.saved = ((long long)head * queries + first_query) * group + in_head;
    // bits (heads, group, blocks, DROPOUT_ROWS, keys)
    long long query_head = number / rows * group + in_head % group, block = in_head / group / DROPOUT_ROWS;
    int blocks = (tile_queries + DROPOUT_ROWS - 1) / DROPOUT_ROWS;
    row.kept = ((query_head * blocks + block) * DROPOUT_ROWS + in_head / group % DROPOUT_ROWS) * keys;
    row.mask = HAS_MASK ? mask + ((long long)(head / heads_per_mask) * queries + row.query) * keys : mask;
    return row;
}

// What dropout makes of a 1: keep_scale if the bit is set, else 0.
__device__ real keep(const unsigned char* kept, long long bit, real keep_scale) {
    if (!HAS_DROPOUT) return 1;
    return kept[bit / 8] >> (bit % 8) & 1 ? keep_scale : real(0);
}

//     probs = e^scores / Σ e^scores over the keys that are seen, 0 elsewhere;  logsumexp = ln Σ e^scores
// and `dropped` = probs after dropout, which is what the values are weighted with.
// A row that sees nothing gets zeros. `dropped` may be `scores`: a thread writes only what nobody reads any more.
extern "C" __global__ void softmax(const real* scores, number* dropped, real* logsumexp, const bool* mask,
                                   const unsigned char* kept, real keep_scale,
                                   int heads, int first_head, int tile_queries, int first_query, int columns,
                                   int queries, int keys, int group, int heads_per_mask) {
    Row row = row_of_warp(mask, heads, first_head, tile_queries, first_query, columns, queries, keys, group,
                          heads_per_mask);
    if (!row.exists) return;  // a whole warp: none of its lanes is waited for
    scores += row.first, dropped += row.first;
    int lane = threadIdx.x % 32;

    real largest = -1e30;  // not -infinity, from which nothing can be subtracted where a row sees nothing
    for (int key = lane; key < columns; key += 32)
        if (sees(row.mask, row.query, key)) largest = max(largest, scores[key]);
    largest = warp_max(largest);

    real sum = 0;
    for (int key = lane; key < columns; key += 32)
        if (sees(row.mask, row.query, key)) sum += exp(scores[key] - largest);
    sum = warp_sum(sum);

    real inverse = sum == 0 ? real(0) : 1 / sum;
    for (int key = lane; key < columns; key += 32)
        store(dropped, key, sees(row.mask, row.query, key)
                                ? exp(scores[key] - largest) * inverse * keep(kept, row.kept + key, keep_scale)
                                : real(0));
    if (lane == 0) logsumexp[row.saved] = sum == 0 ? real(0) : largest + log(sum);
}

//     probs = e^(scores - logsumexp),  dprobs = keep ddropped,  dscores = probs (dprobs - Σ dprobs probs)
// `dropped` may be `scores`, and `dscores` may be `ddropped`.
extern "C" __global__ void softmax_backward(const real* scores, const real* ddropped, const real* logsumexp,
                                            number* dropped, number* dscores, const bool* mask,
                                            const unsigned char* kept, real keep_scale,
                                            int heads, int first_head, int tile_queries, int first_query, int columns,
                                            int queries, int keys, int group, int heads_per_mask) {
    Row row = row_of_warp(mask, heads, first_head, tile_queries, first_query, columns, queries, keys, group,
                          heads_per_mask);
    if (!row.exists) return;
    scores += row.first, ddropped += row.first, dropped += row.first, dscores += row.first;
    int lane = threadIdx.x % 32;
    real log_of_sum = logsumexp[row.saved];

    // Far from 0, ln Σ e^(score - largest) is lost in logsumexp, which is then `largest`: divide by that sum here.
    real inverse = 1;
    if (fabs(log_of_sum) > 8192) {  // float32 numbers beyond it are 0.001 apart
        real sum = 0;
        for (int key = lane; key < columns; key += 32)
            if (sees(row.mask, row.query, key)) sum += exp(scores[key] - log_of_sum);
        inverse = 1 / warp_sum(sum);
    }

    real dot = 0;
    for (int key = lane; key < columns; key += 32)
        if (sees(row.mask, row.query, key))
            dot += exp(scores[key] - log_of_sum) * ddropped[key] * keep(kept, row.kept + key, keep_scale);
    dot = warp_sum(dot) * inverse;

    for (int key = lane; key < columns; key += 32) {
        bool seen = sees(row.mask, row.query, key);
        real prob = seen ? exp(scores[key] - log_of_sum) * inverse : real(0);
        real kept_of = keep(kept, row.kept + key, keep_scale);
        real dscore = seen ? prob * (ddropped[key] * kept_of - dot) : real(0);
        store(dropped, key, prob * kept_of);
        store(dscores, key, dscore);
    }
}
"""


class CudaAttention(Function):
    """softmax(q kᵀ scale + mask) v, in tiles. See ScaledDotProductAttention for the mathematics."""

    takes_bfloat16 = True

    @staticmethod
    def suits(needs_grad, q, k, v, mask, is_causal, scale, dropout_p, stream):
        """float32, float64 or bfloat16, not empty, and no mask or one boolean mask for all heads.

        Not for dropout if v has leading axes that the scores lack: its values share the random numbers of one score.
        """
        if not supports(q, k, v) or 0 in (q.size, k.size, v.size):
            return False
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        if dropout_p > 0 and lead != np.broadcast_shapes(q.shape[:-2], k.shape[:-2]):
            return False
        if mask is None:
            return True
        heads = (1,) * (len(lead) + 2 - mask.ndim) + mask.shape[:-2]  # as many axes as `lead`
        alike = len(heads) == len(lead) and all([n == 1 for n in heads[1:]]) and heads[:1] in ((), (1,), lead[:1])
        return mask.dtype == bool and alike and (len(lead) > 1 or heads[:1] in ((), (1,)))

    @staticmethod
    def forward(ctx, q, k, v, mask, is_causal, scale, dropout_p, stream):
        heads = _Heads(q, k, v, mask, is_causal, scale, dropout_p, stream)
        learns = any([ctx.needs_grad[i] for i in range(3)])
        if heads.queries == 1 and not learns and dropout_p == 0 and max(heads.D, heads.Dv) <= one_query.MOST_SIZE:
            return heads.from_rows(_attend_once(heads), heads.Dv)
        ctx.q, ctx.k, ctx.v = heads.q, heads.k, heads.v  # where the engine sees what is saved
        ctx.heads = heads
        ctx.logsumexp = heads.empty(heads.queries, heads.group)
        out = heads.empty(heads.queries * heads.group, heads.Dv)
        for tile in heads.tiles():
            scores = multiply(tile.q, tile.k.swapaxes(-1, -2), scale=scale)  # (heads, rows, columns)
            dropped = _like_operands(scores, q)
            tile.launch("softmax", scores, dropped, ctx.logsumexp)
            multiply(dropped, tile.v, out=out[tile.at])
        return heads.from_rows(out, heads.Dv)

    @staticmethod
    def backward(ctx, dout):
        heads, xp = ctx.heads, module_of(dout)
        dout = heads.rows_of_queries(dout).astype(ctx.q.dtype, copy=False)
        dq = heads.empty(heads.queries * heads.group, heads.D)
        dk, dv = (xp.zeros(x.shape, dq.dtype) for x in (ctx.k, ctx.v))
        for tile in heads.tiles():
            scores = multiply(tile.q, tile.k.swapaxes(-1, -2), scale=heads.scale)
            ddropped = multiply(dout[tile.at], tile.v.swapaxes(-1, -2))
            dropped, dscores = _like_operands(scores, ctx.q), _like_operands(ddropped, ctx.q)
            tile.launch("softmax_backward", scores, ddropped, ctx.logsumexp, dropped, dscores)
            # out = dropped @ v
            multiply(dropped.swapaxes(-1, -2), dout[tile.at], out=dv[tile.keys], add=True)
            # scores = q @ k.T * scale
            multiply(dscores, tile.k, out=dq[tile.at], scale=heads.scale)
            multiply(dscores.swapaxes(-1, -2), tile.q, out=dk[tile.keys], scale=heads.scale, add=True)
        return *heads.gradients(dq, dk, dv), None


def _like_operands(tile: Array, operand: Array) -> Array:
    """The array for a result that is multiplied next: the same array, or a new one in bfloat16."""
    return tile if tile.dtype == operand.dtype else module_of(tile).empty(tile.shape, operand.dtype)


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
        self.N, (self.queries, self.D), (self.keys, self.Dv) = math.prod(outer), q.shape[-2:], v.shape[-2:]
        self.shapes = q.shape, k.shape, v.shape
        self.key_lead = (*outer, 1) if self.shares else outer
        self.q = self.rows_of_queries(q)
        self.k, self.v = (
            xp.broadcast_to(x, (*self.key_lead, *x.shape[-2:])).reshape(self.N, *x.shape[-2:]) for x in (k, v)
        )
        self.has_mask = mask is not None
        self.mask, self.heads_per_mask = xp.empty((1, 1, 1), bool), self.N  # not read
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

    def source(self) -> str:
        return _complete(SOURCE, IS_CAUSAL=self.is_causal, HAS_MASK=self.has_mask, HAS_DROPOUT=self.dropout_p > 0)


@functools.cache
def _complete(source: str, **facts: bool) -> str:
    """`source` after the constants that it is compiled with. Cached, because a launch finds a kernel by its source."""
    return defines(**facts, DROPOUT_ROWS=DROPOUT_ROWS) + source


class _Tile:
    """Some heads and some queries, and the keys that these queries may see."""

    def __init__(self, whole: _Heads, heads: slice, queries: slice, columns: int):
        self.whole, self.heads, self.queries, self.columns = whole, heads, queries, columns
        self.at = (heads, slice(queries.start * whole.group, queries.stop * whole.group))
        self.keys = (heads, slice(0, columns))
        self.q, self.k, self.v = whole.q[self.at], whole.k[self.keys], whole.v[self.keys]

    def launch(self, name: str, *arrays: Array) -> None:
        """Run a kernel of SOURCE, a warp for each row of the tile."""
        whole, heads, queries = self.whole, self.heads.stop - self.heads.start, self.queries.stop - self.queries.start
        place = [heads, self.heads.start, queries, self.queries.start, self.columns]
        sizes = [whole.queries, whole.keys, whole.group, whole.heads_per_mask]
        keep_scale = scale_of_kept(whole.dropout_p, np.dtype(real_of(whole.q)))
        args = [*arrays, whole.mask, self.kept(), keep_scale, *place, *sizes]
        grid = ceil_div(heads * queries * whole.group, WARPS)
        launch(whole.source(), name, whole.q, grid, WARPS * WARP, args)

    def kept(self) -> Array:
        """The random bits of dropout, drawn again in backward. Without dropout, any array, which is not read."""
        whole = self.whole
        if whole.stream is None or whole.dropout_p == 0:
            return whole.mask.view(np.uint8)
        query_heads = slice(self.heads.start * whole.group, self.heads.stop * whole.group)
        return draw_kept(whole.q, whole.stream, whole.dropout_p, query_heads, self.queries, whole.keys)


def _attend_once(heads: _Heads) -> Array:
    keys = min(1, heads.keys) if heads.is_causal else heads.keys
    out = heads.empty(heads.group, heads.Dv)
    mask = heads.mask if heads.has_mask else None
    one_query.attend(heads.q, heads.k[:, :keys], heads.v[:, :keys], mask, heads.heads_per_mask, heads.scale, out)
    return out
