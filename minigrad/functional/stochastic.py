"""Dropout: randomness in the forward pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..autograd import Function
from ..backend import module_of, next_stream, place_in_batch, uniform, uniform_rows
from .argument_checks import check_fraction

if TYPE_CHECKING:
    from ..tensor import Tensor


class Dropout(Function):
    """out = x * keep / (1 - p), where keep is 1 with probability 1 - p, else 0;  dx = dout * keep / (1 - p).

    The division leaves the expected value of each element unchanged, so that inference needs no dropout.
    Srivastava et al. 2014.
    """

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x, p, stream):
        keep = uniform_rows(module_of(x), stream, x.shape) >= p
        ctx.scale = scale_of(keep, x.dtype, p)
        return x * ctx.scale  # the same random numbers serve backward

    @staticmethod
    def backward(ctx, dout):
        return (dout * ctx.scale,)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Set each element to 0 with probability p, and scale the others by 1 / (1 - p); without `training`, x itself.

    Elementwise. Raises ValueError for a p outside 0..1.
    """
    check_fraction("dropout: probability", p)
    if not training or p == 0:
        return x
    return Dropout.apply(x, p=p, stream=next_stream())


def scale_of(keep, dtype, p):
    """1 / (1 - p) where `keep` is True, else 0."""
    return keep * dtype.type(1 / (1 - p) if p < 1 else 0)


# --- dropout on attention's weights (attention.py) ---
#
# A fast kernel computes the weights (..., T, S) in tiles, in any order and on several threads, and the textbook form
# all at once. Both must draw the same numbers. So a block of DROPOUT_ROWS rows of a head has its own random numbers,
# which depend on nothing but the call (`stream`), the head and the block.

DROPOUT_ROWS = 64


def attention_dropout(q, shape, p, stream):
    """The scales of all weights, in their `shape` (..., T, S): 1 / (1 - p) or 0. None if p is 0."""
    if p == 0:
        return None
    heads, per_row = math.prod(shape[:-2]), math.prod(shape[1:-2])
    scales = module_of(q).empty((heads, *shape[-2:]), q.dtype)
    for head in range(heads):
        place = place_in_batch(head, per_row)
        for block, start in enumerate(range(0, shape[-2], DROPOUT_ROWS)):
            rows = scales[head, start : start + DROPOUT_ROWS]
            rows[...] = keep_scale(module_of(q), q.dtype, stream, rows.shape, p, place, block)
    return scales.reshape(shape)


def keep_scale(xp, dtype, stream, shape, p, head, block):
    """The scales of one block: a pure function of (stream, head, block)."""
    return scale_of(uniform(xp, stream, shape, head, block) >= p, dtype, p)


def apply_dropout(x, scales):
    """x times its scales; x itself without dropout."""
    return x if scales is None else x * scales
