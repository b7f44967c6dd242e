"""The assessment exercise "group_norm": layer norm within groups of channels."""

from typing import Any

import hypothesis.strategies as st
import numpy as np

from scripts.exercises.catalogue import Exercise
from scripts.exercises.checks import Case, OpCheck, Slip, some, values

STUB = '''"""group_norm: layer norm within groups of neighboring channels (Wu & He 2018).

    the C channels of each row form `groups` groups of C / groups neighbors
    x_hat = (x - mean) / sqrt(variance + eps)       mean and variance (the mean square) of each group by itself
    out   = x_hat * weight + bias                   weight and bias: one number per channel

Shapes: x, out, dout and dx (N, C); weight, bias, dweight and dbias (C); groups divides C.
Example: x = [[1, 3, 10, 30]], groups = 2, weight = [1, 1, 1, 1], bias = [0, 0, 0, 5], eps = 0 -> out = [[-1, 1, -1, 6]]
"""

import numpy as np

from minigrad.autograd import Function


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


@st.composite
def cases(draw: Any) -> Case:
    n, groups, size = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    channels = groups * size
    x, weight, bias = draw(values((n, channels))), draw(values(channels)), draw(values(channels))
    return Case(x, weight, bias, groups=groups, eps=draw(st.sampled_from([0.1, 0.5])))


def by_groups(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    parts = [
        (part - part.mean(1)[:, None]) / np.sqrt(part.var(1)[:, None] + eps) for part in np.split(x, groups, axis=1)
    ]
    return np.concatenate(parts, axis=1) * weight + bias


def grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(len(x), groups, -1)


def backward(mean: float, projection: float, scaled: bool = True, all_channels: bool = False) -> Any:
    def formula(dout: Any, x: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
        split = grouped(x, groups)
        std = np.sqrt(split.var(axis=-1, keepdims=True) + eps)
        x_hat = (split - split.mean(axis=-1, keepdims=True)) / std
        d = grouped(dout * weight if scaled else dout, groups)
        axes = (1, 2) if all_channels else 2
        dot = (d * x_hat).mean(axis=axes, keepdims=True)
        return (
            ((d - mean * d.mean(axis=axes, keepdims=True) - projection * x_hat * dot) / std).reshape(x.shape),
            None,
            None,
        )

    return formula


EXERCISE = Exercise(
    title="layer norm within groups of channels",
    group="Assessment", effort="40 min, hard",
    stub=STUB,
    blanks=BLANKS,
    hints=(
        "Reshape to (N, groups, C / groups): then it is layer norm over the last axis.",
        "mean and std are (N, groups, 1). weight and bias act on (N, C), so their gradients are sums over N.",
        "d = (dout * weight).reshape(N, groups, -1); dx = (d - mean(d) - x_hat * mean(d * x_hat)) / std, "
        "reshaped to (N, C)",
    ),
    checks=(
        OpCheck(
            "GroupNorm",
            cases(),
            Case(some(3, 8), some(8), some(8, seed=1), groups=2, eps=0.1),
            slips=(
                Slip(
                    lambda x, weight, bias, groups, eps: by_groups(x, weight, bias, 1, eps),
                    "one mean and variance for all channels: each group has its own",
                ),
                Slip(
                    lambda x, weight, bias, groups, eps: (
                        by_groups(
                            grouped(x, x.shape[1] // groups).swapaxes(1, 2).reshape(x.shape),
                            np.ones(len(weight)),
                            np.zeros(len(weight)),
                            groups,
                            eps,
                        )
                        .reshape(len(x), groups, -1)
                        .swapaxes(1, 2)
                        .reshape(x.shape)
                        * weight
                        + bias
                    ),
                    "groups are of neighboring channels: reshape to (N, groups, C / groups)",
                ),
                Slip(
                    lambda x, weight, bias, groups, eps: (
                        (
                            (grouped(x, groups) - grouped(x, groups).mean(-1, keepdims=True))
                            / np.sqrt(grouped(x, groups).var(-1, keepdims=True, ddof=1) + eps)
                        ).reshape(x.shape)
                        * weight
                        + bias
                    ),
                    "the variance divides by n - 1: it is the mean square, over n",
                ),
            ),
            backward_slips=(
                Slip(backward(0, 0), "a term is missing: x also acts through its group's mean and std (two terms)"),
                Slip(backward(1, 0), "the term through std is missing"),
                Slip(backward(0, 1), "the term through the mean is missing"),
                Slip(backward(1, 1, scaled=False), "weight is missing: dx_hat = dout * weight"),
                Slip(
                    backward(1, 1, all_channels=True), "the two means run over all channels: over each group by itself"
                ),
            ),
            examples=15,
        ),
    ),
)
