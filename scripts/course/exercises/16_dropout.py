"""dropout: in training, set each element to 0 with probability p, and scale up the others.

    keep = (uniform >= p)                  uniform: a random number in [0, 1) for each element, already drawn
    out  = x * keep / (1 - p)

The division keeps the expected value of out at x, so that nothing has to change when the model is used. Backward must
use the very same mask.

Shapes: x, uniform, out, dout and dx have the same shape; 0 <= p < 1. uniform gets no gradient: None.
Example: x = [1, 2], uniform = [0.9, 0.1], p = 0.5, dout = [1, 1]  ->  out = [2, 0], dx = [2, 0]
"""


import hypothesis.strategies as st
import numpy as np

from minigrad.backend import uniform as draw_uniform
from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class Dropout(Function):
    @staticmethod
    def forward(ctx, x, uniform, p):
        # TODO: out, and what backward needs; in the dtype of x
        raise NotImplementedError("out of dropout")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx
        raise NotImplementedError("dx of dropout")
        return dx, None
'''

BLANKS = '''
keep = uniform >= p
ctx.scaled_mask = (keep / (1 - p)).astype(x.dtype)
return x * ctx.scaled_mask

dx = dout * ctx.scaled_mask
'''

SLIPS = [
    ("uniform >= p", "uniform < 1 - p", "another mask: keep where uniform >= p, not where uniform < 1 - p"),
    ("dout * ctx.scaled_mask", "dout * (ctx.scaled_mask > 0)", "dx lacks the scale 1 / (1 - p)"),
    ("dout * ctx.scaled_mask", "dout * ctx.scaled_mask.max()", "dx lacks the mask: what was dropped gets 0"),
]  # fmt: skip


@st.composite
def cases(draw):
    shape = draw(shapes())
    uniform = draw(values(shape, 0, 0.9))
    return Case(draw(values(shape)), uniform, p=draw(st.sampled_from([0.0, 0.3, 0.5])))


UNIFORM = np.array([[0.9, 0.1, 0.5, 0.7], [0.2, 0.3, 0.8, 0.6], [0.4, 0.95, 0.05, 0.35]])


def from_stream(x, p, stream):
    return x, draw_uniform(np, stream, x.shape).astype(x.dtype), p


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="one mask, both ways",
    group="Embedding", effort="10 min, easy",
    hints=(
        "out is x times a number that does not depend on x: 0 or 1/(1-p). The same number takes dout back.",
        "Keep one array of x's shape, the mask with its scale: ctx.scale.",
        "ctx.scale = ((uniform >= p) / (1 - p)).astype(x.dtype); out = x * ctx.scale; dx = dout * ctx.scale",
    ),
    checks=[OpCheck("Dropout", cases(), Case(some(3, 4), UNIFORM, p=0.3), in_float32=True)],
    place=Kernel("dropout", "Dropout", from_stream),
    answer=("minigrad.functional.stochastic.Dropout",),
)
