"""Ops that name a combination of others, so that a fast kernel can do it in one go; as textbook, the combination."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..autograd import Function
from .activation import check_approximate, gelu
from .linalg import check_linear, linear

if TYPE_CHECKING:
    from ..tensor import Tensor


class LinearGelu(Function):
    """gelu(x @ weightᵀ + bias)."""

    @staticmethod
    def compose(x, weight, bias, approximate):
        return gelu(linear(x, weight, bias), approximate)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None, approximate: str = "tanh") -> Tensor:
    """gelu(linear(x, weight, bias)): the first half of a transformer's feed-forward network."""
    check_linear("linear_gelu", x, weight, bias)
    check_approximate("linear_gelu", approximate)
    return LinearGelu.apply(x, weight, bias, approximate=approximate)
