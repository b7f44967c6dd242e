"""Cross-entropy on a GPU, alone and after the output projection.

    loss = logsumexp(logits) - logits[target],  dlogits = dloss * (e^(logits - logsumexp) - onehot(target))

*Online softmax.* The logsumexp of a row needs its maximum and its sum, and a row has 50,257 numbers, so it should be
read only once. Each thread keeps the largest number so far, m, and s = Σ e^(x - m). When a larger number x arrives, s
is multiplied by e^(m - x). At the end the threads of the block combine their results in the same way. Milakov &
Gimelshein 2018.

*Never all logits.* With the projection x @ weightᵀ, CHUNK rows are computed at a time: logits, losses, and at once the
gradient. It overwrites the logits if it has their type, and goes into dx and dweight. kernels/cpu/cross_entropy.py does
the same on the CPU.

*No odd sizes.* Tensor cores read pieces of 16 bytes. If the rows of logits had 50,257 numbers, most rows would begin
inside a piece, and cuBLAS would use slower kernels for these products, which are over a quarter of GPT-2's arithmetic.
So the vocabulary is padded with tokens that have zero weights and get no probability.
"""

from __future__ import annotations

import numpy as np

from ...autograd import Function
from ...backend import module_of
from ...functional.loss import nan_if_0
from .launch import THREADS, ceil_div, launch, name_of, real_of, supports, works
from .products import multiply

SOURCE = r"""
// One block per row. logits and dlogits (rows, line), of which the first `columns` count; all others (rows). A row
// whose target is -1 does not count: its loss is 0.

extern "C" __global__ void cross_entropy_forward(const real* logits, const long long* targets, real* losses,
                                                 real* logsumexp, int columns, int line) {
    const real* row = logits + blockIdx.x * (long long)line;
    real largest = -infinity(), sum = 0;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        real x = row[c];
        if (x > largest) {
            sum = sum * exp(largest - x) + 1;
            largest = x;
        } else if (x != -infinity()) {  // else e^(x - largest) may be e^(-inf + inf), which is nan and not 0
            sum += exp(x - largest);
        }
    }
    real of_block = block_max(largest);
    sum = block_sum(sum * exp(largest - of_block));
    if (threadIdx.x == 0) {
        long long target = targets[blockIdx.x];
        logsumexp[blockIdx.x] = of_block + log(sum);
        // Targets are checked on the host. For one that is not a class the loss is infinite, and nothing else is read.
        losses[blockIdx.x] = target < 0          ? real(0)
                             : target >= columns ? infinity()
                                                 : log(sum) - (row[target] - of_block);
    }
}

// dlogits may be logits: each number is read and written by the same thread.
extern "C" __global__ void cross_entropy_backward(const real* logits, const long long* targets, const real* logsumexp,
                                                  const real* dlosses, number* dlogits, int columns, int line) {
    long long first = blockIdx.x * (long long)line, target = targets[blockIdx.x];
    real log_of_sum = logsumexp[blockIdx.x], dloss = dlosses[blockIdx.x];
    for (int c = threadIdx.x; c < line; c += blockDim.x) {
        real prob = exp(logits[first + c] - log_of_sum);
        store(dlogits, first + c, target < 0 || c >= columns ? real(0) : dloss * (prob - (c == target)));
    }
}
"""

CHUNK = 2048  # rows
EVEN = 8  # numbers of bfloat16 in 16 bytes


class CudaCrossEntropy(Function):
    """-ln softmax(logits)[target] per row. See functional.loss.CrossEntropy."""

    @staticmethod
    def suits(needs_grad, logits, targets, ignore_index, reduction):
        return supports(logits, source=SOURCE)

    @staticmethod
    def forward(ctx, logits, targets, ignore_index, reduction):  # logits (N, C), targets (N)
        ctx.logits = module_of(logits).ascontiguousarray(logits)
        ctx.targets, ctx.total = _targets(targets, ignore_index, reduction, logits.dtype)
        losses, ctx.logsumexp = _losses(ctx.logits, ctx.targets, logits, logits.shape[1])
        return _reduced(losses, ctx.total, reduction)

    @staticmethod
    def backward(ctx, dout):
        dlosses = _per_row(dout, ctx.total, ctx.logits)
        return _dlogits(ctx.logits, ctx.targets, ctx.logsumexp, dlosses, ctx.logits.dtype, ctx.logits.shape[1]), None


