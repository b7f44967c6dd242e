"""Layer norm and RMS norm on the CPU, in row blocks that stay in the cache.

Ideas: each block of rows is read once, and all steps work on it in place. Row sums are products with a column of ones,
and sums of squares are einsums, both a few times as fast as `mean`. The sums over all tokens (dweight, dbias) are
computed per block, in the cache, and then added.
"""

from __future__ import annotations

import math

import numpy as np

from ...autograd import Function
from .threads import column_sums, parallel, row_blocks, total


class FastLayerNorm(Function):
    """out = (x - mean) / std * weight + bias over the last axes. See functional.normalization.LayerNorm."""

    @staticmethod
    def forward(ctx, x, weight, bias, axes, eps):
        flat = _as_rows(ctx, x, weight, axes)
        bias = None if bias is None else bias.reshape(-1)
        keep = True in ctx.needs_grad
        out = np.empty_like(flat)
        ctx.normalized = np.empty_like(flat) if keep else out
        ctx.inverse_std = np.empty((len(flat), 1), flat.dtype)

        def normalize(rows):
            block, centered = flat[rows], ctx.normalized[rows]
            np.subtract(block, row_means(block), out=centered)
            variance = sums_of_squares(centered)[:, None] / max(flat.shape[1], 1)
            inverse_std = ctx.inverse_std[rows]
            np.divide(1, np.sqrt(variance + eps), out=inverse_std)
            centered *= inverse_std
            scaled = out[rows]
            if ctx.weight is not None:
                np.multiply(centered, ctx.weight, out=scaled)
            elif keep:
                scaled[...] = centered
            if bias is not None:
                scaled += bias

        parallel(normalize, row_blocks(*flat.shape))
        return out.reshape(x.shape)

    @staticmethod
    def backward(ctx, dout):
        return _backward(ctx, dout, ctx.inverse_std, centered=True, wants_dbias=ctx.needs_grad[2])


class FastRmsNorm(Function):
    """out = x / rms * weight over the last axes. See functional.normalization.RmsNorm."""

    @staticmethod
    def forward(ctx, x, weight, axes, eps):
        flat = _as_rows(ctx, x, weight, axes)
        keep = True in ctx.needs_grad
        out = np.empty_like(flat)
        ctx.normalized = np.empty_like(flat) if keep and weight is not None else out
        ctx.inverse_rms = np.empty((len(flat), 1), flat.dtype)

        def normalize(rows):
            block, inverse_rms = flat[rows], ctx.inverse_rms[rows]
            mean_square = sums_of_squares(block)[:, None] / max(flat.shape[1], 1)
            np.divide(1, np.sqrt(mean_square + eps), out=inverse_rms)
            np.multiply(block, inverse_rms, out=ctx.normalized[rows])
            if ctx.weight is not None:
                np.multiply(ctx.normalized[rows], ctx.weight, out=out[rows])

        parallel(normalize, row_blocks(*flat.shape), uses_blas=False)
        return out.reshape(x.shape)

    @staticmethod
    def backward(ctx, dout):
        return _backward(ctx, dout, ctx.inverse_rms, centered=False, wants_dbias=False)[:2]


def _as_rows(ctx, x, weight, axes):
    """x as rows of the numbers that are normalized together. Saves the shapes and the weight for backward."""
    ctx.shape, ctx.affine_shape = x.shape, x.shape[axes[0] :]
    ctx.weight = None if weight is None else weight.reshape(-1)
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[: axes[0]]), math.prod(ctx.affine_shape))


def _backward(ctx, dout, inverse_scale, centered, wants_dbias):
    """dx, dweight and dbias of out = normalized * weight + bias, where normalized = (x - mean) / std, or x / rms.

        dnormalized = dout * weight
        dx = (dnormalized - mean(dnormalized) - normalized mean(dnormalized normalized)) / std

    Without centering, mean(dnormalized) is not subtracted. inverse_scale (rows, 1): 1 / std or 1 / rms.
    """
    dout = np.ascontiguousarray(dout).reshape(ctx.normalized.shape)
    dx = np.empty_like(dout) if ctx.needs_grad[0] else None

    def chain(rows):
        dout_block, normalized = dout[rows], ctx.normalized[rows]
        product = dout_block * normalized
        dweight = column_sums(product) if ctx.needs_grad[1] else None
        dbias = column_sums(dout_block) if wants_dbias else None
        if dx is not None:
            # out = normalized * weight + bias
            dnormalized = dx[rows]
            if ctx.weight is None:
                dnormalized[...] = dout_block
            else:
                np.multiply(dout_block, ctx.weight, out=dnormalized)
                product *= ctx.weight
            # normalized = (x - mean) / std
            projection = row_means(product)
            if centered:
                dnormalized -= row_means(dnormalized)
            np.multiply(normalized, projection, out=product)
            dnormalized -= product
            dnormalized *= inverse_scale[rows]
        return dweight, dbias

    sums = parallel(chain, row_blocks(*dout.shape))
    dweight = total([s[0] for s in sums], ctx.affine_shape, dout.dtype) if ctx.needs_grad[1] else None
    dbias = total([s[1] for s in sums], ctx.affine_shape, dout.dtype) if wants_dbias else None
    return None if dx is None else dx.reshape(ctx.shape), dweight, dbias


def sums_of_squares(block):
    """(rows): of each row; for float16 in float32, because squares soon exceed 65504."""
    return np.einsum("ij,ij->i", block, block, dtype=np.promote_types(block.dtype, np.float32))


def row_means(block):
    """(rows, 1): the mean of each row."""
    return (block @ np.full(block.shape[1], 1 / max(block.shape[1], 1), block.dtype))[:, None]
