"""group_norm: layer norm within groups of neighboring channels (Wu & He 2018).

    the C channels of each row form `groups` groups of C / groups neighbors
    x_hat = (x - mean) / sqrt(variance + eps)       mean and variance (the mean square) of each group by itself
    out   = x_hat * weight + bias                   weight and bias: one number per channel

Shapes: x, out, dout and dx (N, C); weight, bias, dweight and dbias (C); groups divides C.
Example: x = [[1, 3, 10, 30]], groups = 2, weight = [1, 1, 1, 1], bias = [0, 0, 0, 5], eps = 0 -> out = [[-1, 1, -1, 6]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class GroupNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):
        # TODO
        raise NotImplementedError("out")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("the gradients")
        return dx, dweight, dbias
'''

BLANKS = '''
split = x.reshape(len(x), groups, -1)
mean = split.mean(axis=-1, keepdims=True)
variance = ((split - mean) ** 2).mean(axis=-1, keepdims=True)
ctx.std = np.sqrt(variance + eps)
ctx.x_hat, ctx.weight = (split - mean) / ctx.std, weight
return ctx.x_hat.reshape(x.shape) * weight + bias

dweight = (dout * ctx.x_hat.reshape(dout.shape)).sum(axis=0)
dbias = dout.sum(axis=0)
dx_hat = (dout * ctx.weight).reshape(ctx.x_hat.shape)
through_mean = dx_hat.mean(axis=-1, keepdims=True)
through_std = ctx.x_hat * (dx_hat * ctx.x_hat).mean(axis=-1, keepdims=True)
dx = ((dx_hat - through_mean - through_std) / ctx.std).reshape(dout.shape)
'''

SLIPS = [
    ("groups, -1)", "1, -1)", "one mean and variance for all channels: each group has its own"),
    ("return ctx.x_hat",
     "split = x.reshape(len(x), -1, groups)\nspread = (split - split.mean(axis=1, keepdims=True)) / "
     "np.sqrt(split.var(axis=1, keepdims=True) + eps)\nreturn spread",
     "groups are of neighboring channels: reshape to (N, groups, C / groups)"),
    ("((split - mean) ** 2).mean(axis=-1, keepdims=True)", "split.var(axis=-1, keepdims=True, ddof=1)",
     "the variance divides by n - 1: it is the mean square, over n"),
    ("dx_hat.mean(axis=-1, keepdims=True)\nthrough_std = ctx.x_hat * (dx_hat * ctx.x_hat).mean(axis=-1",
     "dx_hat.mean(axis=(1, 2), keepdims=True)\nthrough_std = ctx.x_hat * (dx_hat * ctx.x_hat).mean(axis=(1, 2)",
     "the two means run over all channels: over each group by itself"),
]  # fmt: skip


@st.composite
def cases(draw):
    n, groups, size = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    channels = groups * size
    x, weight, bias = draw(values((n, channels))), draw(values(channels)), draw(values(channels))
    return Case(x, weight, bias, groups=groups, eps=draw(st.sampled_from([0.1, 0.5])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="layer norm within groups of channels",
    group="Assessment", effort="40 min, hard",
    checks=[OpCheck("GroupNorm", cases(), Case(some(3, 8), some(8), some(8, seed=1), groups=2, eps=0.1), examples=15)],
)
