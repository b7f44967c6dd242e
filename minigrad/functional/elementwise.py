"""Elementwise operations: each output depends on one element of each input, so the chain rule is a product of numbers.

Inputs of different shapes are broadcast, as in NumPy; `unbroadcast` sums their gradients back to their shapes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import device_and_dtype, device_of, is_array, module_of, to_device
from ..dtypes import promote, result_type
from .argument_checks import Operand, check_boolean
from .broadcasting import shape_of, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


class Add(Function):
    """out = x + y;  dx = dout,  dy = dout."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x_shape, ctx.y_shape = shape_of(x), shape_of(y)
        return x + y

    @staticmethod
    def backward(ctx, dout):
        # A number that was broadcast was used several times, so its gradients add up (unbroadcast).
        return unbroadcast(dout, ctx.x_shape), unbroadcast(dout, ctx.y_shape)


def add(x: Operand, y: Operand, *, alpha: float = 1) -> Tensor:
    """x + alpha * y, elementwise, broadcast.

    Raises ValueError for shapes that cannot be broadcast, as do the other ops of two inputs.
    """
    return Add.apply(x, y if alpha == 1 else y * alpha)


class Sub(Function):
    """out = x - y;  dx = dout,  dy = -dout."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x_shape, ctx.y_shape = shape_of(x), shape_of(y)
        return x - y

    @staticmethod
    def backward(ctx, dout):
        return unbroadcast(dout, ctx.x_shape), unbroadcast(-dout, ctx.y_shape)


def sub(x: Operand, y: Operand) -> Tensor:
    """x - y, elementwise, broadcast.

    Errors as `add`.
    """
    return Sub.apply(x, y)


class Mul(Function):
    """out = x * y;  dx = dout * y,  dy = dout * x."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x_shape, ctx.y_shape = shape_of(x), shape_of(y)
        # Each factor is the derivative by the other, so it is kept in memory only if the other wants a gradient.
        if ctx.needs_grad[0]:
            ctx.y = y
        if ctx.needs_grad[1]:
            ctx.x = x
        return x * y

    @staticmethod
    def backward(ctx, dout):
        dx = unbroadcast(dout * ctx.y, ctx.x_shape) if ctx.needs_grad[0] else None
        dy = unbroadcast(dout * ctx.x, ctx.y_shape) if ctx.needs_grad[1] else None
        return dx, dy


def mul(x: Operand, y: Operand) -> Tensor:
    """x * y, elementwise, broadcast.

    Errors as `add`.
    """
    return Mul.apply(x, y)


class Div(Function):
    """out = x / y;  dx = dout / y,  dy = -dout * x / y²."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x_shape, ctx.y_shape = shape_of(x), shape_of(y)
        ctx.y = y
        out = x / y
        if ctx.needs_grad[1]:
            ctx.out = out
        return out

    @staticmethod
    def backward(ctx, dout):
        dx = unbroadcast(dout / ctx.y, ctx.x_shape) if ctx.needs_grad[0] else None
        # -x / y² = -out / y: `out` is there already, and its shape is dout's
        dy = unbroadcast(-dout * ctx.out / ctx.y, ctx.y_shape) if ctx.needs_grad[1] else None
        return dx, dy


def div(x: Operand, y: Operand) -> Tensor:
    """x / y, elementwise, broadcast.

    Integers divide to float32. Errors as `add`.
    """
    return Div.apply(x, y)


class Neg(Function):
    """out = -x;  dx = -dout."""

    @staticmethod
    def forward(ctx, x):
        return -x

    @staticmethod
    def backward(ctx, dout):
        return (-dout,)


def neg(x: Tensor) -> Tensor:
    """-x. Raises TypeError for booleans."""
    return Neg.apply(x)


class Pow(Function):
    """out = x^y;  dx = dout * y * x^(y-1),  dy = dout * out * ln x.

    Where y = 0, out is 1 whatever x is, so dx = 0 (even at x = 0); where x = 0 and y >= 0, out does not change with y,
    so dy = 0.
    """

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x, ctx.y = x, y
        out = x**y
        if ctx.needs_grad[1]:
            ctx.out = out
        return out

    @staticmethod
    def backward(ctx, dout):
        x, y = ctx.x, ctx.y
        xp = module_of(dout)
        dx = dy = None
        if ctx.needs_grad[0]:
            dx = unbroadcast(dout * (y * x ** _one_less(y)), shape_of(x))
        if ctx.needs_grad[1]:
            x = xp.asarray(x, dout.dtype)
            flat = (x == 0) & (y >= 0)  # here out * ln x would be 0 * -inf, which is nan
            log_x = xp.log(xp.where(flat, 1, x))  # ln 1 = 0
            dy = unbroadcast(xp.where(flat, 0, dout * ctx.out * log_x), shape_of(y))
        return dx, dy


def _one_less(y):
    """y - 1, but 0 where y is 0: y * x^(y-1) is then 0 even at x = 0, where 0 * 0^-1 would be nan."""
    if is_array(y):
        return module_of(y).where(y == 0, 0, y - 1)
    return y - 1 if y else 0


def pow(x: Operand, y: Operand) -> Tensor:
    """x^y, elementwise, broadcast.

    Errors as `add`. Raises ValueError for integers to a negative power.
    """
    return Pow.apply(x, y)


class Exp(Function):
    """out = e^x;  dx = dout * out."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.out = out = module_of(x).exp(x)  # e^x is its own derivative: backward needs nothing else
        return out

    @staticmethod
    def backward(ctx, dout):
        return (dout * ctx.out,)


