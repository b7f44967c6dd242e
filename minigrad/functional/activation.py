"""Activation functions: the nonlinearities between matrix products. Softmax turns logits into probabilities.

Without a nonlinearity in between, two matrix products in a row are one matrix product.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..autograd import Function
from ..backend import module_of, sum_over
from .argument_checks import check_floating, normalize_dim
from .elementwise import div, mul, neg, where
from .error_function import erf_of_array

if TYPE_CHECKING:
    from ..tensor import Tensor


class Relu(Function):
    """out = max(x, 0);  dx = dout where x > 0, else 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.out = out = module_of(x).maximum(x, 0)
        return out

    @staticmethod
    def backward(ctx, dout):
        return (module_of(dout).where(ctx.out <= 0, 0, dout),)  # at 0 itself the slope is taken to be 0


def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise."""
    return Relu.apply(x)


class Tanh(Function):
    """out = tanh x;  dx = dout * (1 - out²)."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.out = out = module_of(x).tanh(x)
        return out

    @staticmethod
    def backward(ctx, dout):
        return (dout * (1 - ctx.out * ctx.out),)


def tanh(x: Tensor) -> Tensor:
    """tanh x, elementwise; integers become float32."""
    return Tanh.apply(x)


def logistic(x):
    """1 / (1 + e^-x) of an array. No exponential overflows, and small results keep their digits."""
    xp = module_of(x)
    e = xp.exp(xp.where(x < 0, x, -x))  # e^-|x|, at most 1
    return xp.where(x < 0, e, 1) / (1 + e)  # for x < 0: e^x / (e^x + 1), which is the same number


class Sigmoid(Function):
    """out = 1 / (1 + e^-x);  dx = dout * out * (1 - out)."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.out = out = logistic(x)
        return out

    @staticmethod
    def backward(ctx, dout):
        return (dout * ctx.out * (1 - ctx.out),)


def sigmoid(x: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e^-x), elementwise; integers become float32."""
    return Sigmoid.apply(x)


class Logsigmoid(Function):
    """out = -ln(1 + e^-x) = min(x, 0) - ln(1 + e^-|x|);  dx = dout * sigmoid(-x)."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        xp = module_of(x)
        ctx.x = x
        # log1p(e) is ln(1 + e), without losing a tiny e in the sum
        return xp.where(x < 0, x, 0) - xp.log1p(xp.exp(xp.where(x < 0, x, -x)))

    @staticmethod
    def backward(ctx, dout):
        return (dout * logistic(-ctx.x),)


def logsigmoid(x: Tensor) -> Tensor:
    """ln σ(x), elementwise, exact where σ(x) itself would round to 0."""
    return Logsigmoid.apply(x)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(βx)) / β, a smooth max(x, 0), elementwise; x itself where βx > threshold.

    Backward: dx = dout * σ(βx), σ the sigmoid; dx = dout where βx > threshold.
    """
    scaled = mul(x, beta)
    return where(scaled > threshold, x, div(logsigmoid(neg(scaled)), -beta))


class Silu(Function):
    """out = x σ(x), σ the sigmoid;  dx = dout * σ(x) (1 + x (1 - σ(x))).  Elfwing et al. 2018."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        ctx.sigmoid = logistic(x)
        return x * ctx.sigmoid

    @staticmethod
    def backward(ctx, dout):
        # the product rule: σ + x σ', with σ' = σ (1 - σ)
        return (dout * ctx.sigmoid * (1 + ctx.x * (1 - ctx.sigmoid)),)


def silu(x: Tensor) -> Tensor:
    """x σ(x), σ the sigmoid, elementwise; also called swish."""
    return Silu.apply(x)


class Swiglu(Function):
    """out = silu(gate) * up = gate σ(gate) up;  dgate = dout * up * σ (1 + gate (1 - σ)),  dup = dout * gate σ.

    The gate decides how much of `up` passes. Shazeer 2020, "GLU variants improve transformer".
    """

    dtype_rule = "same"
    widens_float16 = True

    @staticmethod
    def forward(ctx, gate, up):
        ctx.gate = gate
        ctx.up = up
        ctx.sigmoid = logistic(gate)
        return gate * ctx.sigmoid * up

    @staticmethod
    def backward(ctx, dout):
        gate, sigmoid = ctx.gate, ctx.sigmoid
        # out = silu(gate) * up,  silu(gate) = gate * sigmoid
        dgate = dout * ctx.up * (sigmoid * (1 + gate * (1 - sigmoid)))  # silu's derivative, as in Silu
        dup = dout * (gate * sigmoid)
        return dgate, dup


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise: the middle of Llama's feed-forward network.

    Raises ValueError if the shapes differ, TypeError for integers.
    """
    check_floating("swiglu", gate)
    check_floating("swiglu", up)
    if gate.shape != up.shape:
        raise ValueError(f"swiglu: gate {gate.shape} and up {up.shape} must have one shape")
    return Swiglu.apply(gate, up)


class Erf(Function):
    """out = erf x = 2/√π ∫₀ˣ e^(-t²) dt;  dx = dout * 2/√π e^(-x²)."""

    dtype_rule = "float"

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return erf_of_array(x)

    @staticmethod
    def backward(ctx, dout):
        return (dout * (2 / math.sqrt(math.pi)) * module_of(dout).exp(-ctx.x * ctx.x),)


