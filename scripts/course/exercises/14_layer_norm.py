"""layer_norm: bring each token's features to mean 0 and variance 1, then scale and shift them.

    x_hat = (x - mean) / std,   std = sqrt(mean((x - mean)^2) + eps),   over the last axis
    out   = x_hat * weight + bias

x reaches x_hat in three ways: itself, through the mean, and through std. With dx_hat = dout * weight, each of them is
one term of

    dx = (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)) / std

Derive it once on paper; then write it. weight and bias were used by every token: their gradients are sums.

Shapes: x (..., C), weight and bias (C), out and dout (..., C); dx (..., C), dweight and dbias (C).
Example: x = [[1, 3]], weight = [2, 2], bias = [0, 1], eps = 0  ->  out = [[-2, 3]]; dout = [[1, 0]] -> dx = [[0, 0]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class LayerNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        # TODO: out; the variance is the mean square, eps stands inside the root. Keep what backward needs
        raise NotImplementedError("out of layer_norm")

    @staticmethod
    def backward(ctx, dout):
        # TODO: the three gradients
        raise NotImplementedError("gradients of layer_norm")
        return dx, dweight, dbias
'''

BLANKS = '''
mean = x.mean(axis=-1, keepdims=True)
variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
ctx.std = np.sqrt(variance + eps)
ctx.x_hat, ctx.weight = (x - mean) / ctx.std, weight
return ctx.x_hat * weight + bias

tokens = tuple(range(dout.ndim - 1))
dweight = (dout * ctx.x_hat).sum(axis=tokens)  # over all tokens
dbias = dout.sum(axis=tokens)  # over all tokens
dx_hat = dout * ctx.weight
through_mean = dx_hat.mean(axis=-1, keepdims=True)
through_std = ctx.x_hat * (dx_hat * ctx.x_hat).mean(axis=-1, keepdims=True)
dx = (dx_hat - through_mean - through_std) / ctx.std
'''

SLIPS = [
    ("((x - mean) ** 2).mean(axis=-1, keepdims=True)", "x.var(axis=-1, keepdims=True, ddof=1)",
     "the variance divides by C - 1: layer norm divides by C (ddof=0)"),
    (" - through_mean - through_std", "",
     "a term is missing: x also acts through the mean and through std (two terms)"),
]  # fmt: skip


@st.composite
def cases(draw):
    lead, channels = tuple(draw(st.lists(st.integers(1, 3), max_size=2))), draw(st.integers(1, 4))
    x, weight, bias = draw(values((*lead, channels))), draw(values(channels)), draw(values(channels))
    return Case(x, weight, bias, eps=draw(st.sampled_from([0.1, 0.5])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="three ways from x to the output",
    group="Norms", effort="40 min, hard",
    hints=(
        "Adding a constant to x changes nothing, and neither does (eps aside) stretching x: dx must be free of "
        "both directions.",
        "means over the last axis, keepdims=True: one number per token. dweight = (dout * x_hat) summed over all "
        "other axes.",
        "dx = (d - d.mean(-1, keepdims=True) - x_hat * (d * x_hat).mean(-1, keepdims=True)) / std, with d = dout "
        "* weight",
    ),
    checks=[OpCheck("LayerNorm", cases(), Case(some(2, 3, 5), some(5), some(5, seed=1), eps=0.1), examples=15)],
    place=Kernel("layer_norm", "LayerNorm", lambda x, weight, bias, axes, eps: (x, weight, bias, eps)),
    answer=("minigrad.functional.normalization.LayerNorm",),
)