def exp(x: Tensor) -> Tensor:
    """e^x, elementwise; integers become float32."""
    return Exp.apply(x)


class Log(Function):
    """out = ln x;  dx = dout / x."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return module_of(x).log(x)

    @staticmethod
    def backward(ctx, dout):
        return (dout / ctx.x,)


def log(x: Tensor) -> Tensor:
    """ln x, elementwise; integers become float32. At 0 it is -inf, below 0 nan."""
    return Log.apply(x)


class Sqrt(Function):
    """out = sqrt(x);  dx = dout / (2 out)."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.out = out = module_of(x).sqrt(x)
        return out

    @staticmethod
    def backward(ctx, dout):
        return (dout / (2 * ctx.out),)


def sqrt(x: Tensor) -> Tensor:
    """√x, elementwise; integers become float32. Below 0 it is nan."""
    return Sqrt.apply(x)


class Abs(Function):
    """out = |x|;  dx = dout * sign(x), which is 0 at x = 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return module_of(x).absolute(x)

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        # Not dout * sign(x): where x is 0 and dout is inf or nan, the product would be nan.
        return (xp.where(ctx.x > 0, dout, 0) - xp.where(ctx.x < 0, dout, 0),)


def abs(x: Tensor) -> Tensor:
    """|x|, elementwise."""
    return Abs.apply(x)


class Maximum(Function):
    """out = max(x, y), elementwise;  dout goes to the larger one; where they are equal, each gets half."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x, ctx.y = x, y
        return module_of(x if is_array(x) else y).maximum(x, y)

    @staticmethod
    def backward(ctx, dout):
        return _to_winner(ctx, dout, x_wins=ctx.x > ctx.y, y_wins=ctx.y > ctx.x)


def maximum(x: Operand, y: Operand) -> Tensor:
    """The larger of x and y, elementwise, broadcast; nan where either is nan.

    Errors as `add`.
    """
    return Maximum.apply(x, y)


class Minimum(Function):
    """out = min(x, y), elementwise;  dout goes to the smaller one; where they are equal, each gets half."""

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, y):
        ctx.x, ctx.y = x, y
        return module_of(x if is_array(x) else y).minimum(x, y)

    @staticmethod
    def backward(ctx, dout):
        return _to_winner(ctx, dout, x_wins=ctx.x < ctx.y, y_wins=ctx.y < ctx.x)


def minimum(x: Operand, y: Operand) -> Tensor:
    """The smaller of x and y, elementwise, broadcast; nan where either is nan.

    Errors as `add`.
    """
    return Minimum.apply(x, y)


