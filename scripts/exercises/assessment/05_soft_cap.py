"""The assessment exercise "soft_cap": logits that cannot run away."""

from typing import Any

import hypothesis.strategies as st
import numpy as np

from scripts.exercises.catalogue import Exercise
from scripts.exercises.checks import Case, OpCheck, Slip, shapes, some, values

STUB = '''"""soft_cap: keep logits within (-cap, cap), smoothly, as in Gemma 2.

    out = cap * tanh(x / cap),   element by element

Shapes: x, out, dout and dx have the same shape; cap a number > 0.
Example: x = [10.0], cap = 10, dout = [1.0]  ->  out = [7.6159], dx = [0.4200]
"""

import numpy as np

from minigrad.autograd import Function


class SoftCap(Function):
    @staticmethod
    def forward(ctx, x, cap):
        # TODO
        raise NotImplementedError("out")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx")
        return (dx,)
'''

BLANKS = '''
ctx.tanh = np.tanh(x / cap)
return cap * ctx.tanh

dx = dout * (1 - ctx.tanh**2)
'''


@st.composite
def cases(draw: Any) -> Case:
    return Case(draw(values(draw(shapes()))), cap=draw(st.sampled_from([0.5, 2.0, 5.0])))


def slope(x: np.ndarray, cap: float) -> np.ndarray:
    return 1 - np.tanh(x / cap) ** 2


EXERCISE = Exercise(
    title="logits that cannot run away",
    group="Assessment", effort="10 min, easy",
    stub=STUB,
    blanks=BLANKS,
    hints=(
        "Chain rule: the factor cap outside, 1/cap inside.",
        "Element by element, and the two constants cancel.",
        "dx = dout * (1 - np.tanh(x / cap) ** 2)",
    ),
    checks=(
        OpCheck(
            "SoftCap",
            cases(),
            Case(some(3, 4), cap=1.7),
            slips=(
                Slip(lambda x, cap: np.clip(x, -cap, cap), "this is a hard clip: cap * tanh(x / cap)"),
                Slip(lambda x, cap: np.tanh(x / cap), "the factor cap in front is missing"),
                Slip(lambda x, cap: cap * np.tanh(x), "x is not divided by cap inside tanh"),
            ),
            backward_slips=(
                Slip(
                    lambda dout, x, cap: (dout * cap * slope(x, cap),),
                    "the inner derivative 1/cap is missing: it cancels cap",
                ),
                Slip(lambda dout, x, cap: (dout / cap * slope(x, cap),), "the factor cap in front is missing in dx"),
                Slip(
                    lambda dout, x, cap: (dout * (1 - (cap * np.tanh(x / cap)) ** 2),),
                    "1 - out² is tanh's own: here out is cap times tanh, so (out / cap)²",
                ),
                Slip(lambda dout, x, cap: (dout * (1 - np.tanh(x / cap)),), "the square is missing: 1 - tanh²"),
            ),
        ),
    ),
)
