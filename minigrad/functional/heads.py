"""Multi-head attention's bookkeeping: the channels of a token, cut among H heads, and put side by side again.

    split:  (B, T, P H D) -> P arrays (B, H, T, D)           merge:  (B, H, T, D) -> (B, T, H D)

No arithmetic happens: the same numbers in another order, so that attention can treat a head like one more sequence of
the batch. The gradient is put back in the order in which the numbers came. Vaswani et al. 2017, section 3.2.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import module_of

if TYPE_CHECKING:
    from ..tensor import Tensor


class SplitHeads(Function):
    """x (B, T, P H D) -> P parts (B, H, T, D): query, key and value of each head, out of one row per token."""

    @staticmethod
    def forward(ctx, x, n_head, parts):
        B, T, C = x.shape
        ctx.shape = x.shape
        split = x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)  # (P, B, H, T, D)
        return tuple(split)

    @staticmethod
    def backward(ctx, *douts):
        # split = x.reshape(B, T, P, H, D).transpose(2, 0, 3, 1, 4)
        return (module_of(douts[0]).stack(douts).transpose(1, 3, 0, 2, 4).reshape(ctx.shape),)


def split_heads(input: Tensor, n_head: int, parts: int = 1) -> Any:
    """Cut the channels (B, T, parts * n_head * D) into `parts` tensors (B, n_head, T, D): one Tensor, or a tuple.

    Raises ValueError for channels that cannot be cut so.
    """
    if input.ndim != 3 or n_head < 1 or parts < 1 or input.shape[2] % (parts * n_head):
        raise ValueError(
            f"split_heads: {input.shape} is not (batch, time, channels) with channels that {parts} x {n_head} heads "
            "can share"
        )
    split = SplitHeads.apply(input, n_head=n_head, parts=parts)
    return split[0] if parts == 1 else split


class MergeHeads(Function):
    """x (B, H, T, D) -> (B, T, H D): a token's heads side by side."""

    @staticmethod
    def forward(ctx, x):
        B, H, T, D = x.shape
        ctx.shape = x.shape
        return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)

    @staticmethod
    def backward(ctx, dout):
        B, H, T, D = ctx.shape
        return (dout.reshape(B, T, H, D).transpose(0, 2, 1, 3),)


def merge_heads(input: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D), the reverse of `split_heads`. Raises ValueError for other than four axes."""
    if input.ndim != 4:
        raise ValueError(f"merge_heads: {input.shape} is not (batch, heads, time, head size)")
    return MergeHeads.apply(input)
