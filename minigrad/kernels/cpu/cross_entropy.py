"""Output projection and cross-entropy as one op, in chunks of rows: the logits (N, V) never exist at once.

Ideas (as in Liger Kernel, Hsu et al. 2024):

1. *One chunk at a time.* Logits, softmax and loss are computed for about CHUNK rows. The logits of 1,024 rows take
   206 MB with GPT-2's 50,257 tokens, and PyTorch holds three versions of them. Here one buffer of that size serves all.
2. *The gradient in the same pass.* While the probabilities of a chunk are in the buffer, probs - onehot is the gradient
   of its summed loss. So *forward* computes dx and dweight, and backward only multiplies them by dout, which for a mean
   or a sum is one number. With reduction="none" each row has its own dout, and backward computes the logits again.
3. *Rows in the cache.* The five passes of softmax over a row run on a few rows at a time, on the thread that has just
   computed their logits.
"""

from __future__ import annotations

import numpy as np

from ...autograd import Function
from . import adam
from .threads import parallel, product_then, products, row_blocks

CHUNK = 1024  # rows, or as many as have SMALL_CHUNK logits
SMALL_CHUNK = 2**22  # numbers
TILE = 4096  # vocabulary rows of dweight that are accumulated together


class FastLinearCrossEntropy(Function):
    """cross_entropy(x @ weightᵀ, targets). See functional.loss.LinearCrossEntropy."""

    @staticmethod
    def forward(ctx, x, weight, targets, ignore_index, reduction):  # x (N, C), weight (V, C), targets (N)
        kept = targets != ignore_index
        ctx.x, ctx.weight, ctx.kept, ctx.reduction = x, weight, kept, reduction
        ctx.safe = np.where(kept, targets, 0)
        at_once = reduction != "none" and (ctx.needs_grad[0] or ctx.needs_grad[1])
        losses, ctx.dx, ctx.dweight = _in_chunks(ctx, kept.astype(x.dtype) if at_once else None)
        losses = np.where(kept, losses, 0)
        if reduction == "none":
            return losses
        ctx.divisor = np.asarray(kept.sum() if reduction == "mean" else 1, x.dtype)
        return losses.sum() / ctx.divisor

    @staticmethod
    def backward(ctx, dout):
        if ctx.reduction != "none":
            dout = dout / (ctx.divisor or 1)  # if no target counts, the gradient is 0
        dx, dweight = ctx.dx, ctx.dweight
        ctx.dx = ctx.dweight = None  # the caller owns them now; a second backward computes them again
        if dx is None and dweight is None:
            _, dx, dweight = _in_chunks(ctx, np.where(ctx.kept, dout, 0))
        else:
            adam.scale([gradient for gradient in (dx, dweight) if gradient is not None], dout)
        return dx, dweight, None


def _in_chunks(ctx, row_scale):
    """Losses (N); also dx and dweight, if row_scale (N), the gradient of each row's loss, is given."""
    x, weight = ctx.x, ctx.weight
    losses = np.zeros(len(x), x.dtype)
    wants_dx, wants_dweight = (row_scale is not None and ctx.needs_grad[i] for i in (0, 1))
    chunk = max(CHUNK, SMALL_CHUNK // max(len(weight), 1))
    dx = np.empty_like(x) if wants_dx else None
    dweight = np.empty_like(weight) if wants_dweight else None
    if dweight is not None and len(x) == 0:  # no chunk will write it
        dweight[...] = 0
    for start in range(0, len(x), chunk):
        rows = slice(start, min(start + chunk, len(x)))
        scale = None if row_scale is None else row_scale[rows]
        dlogits = _dlogits(x[rows], weight, ctx.safe[rows], losses[rows], scale)
        if scale is not None:
            _gradients(dlogits, x[rows], weight, dx, dweight, rows)
    return losses, dx, dweight


def _dlogits(x, weight, targets, losses, row_scale):
    """Write the loss of each row into `losses`; return the gradient of the logits (rows, V), if row_scale is given."""

    def finish(rows):
        block = logits[rows]
        at_targets = (np.arange(rows.stop - rows.start), targets[rows])
        block -= block.max(axis=1, keepdims=True)
        shifted_target = block[at_targets]
        np.exp(block, out=block)
        total = block.sum(axis=1)
        losses[rows] = np.log(total) - shifted_target
        if row_scale is not None:  # (probs - onehot(targets)) * row_scale
            block *= (row_scale[rows] / total)[:, None]
            block[at_targets] -= row_scale[rows]

    logits = np.empty((len(x), len(weight)), x.dtype)
    product_then(x, weight.T, logits, finish)
    return logits


def _gradients(dlogits, x, weight, dx, dweight, rows):
    """One chunk's part of dx and dweight. The first chunk writes dweight, the others add to it."""

    def add(part):
        dweight[part] += dlogits[:, part].T @ x

    # logits = x @ weight.T
    work = []
    if dx is not None:
        work.append((dlogits, weight, dx[rows]))
    if dweight is not None and rows.start == 0:
        work.append((dlogits.T, x, dweight))
    products(work)
    if dweight is not None and rows.start > 0:
        parallel(add, row_blocks(len(dweight), dweight.shape[1], TILE * dweight.shape[1]))
