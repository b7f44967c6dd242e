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
        return _forward(ctx, x, weight, bias, axes, eps, centered=True)

    @staticmethod
    def backward(ctx, dout):
        return _backward(ctx, dout, centered=True, wants_dbias=ctx.needs_grad[2])


class FastRmsNorm(Function):
    """out = x / rms * weight over the last axes. See functional.normalization.RmsNorm."""

    @staticmethod
    def forward(ctx, x, weight, axes, eps):
        return _forward(ctx, x, weight, None, axes, eps, centered=False)

    @staticmethod
    def backward(ctx, dout):
        return _backward(ctx, dout, centered=False, wants_dbias=False)[:2]


def _forward(ctx, x, weight, bias, axes, eps, centered):
    """normalized * weight + bias, where normalized = (x - mean) / std if `centered`, else x / rms."""
    ctx.shape = x.shape
    ctx.affine_shape = x.shape[axes[0] :]
    columns = math.prod(ctx.affine_shape)
    flat = np.ascontiguousarray(x).reshape(math.prod(x.shape[: axes[0]]), columns)
    ctx.weight, bias = (None if affine is None else affine.reshape(-1) for affine in (weight, bias))
    out = np.empty_like(flat)
    keep = True in ctx.needs_grad and (centered or weight is not None)  # an array of its own for backward
    ctx.normalized = np.empty_like(flat) if keep else out
    ctx.inverse_scale = np.empty((len(flat), 1), flat.dtype)  # 1 / std, or 1 / rms

    def normalize(rows):
        block, normalized, scaled, inverse_scale = flat[rows], ctx.normalized[rows], out[rows], ctx.inverse_scale[rows]
        if centered:
            block = np.subtract(block, row_means(block), out=normalized)
        mean_square = np.einsum("ij,ij->i", block, block)[:, None] / max(columns, 1)  # of each row
        np.divide(1, np.sqrt(mean_square + eps), out=inverse_scale)
        np.multiply(block, inverse_scale, out=normalized)
        if ctx.weight is not None:
            np.multiply(normalized, ctx.weight, out=scaled)
        elif keep:
            scaled[...] = normalized
        if bias is not None:
            scaled += bias

    parallel(normalize, row_blocks(*flat.shape), uses_blas=centered)
    return out.reshape(x.shape)


def _backward(ctx, dout, centered, wants_dbias):
    """dx, dweight and dbias of out = normalized * weight + bias, where normalized = (x - mean) / std, or x / rms.

        dnormalized = dout * weight
        dx = (dnormalized - mean(dnormalized) - normalized mean(dnormalized normalized)) / std

    Without centering, mean(dnormalized) is not subtracted.
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
            dnormalized *= ctx.inverse_scale[rows]
        return dweight, dbias

    sums = parallel(chain, row_blocks(*dout.shape))
    dweight = total([s[0] for s in sums], ctx.affine_shape, dout.dtype) if ctx.needs_grad[1] else None
    dbias = total([s[1] for s in sums], ctx.affine_shape, dout.dtype) if wants_dbias else None
    return None if dx is None else dx.reshape(ctx.shape), dweight, dbias


def row_means(block):
    """(rows, 1): the mean of each row."""
    if block.shape[1] >= 2**17:  # the product would have few partial sums, and float32 would keep three digits
        return block.mean(axis=1, keepdims=True)
    weights = np.full(block.shape[1], 1 / max(block.shape[1], 1), block.dtype)
    return (block @ weights)[:, None]
