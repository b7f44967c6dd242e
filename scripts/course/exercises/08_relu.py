"""relu: keep positive numbers, and replace the others by 0.

    out = max(x, 0),   element by element

Where x > 0 the slope is 1, elsewhere 0: a gate that is open or closed. At x = 0 there is a kink; take 0 there.

Shapes: x, out, dout and dx have the same shape.
Example: x = [-1.0, 2.0], dout = [10.0, 20.0]  ->  out = [0.0, 2.0], dx = [0.0, 20.0]
"""

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class Relu(Function):
    @staticmethod
    def forward(ctx, x):
        # TODO: out, and whatever backward will need, as ctx.something
        raise NotImplementedError("out of relu")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx; do not write into dout, which other ops may still use
        raise NotImplementedError("dx of relu")
        return (dx,)
'''

BLANKS = '''
ctx.x = x
return np.maximum(x, 0)

dx = dout * (ctx.x > 0)
'''

SLIPS = [
    ("np.maximum(x, 0)", "np.abs(x)", "this is |x|: negative numbers become 0, not positive"),
    ("np.maximum(x, 0)", "np.where(x > 0, x, 0.01 * x)", "this is the leaky relu: negative numbers become 0"),
    ("ctx.x > 0", "dout > 0", "the gate is on dout: it must be on x, whatever dout's sign"),
    ("(ctx.x > 0)", "np.maximum(ctx.x, 0)", "the slope is 1 where x > 0, not x"),
]  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a gate",
    group="MLP", effort="5 min, easy",
    hints=(
        "Where the gate was open, dout passes; where it was closed, nothing does.",
        "Everything has the shape of x: the gate is a mask of booleans, (x > 0) or (out > 0).",
        "ctx.out = np.maximum(x, 0), and dx = np.where(ctx.out > 0, dout, 0)",
    ),
    checks=[OpCheck("Relu", shapes().flatmap(values).map(Case), Case(some(3, 4)))],
    place=Kernel("relu", "Relu", takes=("gelu to relu",)),
    answer=("minigrad.functional.activation.Relu",),
)
