"""tanh: squash every number into (-1, 1).

    out = tanh x,   element by element

The derivative of tanh can be written in terms of its output, so forward has to keep nothing else. Find it, and multiply
it by dout, the gradient of the loss with respect to out (chain rule).

Shapes: x, out, dout and dx have the same shape.
Example: x = [0.5], dout = [2.0]  ->  out = [0.4621], dx = [1.5729]
"""

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class Tanh(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.out = np.tanh(x)
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx, from dout and ctx.out
        raise NotImplementedError("dx of tanh")
        return (dx,)
'''

SLIPS = [
    ("ctx.out**2", "np.tanh(ctx.out) ** 2", "ctx.out is tanh x already: tanh is taken twice"),
    ("1 - ctx.out**2", "ctx.out * (1 - ctx.out)", "this is the sigmoid's, out (1 - out)"),
    ("1 - ctx.out**2", "(1 - ctx.out) ** 2", "only out is squared: 1 - out², not (1 - out)²"),
]  # fmt: skip

EXERCISE = Exercise(
    STUB, "dx = dout * (1 - ctx.out**2)  # the derivative is 1 - out²", SLIPS,
    title="a first backward, from the output alone",
    group="Engine", effort="5 min, easy",
    hints=(
        "tanh x = (e^x - e^-x) / (e^x + e^-x). Differentiate the quotient, and look for tanh x in what comes out.",
        "dx has the shape of x. Each element has its own slope: no sum is needed, only a product with dout.",
        "The derivative is 1 - tanh(x)², so dx = dout * (1 - ctx.out * ctx.out).",
    ),
    checks=[OpCheck("Tanh", shapes().flatmap(values).map(Case), Case(some(3, 4)))],
    place=Kernel("tanh", "Tanh", takes=("gelu",)),
    answer=("minigrad.functional.activation.Tanh",),
)
