"""The backward of an embedding on the CPU.

Idea: `add.at` adds one element at a time, because an id may occur twice. After sorting by id, the rows of a token are
adjacent, and each such run is summed as a product with a row of ones. The sums belong to different rows of the weight,
so all of them can be added at once to the gradient that the weight already has from the output layer.
"""

from __future__ import annotations

import numpy as np

from ...autograd import Function
from ..accumulation import SparseGradient


class FastEmbedding(Function):
    """out = weight[ids]. See functional.indexing.Embedding."""

    @staticmethod
    def forward(ctx, ids, weight, padding_idx=None):
        ctx.ids = ids
        ctx.shape = weight.shape
        ctx.padding_idx = padding_idx
        return weight.take(ids.astype(np.intp, copy=False), axis=0)  # in a browser NumPy takes 32 bits only

    @staticmethod
    def backward(ctx, dout):
        ids, rows = ctx.ids.reshape(-1), dout.reshape(ctx.ids.size, ctx.shape[1])
        if ctx.padding_idx is not None:
            ids, rows = ids[ids != ctx.padding_idx], rows[ids != ctx.padding_idx]
        if ids.size:
            order = np.argsort(ids, kind="stable")
            ids, in_order = ids[order], rows[order]
            starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
            counts = np.diff(starts, append=len(ids))
            ids, rows = ids[starts], in_order[starts]  # of a token that occurs once, this is the sum
            ones = np.ones(counts.max(), rows.dtype)
            for i in np.flatnonzero(counts > 1).tolist():
                run = in_order[starts[i] : starts[i] + counts[i]]
                np.dot(ones[: counts[i]], run, out=rows[i])

        def add_to(dweight):
            dweight[ids] += rows

        return None, SparseGradient(ctx.shape, rows, add_to)
