"""Rotary position embedding: a token's position, encoded by rotating its queries and keys.

    (x₁, x₂) at position t  ->  (x₁ cos θt - x₂ sin θt,  x₁ sin θt + x₂ cos θt)

A vector of D numbers is treated as D/2 points in the plane. Each is rotated about the origin by an angle that grows
with the position, at its own speed θ. Rotating a query and a key by the same angle does not change their product. So
the product depends only on the difference of their positions: attention sees distances, wherever the text begins.

Simplified: of the two layouts in use, this is Hugging Face's, in which point i is (x[i], x[i + D/2]); the paper has
(x[2i], x[2i + 1]). Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", section 3.2.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..autograd import Function
from ..backend import Array, array_of, module_of
from .argument_checks import check_floating, check_tensor
from .broadcasting import check_broadcastable

if TYPE_CHECKING:
    from ..tensor import Tensor


class RotaryEmbedding(Function):
    """out = [x₁ cos - x₂ sin, x₂ cos + x₁ sin],  where x = [x₁, x₂] is cut in the middle of its last axis.

    The gradient is rotated by the opposite angle, because the matrix of a rotation is orthogonal (Rᵀ = R⁻¹):

        dx = [dout₁ cos + dout₂ sin, dout₂ cos - dout₁ sin]
    """

    dtype_rule = "same"

    @staticmethod
    def forward(ctx, x, cos, sin):  # x (..., T, D), cos and sin (..., T, D/2)
        ctx.cos, ctx.sin = cos, sin
        return rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, dout):
        return rotate(dout, ctx.cos, -ctx.sin), None, None  # cos(-a) = cos a, sin(-a) = -sin a


def rotate(x, cos, sin):
    """Rotate the points (x₁, x₂) of an array by the angles whose cosine and sine are given."""
    half = x.shape[-1] // 2
    x1, x2 = x[..., :half], x[..., half:]  # (..., T, D/2) each: point i is (x1[i], x2[i])
    return module_of(x).concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def rotary_embedding(x: Tensor, cos: Tensor | Array, sin: Tensor | Array) -> Tensor:
    """Rotate each pair (x[..., i], x[..., i + D/2]) by an angle: x (..., T, D), its cos and sin (..., T, D/2).

    The leading axes of cos and sin broadcast to those of x. They are constants: no gradient reaches them. Raises
    ValueError for an odd D and for shapes that do not fit.

    >>> import numpy as np
    >>> quarter = np.array([np.pi / 2])
    >>> rotary_embedding(np.array([[3.0, 4.0]]), np.cos(quarter), np.sin(quarter)).data.round(6)
    array([[-4.,  3.]])
    """
    check_floating("rotary_embedding", x)
    cos, sin = array_of(cos), array_of(sin)
    check_tensor("rotary_embedding", cos, sin)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ValueError(f"rotary_embedding: input of shape {x.shape} cannot be cut into pairs along its last axis")
    half = (*x.shape[:-1], x.shape[-1] // 2)
    if cos.shape != sin.shape or check_broadcastable("rotary_embedding (pairs and angles)", half, cos.shape) != half:
        raise ValueError(
            f"rotary_embedding: cos of shape {cos.shape} and sin of shape {sin.shape} do not fit the pairs {half}"
        )
    return RotaryEmbedding.apply(x, cos, sin)
