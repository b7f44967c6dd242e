"""The backward of an embedding on a GPU, in a fixed order.

    dweight[id] = Σ of dout over all places where id occurs

If thousands of threads add to the same row, they must take turns. atomicAdd does this in the order of arrival, but
floats added in a different order differ in their last bits, and no two training runs would be equal. After sorting by
id, the places of a token are adjacent: a run. One block sums each run in order, so each row is written by one block.
"""

from __future__ import annotations

import numpy as np

from ...autograd import Function
from ...backend import module_of
from ...functional.indexing import Embedding
from ..accumulation import SparseGradient
from .launch import THREADS, launch, supports

SOURCE = r"""
// One block for each place in `ids` (n, sorted); `order` says where in dout (n, columns) its row is. Added to dweight
// (rows, columns). The row `left_out` learns nothing.
extern "C" __global__ void embedding_backward(const number* dout, const long long* ids, const long long* order,
                                              number* dweight, long long n, long long rows, int columns,
                                              long long left_out) {
    long long start = blockIdx.x, id = ids[start];
    if (start > 0 && ids[start - 1] == id) return;            // in the middle of a run, which another block adds up
    if (id < 0 || id >= rows || id == left_out) return;       // ids are checked on the host; never write elsewhere
    long long last = start, end = n;                          // ids[last] is in the run, end is not: halve the rest
    while (end - last > 1) {
        long long middle = (last + end) / 2;
        if (ids[middle] == id) last = middle;
        else end = middle;
    }
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        real sum = load(dweight, id * columns + c);
#pragma unroll 8
        for (long long i = start; i < end; i++) sum += load(dout, order[i] * columns + c);
        store(dweight, id * columns + c, sum);
    }
}
"""


class CudaEmbedding(Function):
    """out = weight[ids]. See functional.indexing.Embedding."""

    forward = Embedding.forward

    @staticmethod
    def suits(needs_grad, ids, weight, padding_idx=None):
        return supports(weight)

    @staticmethod
    def backward(ctx, dout):
        xp, (rows, columns) = module_of(dout), ctx.shape
        dout, ids = xp.ascontiguousarray(dout), ctx.ids.reshape(-1).astype(np.int64)
        order = xp.argsort(ids, kind="stable").astype(np.int64, copy=False)
        left_out = -1 if ctx.padding_idx is None else ctx.padding_idx
        sizes = [np.int64(ids.size), np.int64(rows), columns, np.int64(left_out)]

        def add_to(dweight):
            sums = xp.ascontiguousarray(dweight)
            args = [dout, ids[order], order, sums, *sizes]
            launch(SOURCE, "embedding_backward", sums, ids.size if columns else 0, THREADS, args)
            if sums is not dweight:
                dweight[...] = sums

        return None, SparseGradient(ctx.shape, dout, add_to)