class CudaLinearCrossEntropy(Function):
    """cross_entropy(x @ weightᵀ, targets). See functional.loss.LinearCrossEntropy. bfloat16 is summed in float32."""

    takes_bfloat16 = True

    @staticmethod
    def suits(needs_grad, x, weight, targets, ignore_index, reduction):
        dtype = "float32" if x.dtype.char == "e" else name_of(x.dtype)  # e: float16, which is computed in float32
        return works(module_of(x), SOURCE, dtype)

    @staticmethod
    def forward(ctx, x, weight, targets, ignore_index, reduction):  # x (N, C), weight (V, C), targets (N)
        xp = module_of(x)
        ctx.x = xp.ascontiguousarray(x)
        ctx.weight = weight
        ctx.real = real_of(x)
        ctx.targets, ctx.total = _targets(targets, ignore_index, reduction, ctx.real)
        # For a mean or a sum the gradient is known up to one factor, dout, so it can be computed at once.
        at_once = reduction != "none" and (ctx.needs_grad[0] or ctx.needs_grad[1])
        dlosses = _per_row(xp.ones((), ctx.real), ctx.total, x) if at_once else None
        losses, ctx.dx, ctx.dweight = _in_chunks(ctx, dlosses)
        return _reduced(losses, ctx.total, reduction)

    @staticmethod
    def backward(ctx, dout):
        dx, dweight = ctx.dx, ctx.dweight
        ctx.dx = ctx.dweight = None  # given away; should backward run again, they are made again
        dout = dout.astype(ctx.real, copy=False)
        if dx is None and dweight is None:
            _, dx, dweight = _in_chunks(ctx, _per_row(dout, ctx.total, ctx.x))
            dout = 1.0
        return *(None if gradient is None else gradient * dout for gradient in (dx, dweight)), None


def _in_chunks(ctx, dlosses):
    """Losses (N); also dx and dweight if dlosses (N) are given and the gradients are needed."""
    x = ctx.x
    xp = module_of(ctx.x)
    vocabulary = len(ctx.weight)
    weight = _filled_up(ctx.weight)
    losses = xp.empty(len(x), ctx.real)
    wants_dx, wants_dweight = (dlosses is not None and bool(ctx.needs_grad[i]) for i in (0, 1))
    dx = xp.empty(x.shape, ctx.real) if wants_dx else None
    dweight = xp.zeros(weight.shape, ctx.real) if wants_dweight else None
    for start in range(0, len(x), CHUNK):
        rows = slice(start, min(start + CHUNK, len(x)))
        logits = multiply(x[rows], weight.T)  # (CHUNK, V filled up)
        losses[rows], logsumexp = _losses(logits, ctx.targets[rows], x, vocabulary)
        if dlosses is None:
            continue
        dlogits = _dlogits(logits, ctx.targets[rows], logsumexp, dlosses[rows], x.dtype, vocabulary, in_place=True)
        # logits = x @ weight.T
        if dx is not None:
            multiply(dlogits, weight, out=dx[rows])
        if dweight is not None:
            multiply(dlogits.T, x[rows], out=dweight, add=True)
    return losses, dx, None if dweight is None else dweight[:vocabulary]


def _filled_up(weight):
    """weight (V, C), padded with rows of zeros to a multiple of EVEN."""
    rows = ceil_div(len(weight), EVEN) * EVEN
    if rows == len(weight):
        return weight
    more = module_of(weight).zeros((rows, weight.shape[1]), weight.dtype)
    more[: len(weight)] = weight
    return more


def _targets(targets, ignore_index, reduction, dtype):
    """Targets with -1 for rows that do not count, and, for a mean, the number of rows that count."""
    xp = module_of(targets)
    kept = targets != ignore_index
    total = nan_if_0(kept.sum().astype(dtype)) if reduction == "mean" else None
    return xp.where(kept, targets, -1).astype(np.int64, copy=False), total


def _reduced(losses, total, reduction):
    """The losses, their sum, or their sum over `total`: the number of targets that count."""
    if reduction == "none":
        return losses
    return losses.sum() if total is None else losses.sum() / total


def _per_row(dout, total, rows):
    """The gradient of each row's loss, where loss = losses.sum() / total, or losses.sum(), or the losses themselves."""
    xp = module_of(dout)
    return xp.ascontiguousarray(xp.broadcast_to(dout if total is None else dout / total, (len(rows),)))


def _losses(logits, targets, like, columns):
    """Losses and logsumexp of logits (rows, V or more), where only the first `columns` count."""
    rows, line = logits.shape
    losses, logsumexp = module_of(logits).empty((2, rows), logits.dtype)
    args = [logits, targets, losses, logsumexp, columns, line]
    launch(SOURCE, "cross_entropy_forward", like, rows, THREADS, args)
    return losses, logsumexp


def _dlogits(logits, targets, logsumexp, dlosses, dtype, columns, in_place=False):
    rows, line = logits.shape
    dlogits = logits if in_place and dtype == logits.dtype else module_of(logits).empty(logits.shape, dtype)
    args = [logits, targets, logsumexp, dlosses, dlogits, columns, line]
    launch(SOURCE, "cross_entropy_backward", dlogits, rows, THREADS, args)
    return dlogits