def _to_winner(ctx, dout, x_wins, y_wins):
    """Give dout to the one that is the result. Where one is nan, neither wins: both get dout, as in PyTorch."""
    xp = module_of(dout)
    share = xp.where(ctx.x == ctx.y, dout / 2, dout)  # a tie: half for each
    dx = xp.where(y_wins, 0, share)
    dy = xp.where(x_wins, 0, share)
    return unbroadcast(dx, shape_of(ctx.x)), unbroadcast(dy, shape_of(ctx.y))


class Where(Function):
    """out = x where condition is True, else y;  dout goes to the one that was chosen."""

    @staticmethod
    def forward(ctx, condition, x, y):
        x, y = promote([x, y])
        xp = module_of(next(filter(is_array, (x, y)), condition))  # of the first array; if there is none, of condition
        ctx.condition, ctx.x_shape, ctx.y_shape = xp.asarray(condition), shape_of(x), shape_of(y)
        out = xp.where(ctx.condition, x, y)
        return out.astype(result_type([x, y]), copy=False)  # of two numbers, NumPy makes float64

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        dx = dy = None
        if ctx.needs_grad[1]:
            dx = unbroadcast(xp.where(ctx.condition, dout, 0), ctx.x_shape)
        if ctx.needs_grad[2]:
            dy = unbroadcast(xp.where(ctx.condition, 0, dout), ctx.y_shape)
        return None, dx, dy


def where(condition: Any, x: Operand, y: Operand) -> Tensor:
    """x where `condition` is True, y elsewhere; all three broadcast.

    Raises TypeError unless `condition` is boolean, ValueError for shapes that cannot be broadcast.

    >>> import numpy as np
    >>> where(np.array([True, False, True]), np.array([1.0, 2.0, 3.0]), -1.0).data
    array([ 1., -1.,  3.])
    """
    check_boolean("where", condition)
    return Where.apply(condition, x, y)


class Clip(Function):
    """out = min(max(x, low), high);  dx = dout where low <= x <= high;  a bound gets dout where x is beyond it.

    At a tie, x = low or x = high, only x gets dout. If low > high, out is high everywhere, and only high gets dout. If
    low = high, no input gets dout where x < low.
    """

    dtype_rule = "promote"

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.x, ctx.low, ctx.high = x, low, high
        xp = module_of(x)
        out = x if low is None else xp.maximum(x, low)
        return out if high is None else xp.minimum(out, high)

    @staticmethod
    def backward(ctx, dout):
        x = ctx.x
        xp = module_of(dout)
        low = -math.inf if ctx.low is None else ctx.low
        high = math.inf if ctx.high is None else ctx.high
        dx = dlow = dhigh = None
        if ctx.needs_grad[0]:
            dx = unbroadcast(xp.where((low <= x) & (x <= high), dout, 0), x.shape)
        if ctx.needs_grad[1]:
            dlow = unbroadcast(xp.where((x < low) & (low < high), dout, 0), shape_of(low))
        if ctx.needs_grad[2]:
            dhigh = unbroadcast(xp.where((x > high) | (high < low), dout, 0), shape_of(high))
        return dx, dlow, dhigh


def clip(x: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """min(max(x, `min`), `max`), elementwise: x, but at least `min` and at most `max`. Bounds may be tensors, or None.

    Raises ValueError if both bounds are None.
    """
    if min is None and max is None:
        raise ValueError("clip: at least one of min and max must be given")
    return Clip.apply(x, min, max)


class To(Function):
    """out = x in another dtype or on another device;  dx = dout on x's device (the engine casts it back)."""

    @staticmethod
    def forward(ctx, x, device, dtype):
        ctx.device = device_of(x)
        out = x if dtype is None else x.astype(dtype, copy=False)
        return out if device is None else to_device(out, device)

    @staticmethod
    def backward(ctx, dout):
        return (to_device(dout, ctx.device),)


def to(x: Tensor, *targets: Any, device: str | None = None, dtype: Any = None) -> Tensor:
    """x on another device or in another dtype; each target is a device ("cpu", "cuda", "cuda:1") or a dtype.

    Raises TypeError for a target that is neither.
    """
    device, dtype = device_and_dtype(targets, device, dtype)
    return To.apply(x, device=device, dtype=dtype)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in `dtype`; x itself if `dtype` is None or x has it already."""
    return x if dtype is None or getattr(x, "dtype", None) == dtype else to(x, dtype=dtype)
