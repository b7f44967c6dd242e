"""Dropout: randomness in the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..autograd import Function
from ..backend import module_of, next_stream, uniform, uniform_rows
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


def keep_scale(xp, dtype, stream, shape, p, head, block):
    """1 / (1 - p) for elements that are kept, else 0: a pure function of (stream, head, block)."""
    return scale_of(uniform(xp, stream, shape, head, block) >= p, dtype, p)


def scale_of(keep, dtype, p):
    """1 / (1 - p) where `keep` is True, else 0."""
    return keep * dtype.type(1 / (1 - p) if p < 1 else 0)
