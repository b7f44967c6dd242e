"""rms_norm: layer norm without the mean, as in LLaMA.

    x_hat = x / rms,   rms = sqrt(mean(x^2) + eps),   over the last axis
    out   = x_hat * weight

Now x reaches x_hat in two ways only: itself, and through rms.

Shapes: x (..., C), weight (C), out and dout (..., C); dx (..., C), dweight (C).
Example: x = [[3, 4]], weight = [1, 2], eps = 0  ->  rms = 3.5355, out = [[0.8485, 2.2627]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class RmsNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        # TODO: out, and what backward needs
        raise NotImplementedError("out of rms_norm")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx and dweight
        raise NotImplementedError("gradients of rms_norm")
        return dx, dweight
'''

BLANKS = '''
ctx.rms = np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
ctx.x_hat, ctx.weight = x / ctx.rms, weight
return ctx.x_hat * weight

dweight = (dout * ctx.x_hat).sum(axis=tuple(range(dout.ndim - 1)))  # over all tokens
dx_hat = dout * ctx.weight
through_rms = ctx.x_hat * (dx_hat * ctx.x_hat).mean(axis=-1, keepdims=True)
dx = (dx_hat - through_rms) / ctx.rms
'''

SLIPS = [
    ("ctx.rms = np", "x = x - x.mean(axis=-1, keepdims=True)\nctx.rms = np",
     "the mean is subtracted: that is layer_norm, rms_norm leaves it in"),
    ("x / ctx.rms", "(x - x.mean(axis=-1, keepdims=True)) / ctx.rms", "the mean is subtracted: rms_norm leaves it in"),
    ("np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)", "np.abs(x).mean(axis=-1, keepdims=True) + eps",
     "this is the mean magnitude: rms is the root of the mean square"),
    ("(dx_hat - through", "(dx_hat - dx_hat.mean(axis=-1, keepdims=True) - through",
     "there is no mean in rms_norm: the term mean(dx_hat) is too much"),
]  # fmt: skip


@st.composite
def cases(draw):
    lead, channels = tuple(draw(st.lists(st.integers(1, 3), max_size=2))), draw(st.integers(1, 4))
    return Case(draw(values((*lead, channels))), draw(values(channels)), eps=draw(st.sampled_from([0.1, 0.5])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="layer norm without the mean",
    group="Norms", effort="25 min, medium",
    hints=(
        "Compare with layer_norm: the term through the mean falls away, the one through the root stays.",
        "rms is (..., 1), one number per token. dweight = (dout * x_hat) summed over all axes but the last.",
        "dx = (d - x_hat * (d * x_hat).mean(-1, keepdims=True)) / rms, with d = dout * weight",
    ),
    checks=[OpCheck("RmsNorm", cases(), Case(some(2, 3, 5), some(5), eps=0.1), examples=15)],
    place=Kernel("rms_norm", "RmsNorm", lambda x, weight, axes, eps: (x, weight, eps),
                 takes=("layer_norm to rms_norm",)),
    answer=("minigrad.functional.normalization.RmsNorm",),
)