def erf(x: Tensor) -> Tensor:
    """erf x = 2/√π ∫₀ˣ e^(-t²) dt, elementwise, accurate to rounding."""
    return Erf.apply(x)


class Gelu(Function):
    """out = x Φ(x), with Φ the normal distribution function: Φ(x) = (1 + erf(x/√2)) / 2.

    The exact form:  dx = dout * (Φ(x) + x φ(x)), where φ(x) = e^(-x²/2) / √(2π) is Φ's derivative.
    GPT-2's form, "tanh":  Φ(x) ≈ (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³), so
    dx = dout * ((1 + tanh u) / 2 + x/2 (1 - tanh² u) u'),  u' = √(2/π) (1 + 3 * 0.044715 x²).
    Hendrycks & Gimpel 2016.
    """

    dtype_rule = "float"
    widens_float16 = True

    @staticmethod
    def forward(ctx, x, approximate):
        ctx.x, ctx.approximate = x, approximate
        if approximate == "tanh":
            u = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)  # x * x * x, as x**3 is 20 times slower in float32
            ctx.tanh = module_of(x).tanh(u)
            return 0.5 * x * (1 + ctx.tanh)
        ctx.cdf = 0.5 * (1 + erf_of_array(x / math.sqrt(2)))  # Φ(x)
        return x * ctx.cdf

    @staticmethod
    def backward(ctx, dout):
        x = ctx.x
        if ctx.approximate == "tanh":
            du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)  # u'
            # the product rule on x/2 (1 + tanh u); the derivative of tanh is 1 - tanh²
            return (dout * (0.5 * (1 + ctx.tanh) + 0.5 * x * (1 - ctx.tanh * ctx.tanh) * du),)
        density = module_of(x).exp(-0.5 * x * x) / math.sqrt(2 * math.pi)  # φ(x)
        return (dout * (ctx.cdf + x * density),)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), elementwise: exactly ("none") or in the form that GPT-2 was trained with ("tanh").

    Raises ValueError for another `approximate`.
    """
    check_approximate("gelu", approximate)
    return Gelu.apply(x, approximate=approximate)


def check_approximate(op: str, approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"{op}: approximate must be 'none' or 'tanh', got {approximate!r}")


class Softmax(Function):
    """out_i = e^(x_i) / Σ_j e^(x_j).

    The Jacobian is d out_i / d x_j = out_i (δ_ij - out_j), where δ_ij is 1 if i = j and 0 otherwise. So

        dx_j = Σ_i dout_i out_i (δ_ij - out_j) = out_j (dout_j - Σ_i dout_i out_i)

    The sum is one number for each row along `dim`; the n x n Jacobian is never made.
    """

    dtype_rule = "float"
    widens_float16 = True

    @staticmethod
    def forward(ctx, x, dim):
        ctx.dim = dim
        # Subtracting the largest x of each row keeps e^x from overflowing. It cancels: e^(x - m) = e^x / e^m.
        largest = x.max(axis=dim, keepdims=True) if x.size else 0
        exps = module_of(x).exp(x - largest)
        # sum_over is exps.sum(dim), but adds up long rows with more digits
        ctx.out = out = exps / sum_over(exps, dim, keepdims=True)
        return out

    @staticmethod
    def backward(ctx, dout):
        # Σ_i dout_i out_i: one number for each row
        dot = sum_over(dout * ctx.out, ctx.dim, keepdims=True)
        return (ctx.out * (dout - dot),)  # each row of dx sums to 0, as x + 1 has the same softmax


def softmax(x: Tensor, dim: int) -> Tensor:
    """e^x / Σ e^x: positive numbers that sum to 1 along `dim`. Where all of a row is -inf, it is nan, as in PyTorch.

    The shape stays; integers become float32. Raises IndexError for an axis that does not exist.

    >>> import numpy as np
    >>> softmax(np.log([[1.0, 2.0, 5.0]]), dim=-1).data
    array([[0.125, 0.25 , 0.625]])
    """
    axis = normalize_dim("softmax", dim, x)
    return Softmax.apply(x, dim=axis if x.ndim else None)


class LogSoftmax(Function):
    """out_i = x_i - ln Σ_j e^(x_j);  dx_j = dout_j - softmax(x)_j Σ_i dout_i.

    The logarithm is a part of every out_i, and its derivative by x_j is e^(x_j) / Σ e^x = softmax(x)_j.
    """

    dtype_rule = "float"
    widens_float16 = True

    @staticmethod
    def forward(ctx, x, dim):
        ctx.dim = dim
        ctx.out = out = log_softmax_of_array(x, dim)
        return out

    @staticmethod
    def backward(ctx, dout):
        # x_j itself, minus its part in the logarithm, which every out_i contains
        return (dout - module_of(dout).exp(ctx.out) * sum_over(dout, ctx.dim, keepdims=True),)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """ln softmax(x) = x - ln Σ e^x along `dim`, accurate even where the softmax itself would round to 0.

    Shape, dtypes and errors as in `softmax`.
    """
    axis = normalize_dim("log_softmax", dim, x)
    return LogSoftmax.apply(x, dim=axis if x.ndim else None)


def log_softmax_of_array(x, dim):
    """x - ln Σ e^x of an array, with the largest x subtracted first, as in Softmax."""
    if x.size == 0:
        return x + 0
    xp = module_of(x)
    shifted = x - x.max(axis=dim, keepdims=True)
    return shifted - xp.log(sum_over(xp.exp(shifted), dim, keepdims=True))
