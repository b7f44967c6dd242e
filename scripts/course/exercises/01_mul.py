"""mul: multiply two arrays of one shape. Two minutes: everything is here already, but one sign is wrong.

    out = x * y,   element by element

If x grows a little, out grows y times as much; if y grows, x times as much. So dx = dout * y and dy = dout * x, where
dout is the gradient of the loss with respect to out (chain rule).

Shapes: x, y, out, dout, dx and dy have the same shape.
Example: x = [2.0], y = [3.0], dout = [10.0]  ->  out = [6.0], dx = [30.0], dy = [20.0]

Check this file as it is, and read the diagnosis. Then repair it.
"""

import numpy as np

from scripts.course.checker.checks import Case, Exercise, Kernel, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, "from minigrad.autograd import Function") + '''
class Mul(Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.x, ctx.y = x, y
        return x * y

    @staticmethod
    def backward(ctx, dout):
        # TODO: one of the two gradients has the wrong sign
        dx = dout * ctx.y
        dy = -dout * ctx.x
        return dx, dy
'''



pairs = shapes().flatmap(lambda shape: values((2, *shape))).map(lambda pair: Case(*pair))


def of_one_shape(x, y):
    return isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape == y.shape


EXERCISE = Exercise(
    STUB, STUB.replace("-dout", "dout"),
    title="one flipped sign, to meet the checker",
    group="Engine", effort="2 min, easy",
    hints=(
        "Read the diagnosis: it names the input whose gradient is wrong, and what would make it right.",
        "All five arrays have one shape, and nothing is summed. Only a sign is wrong.",
        "dy = dout * ctx.x",
    ),
    checks=[OpCheck("Mul", pairs, Case(some(3, 4), some(3, 4, seed=1)))],
    place=Kernel("mul", "Mul", fits=of_one_shape, takes=("gelu",)),
    answer=("minigrad.functional.elementwise.Mul",),
)
