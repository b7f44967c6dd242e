"""l2_normalize: scale every row to length 1.

    out = x / sqrt(sum of x^2 over the last axis + eps)

Shapes: x, out, dout and dx (..., C); eps a number > 0.
Example: x = [[3, 4]], eps = 0, dout = [[1, 0]]  ->  out = [[0.6, 0.8]], dx = [[0.128, -0.096]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class L2Normalize(Function):
    @staticmethod
    def forward(ctx, x, eps):
        # TODO
        raise NotImplementedError("out")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx")
        return (dx,)
'''

BLANKS = '''
ctx.length = np.sqrt((x**2).sum(axis=-1, keepdims=True) + eps)
ctx.out = x / ctx.length
return ctx.out

through_length = ctx.out * (dout * ctx.out).sum(axis=-1, keepdims=True)
dx = (dout - through_length) / ctx.length
'''

SLIPS = [
    ("(x**2).sum", "(x**2).mean", "mean square: that is rms_norm"),
    ("np.sqrt((x**2).sum(axis=-1, keepdims=True) + eps)", "(x**2).sum(axis=-1, keepdims=True) + eps",
     "the root is missing"),
    ("np.sqrt((x**2).sum(axis=-1, keepdims=True) + eps)", "np.abs(x).sum(axis=-1, keepdims=True) + eps",
     "this is the L1 norm"),
]  # fmt: skip

cases = st.builds(Case, shapes().flatmap(values), eps=st.sampled_from([0.1, 0.5]))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="vectors of length 1",
    group="Assessment", effort="20 min, medium",
    checks=[OpCheck("L2Normalize", cases, Case(some(2, 3, 5), eps=0.1), examples=15)],
)
