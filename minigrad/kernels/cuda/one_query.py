"""Attention of a single query on a GPU: the cost of each new token in generation, per head and layer.

    out = Σ_s e^(q · k_s scale) v_s / Σ_s e^(q · k_s scale)

This is not a matrix product but one pass over keys and values, limited by memory. So one kernel does everything in that
pass, with an online softmax (Milakov & Gimelshein 2018) that stores no scores. There are few heads, and a warp that
reads one key at a time would mostly wait. So WARPS warps split the keys of a head, and each reads several keys ahead.
"""

from __future__ import annotations

import numpy as np

from ...backend import Array, module_of
from .launch import WARP, ceil_div, defines, launch

WARPS = 16  # of a block
MOST_SIZE = 256  # of a head's keys and values: there is room for their sums in a block's memory

SOURCE = r"""
// One query against all keys; a block per query head. Each warp takes every WARPS-th key, and keeps for those that it
// has read: the largest score m, Σ e^(score - m), and Σ e^(score - m) value. When m grows, what is there shrinks by
// e^(old - new). At the end the warps' results are put together in the same way. A lane has the elements of a key or
// value whose numbers are lane, lane + 32, ... `__launch_bounds__` tells the compiler how many threads share the
// registers.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
one_query(const number* q, const number* k, const number* v, real* out, const bool* mask,
          int D, int Dv, int keys, int group, int heads_per_mask,
          long long k_head, long long k_row, long long v_head, long long v_row, real scale) {
    __shared__ real warp_largest[WARPS], warp_total[WARPS], warp_weighted[WARPS][32 * PER_LANE];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long query_head = blockIdx.x, head = query_head / group;
    q += query_head * D, k += head * k_head, v += head * v_head;
    if (HAS_MASK) mask += head / heads_per_mask * keys;

    real largest = -1e30, total = 0, query[PER_LANE], weighted[PER_LANE];
    for (int i = 0; i < PER_LANE; i++) {
        query[i] = lane + 32 * i < D ? load(q, lane + 32 * i) * scale : real(0);
        weighted[i] = 0;
    }
    #pragma unroll 4
    for (int key = warp; key < keys; key += WARPS) {
        if (HAS_MASK && !mask[key]) continue;
        real score = 0;
        for (int i = 0; i < PER_LANE; i++)
            if (lane + 32 * i < D) score += query[i] * load(k, key * k_row + lane + 32 * i);
        score = warp_sum(score);
        real larger = max(largest, score);
        real shrink = exp(largest - larger), weight = exp(score - larger);
        total = total * shrink + weight;
        for (int i = 0; i < PER_LANE; i++)
            if (lane + 32 * i < Dv) weighted[i] = weighted[i] * shrink + weight * load(v, key * v_row + lane + 32 * i);
        largest = larger;
    }
    warp_largest[warp] = largest, warp_total[warp] = total;  // all lanes write the same
    for (int i = 0; i < PER_LANE; i++) warp_weighted[warp][lane + 32 * i] = weighted[i];
    __syncthreads();

    for (int w = 0; w < WARPS; w++) largest = max(largest, warp_largest[w]);
    total = 0;
    for (int w = 0; w < WARPS; w++) total += warp_total[w] * exp(warp_largest[w] - largest);
    for (int d = threadIdx.x; d < Dv; d += 32 * WARPS) {
        real sum = 0;
        for (int w = 0; w < WARPS; w++) sum += warp_weighted[w][d] * exp(warp_largest[w] - largest);
        out[query_head * Dv + d] = total == 0 ? real(0) : sum / total;
    }
}
"""


def attend(q: Array, k: Array, v: Array, mask: Array | None, heads_per_mask: int, scale: float, out: Array) -> None:
    """q (N, G, D), k (N, S, D), v (N, S, Dv) -> out (N, G, Dv): each of the G queries sees the same S keys.

    mask (sequences, 1, S): True where a key is seen; `heads_per_mask` of the N heads share a mask. Keys and values may
    have gaps between rows and heads, as in a cache that is not full; other layouts are copied.
    """
    k, v = _with_rows_together(k), _with_rows_together(v)
    (N, G, D), (_, S, Dv) = q.shape, v.shape
    source = defines(WARPS=WARPS, PER_LANE=ceil_div(max(D, Dv), WARP), HAS_MASK=mask is not None) + SOURCE
    strides = [np.int64(x.strides[axis] // x.itemsize) for x in (k, v) for axis in (0, 1)]
    mask = module_of(q).empty((1, 1, 1), bool) if mask is None else mask  # not read
    args = [q, k, v, out, mask, D, Dv, S, G, heads_per_mask, *strides, float(scale)]
    launch(source, "one_query", q, N * G, WARPS * WARP, args, gaps=True)


def _with_rows_together(x: Array) -> Array:
    return x if x.strides[-1] == x.itemsize or x.shape[-1] == 1 else module_of(x).ascontiguousarray(x)
