"""To another device or dtype, with the gradient brought back the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import device_of, to_device

if TYPE_CHECKING:
    from ..tensor import Tensor


class To(Function):
    """out = x in another dtype or on another device;  dx = dout brought back (and cast, by the backward walk)."""

    @staticmethod
    def forward(ctx, x, device, dtype):
        ctx.device = device_of(x)
        out = x if dtype is None else x.astype(dtype, copy=False)
        return out if device is None else to_device(out, device)

    @staticmethod
    def backward(ctx, dout):
        return (to_device(dout, ctx.device),)


def to(x: Tensor, *targets: Any, device: str | None = None, dtype: Any = None) -> Tensor:
    """x on another device or in another dtype; each target is a device ("cpu", "cuda", "cuda:1") or a dtype."""
    for target in targets:
        if isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda", "auto"):
            device = target
        else:
            dtype = target
    return To.apply(x, device=device, dtype=dtype)
