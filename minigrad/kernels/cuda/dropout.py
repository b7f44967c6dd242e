"""Dropout on a GPU, with the same random numbers that NumPy draws on the CPU: the same seed gives the same mask.

A *counter-based* generator makes this easy. It has no state that changes from number to number: number n is computed
from n and a key. So each thread can compute its own numbers in any order, and backward computes them again instead of
storing them. Philox is such a generator: in each of ten rounds, two of four 64-bit words are multiplied by a constant,
and the halves of the products are swapped and combined with the key. Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3".

NumPy reads the 256 bits of a counter as eight 32-bit numbers, lower half first, and turns the upper 24 bits of each
into a float (minigrad.backend.uniform). So each thread computes eight neighbors. With textbook kernels a GPU draws from
CuPy's generator instead: reproducible, but with other numbers.
"""

from __future__ import annotations

import numpy as np

from ...backend import Array, module_of
from ...functional.attention import DROPOUT_ROWS
from .launch import THREADS, CudaKernel, ceil_div, launch

SOURCE = r"""
__device__ void philox(unsigned long long c[4], unsigned long long key0, unsigned long long key1) {
    const unsigned long long M0 = 0xD2E7470EE14C6C93ull, M1 = 0xCA5A826395121157ull;
    for (int round = 0; round < 10; round++) {
        unsigned long long high0 = __umul64hi(M0, c[0]), low0 = M0 * c[0];
        unsigned long long high1 = __umul64hi(M1, c[2]), low1 = M1 * c[2];
        c[0] = high1 ^ c[1] ^ key0, c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1, c[3] = low0;
        key0 += 0x9E3779B97F4A7C15ull, key1 += 0xBB67AE8584CAA73Bull;  // another key for the next round
    }
}

// Which of the numbers 8n .. 8n + 7 of a stream are at least p: a bit for each.
__device__ unsigned kept_of_eight(unsigned long long n, unsigned long long block, unsigned long long head,
                                  unsigned long long key0, unsigned long long key1, float p) {
    unsigned long long c[4] = {n + 1, 0, block, head};  // + 1: NumPy counts on before it mixes
    philox(c, key0, key1);
    unsigned kept = 0;
    for (int i = 0; i < 8; i++) {
        unsigned bits = (unsigned)(c[i / 2] >> (i % 2 * 32));
        float uniform = (bits >> 8) * (1.0f / 16777216);  // 24 bits, in [0, 1)
        kept |= (unsigned)(uniform >= p) << i;
    }
    return kept;
}

//     out = x · scale where the number is kept, 0 elsewhere
extern "C" __global__ void dropout(const number* x, number* out, long long size, unsigned long long key0,
                                   unsigned long long key1, float p, real scale) {
    long long eight = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (8 * eight >= size) return;
    unsigned kept = kept_of_eight(eight, 0, 0, key0, key1, p);
    for (int i = 0; i < 8 && 8 * eight + i < size; i++)
        store(out, 8 * eight + i, kept >> i & 1 ? load(x, 8 * eight + i) * scale : real(0));
}

// The bits of attention's dropout for some heads and some blocks of DROPOUT_ROWS queries; `bytes` of a head and block.
extern "C" __global__ void draw_kept(unsigned char* kept, int heads, int first_head, int blocks, int first_block,
                                     int bytes, unsigned long long key0, unsigned long long key1, float p) {
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= (long long)heads * blocks * bytes) return;
    int block = first_block + at / bytes % blocks, head = first_head + at / bytes / blocks;
    kept[at] = kept_of_eight(at % bytes, block, head, key0, key1, p);
}
"""


class CudaDropout(CudaKernel):
    """out = x * keep / (1 - p). See functional.stochastic.Dropout. The mask is drawn again for backward."""

    @staticmethod
    def forward(ctx, x, p, stream):
        ctx.p, ctx.stream = p, stream
        return _dropped(x, p, stream)

    @staticmethod
    def backward(ctx, dout):
        return (_dropped(dout, ctx.p, ctx.stream),)


def _dropped(x: Array, p: float, stream: tuple[int, int]) -> Array:
    x = module_of(x).ascontiguousarray(x)
    out = module_of(x).empty_like(x)
    args = [x, out, np.int64(x.size), *_key(stream), np.float32(p), scale_of_kept(p, x.dtype)]
    launch(SOURCE, "dropout", x, ceil_div(x.size, 8 * THREADS), THREADS, args)
    return out


def draw_kept(like: Array, stream: tuple[int, int], p: float, heads: slice, queries: slice, keys: int) -> Array:
    """Which attention weights are kept, as bits (heads, blocks, DROPOUT_ROWS, keys). A byte holds eight neighbors, the
    first one in the lowest bit.

    `queries` start at the start of a block. The last block is always drawn as a whole.
    """
    first_block, blocks = queries.start // DROPOUT_ROWS, ceil_div(queries.stop - queries.start, DROPOUT_ROWS)
    bytes_of_block = DROPOUT_ROWS * keys // 8
    kept = module_of(like).empty((heads.stop - heads.start, blocks, bytes_of_block), np.uint8)
    place = [heads.stop - heads.start, heads.start, blocks, first_block, bytes_of_block]
    args = [kept, *place, *_key(stream), np.float32(p)]
    launch(SOURCE, "draw_kept", like, ceil_div(kept.size, THREADS), THREADS, args)
    return kept


def scale_of_kept(p: float, dtype: np.dtype) -> float:
    """1 / (1 - p), rounded to the dtype as functional.stochastic.keep_scale does."""
    return float(dtype.type(1 / (1 - p) if p < 1 else 0))


def _key(stream: tuple[int, int]) -> list[np.uint64]:
    return [np.uint64(part % 2**64) for part in stream]
