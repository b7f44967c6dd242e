"""squared_relu: a relu without a corner (So et al. 2021, Primer).

    out = max(x, 0)^2,   element by element

Shapes: x, out, dout and dx have the same shape.
Example: x = [-1.0, 3.0], dout = [1.0, 1.0]  ->  out = [0.0, 9.0], dx = [0.0, 6.0]
"""

import numpy as np

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class SquaredRelu(Function):
    @staticmethod
    def forward(ctx, x):
        # TODO
        raise NotImplementedError("out")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx")
        return (dx,)
'''

BLANKS = '''
ctx.x = x
return np.maximum(x, 0) ** 2

dx = dout * 2 * np.maximum(ctx.x, 0)
'''

SLIPS = [
    ("np.maximum(x, 0)", "x", "negative numbers are squared, too: max(x, 0) first"),
    ("np.maximum(ctx.x, 0)", "ctx.x", "where x is negative nothing may pass"),
    ("2 * ", "", "the factor 2 is missing: d r² = 2 r dr"),
    ("np.maximum(ctx.x, 0)", "(ctx.x > 0)", "the factor max(x, 0) is missing: d r² = 2 r dr"),
    ("2 * np.maximum(ctx.x, 0)", "(ctx.x > 0)", "this is relu's own gradient: the square's, 2 r, is missing"),
]  # fmt: skip

# Without 0, where differences see the kink of 2 r.
cases = shapes().flatmap(values).map(lambda x: Case(np.where(x == 0, 0.5, x)))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a relu without a corner",
    group="Assessment", effort="5 min, easy",
    checks=[OpCheck("SquaredRelu", cases, Case(some(3, 4)))],
)
