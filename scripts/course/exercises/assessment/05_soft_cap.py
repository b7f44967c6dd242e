"""soft_cap: keep logits within (-cap, cap), smoothly, as in Gemma 2.

    out = cap * tanh(x / cap),   element by element

Shapes: x, out, dout and dx have the same shape; cap a number > 0.
Example: x = [10.0], cap = 10, dout = [1.0]  ->  out = [7.6159], dx = [0.4200]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
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
ctx.tanh, ctx.cap = np.tanh(x / cap), cap
return cap * ctx.tanh

dx = dout * (1 - ctx.tanh**2)
'''

SLIPS = [
    ("cap * ctx.tanh", "np.clip(x, -cap, cap)", "this is a hard clip: cap * tanh(x / cap)"),
    ("(1 - ctx.tanh**2)", "(1 - (ctx.cap * ctx.tanh) ** 2)",
     "1 - out² is tanh's own: here out is cap times tanh, so (out / cap)²"),
    ("dout * (", "dout * ctx.cap * (", "the inner derivative 1/cap is missing: it cancels cap"),
    ("dout * (", "dout / ctx.cap * (", "the factor cap in front is missing in dx"),
]  # fmt: skip

cases = st.builds(Case, shapes().flatmap(values), cap=st.sampled_from([0.5, 2.0, 5.0]))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="logits that cannot run away",
    group="Assessment", effort="10 min, easy",
    checks=[OpCheck("SoftCap", cases, Case(some(3, 4), cap=1.7))],
)
