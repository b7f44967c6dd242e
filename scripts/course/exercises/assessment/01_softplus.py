"""softplus: a smooth relu.

    out = ln(1 + e^x),   element by element

Forward and backward must be finite and exact for every x, 1000 and -1000 as well. A cut-off, such as x itself above 20,
is not exact.

Shapes: x, out, dout and dx have the same shape.
Example: x = [0.0], dout = [1.0]  ->  out = [0.6931], dx = [0.5]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class Softplus(Function):
    @staticmethod
    def forward(ctx, x):
        # TODO
        raise NotImplementedError("out of softplus")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx of softplus")
        return (dx,)
'''

BLANKS = '''
ctx.x = x
return np.logaddexp(0, x)

sigmoid = 0.5 * (1 + np.tanh(ctx.x / 2))
dx = dout * sigmoid
'''

SLIPS = [
    ("np.logaddexp(0, x)", "np.maximum(x, 0)", "this is relu"),
    ("np.logaddexp(0, x)", "np.where(x > 20, x, np.logaddexp(0, x))", "cut off: above some x, x itself is not exact"),
    ("1 + np.tanh", "1 - np.tanh", "this is sigmoid(-x): the slope must grow with x"),
    ("0.5 * (1 + np.tanh(ctx.x / 2))", "0.25 * (1 - np.tanh(ctx.x / 2) ** 2)",
     "this is the derivative of the sigmoid: one derivative too many"),
]  # fmt: skip

cases = st.builds(lambda x, scale: Case(x * scale), shapes().flatmap(values), st.sampled_from([1, 1, 8, 1000]))
EXTREME = [20.5, -20.5, 1000.0, -1000.0]

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a smooth relu, exact for large numbers",
    group="Assessment", effort="10 min, easy",
    checks=[OpCheck("Softplus", cases, Case(np.concatenate([some(4), EXTREME])), tolerance=1e-11)],
)
