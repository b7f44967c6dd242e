"""sum: add up along some axes.

    out = sum of x over the axes `dims`

Every element went into its sum with slope 1. So every element gets the gradient of the sum that it went into: dout,
repeated along the axes that are gone.

Shapes: x (2, 3), dims = (1,), keepdim = False: out (2,), dout (2,), dx (2, 3). With keepdim = True: out (2, 1).
Example: x = [[1, 2, 3], [4, 5, 6]], dims = (1,), dout = [10, 20]  ->  out = [6, 15], dx = [[10, 10, 10], [20, 20, 20]]
"""

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, reductions, some

STUB = beginning(__doc__, OP) + '''
class Sum(Function):
    @staticmethod
    def forward(ctx, x, dims, keepdim):  # dims: a tuple of axes
        ctx.shape, ctx.dims, ctx.keepdim = x.shape, dims, keepdim
        return x.sum(axis=dims, keepdims=keepdim)

    @staticmethod
    def backward(ctx, dout):
        # TODO: give dout its axes of length 1 back (np.expand_dims), and repeat it to ctx.shape (np.broadcast_to)
        raise NotImplementedError("dx of sum")
        return (dx,)
'''

BLANKS = '''
dout = dout if ctx.keepdim else np.expand_dims(dout, ctx.dims)
dx = np.broadcast_to(dout, ctx.shape)
'''

SLIPS = [
    ("np.broadcast_to(dout,", "np.broadcast_to(dout.sum(),",
     "dout is summed: each element gets the gradient of its own sum only, dout repeated"),
]  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a reduction forward, a repetition backward",
    group="Engine", effort="10 min, easy",
    hints=(
        "Move one element by h: its sum moves by h, all others stay. So the slope is 1, and dout comes back unchanged.",
        "dout has lost the axes `dims` (unless keepdim): np.expand_dims(dout, dims) has them again, with length 1.",
        "dout = dout if ctx.keepdim else np.expand_dims(dout, ctx.dims);  dx = np.broadcast_to(dout, ctx.shape)",
    ),
    checks=[OpCheck("Sum", reductions(), Case(some(3, 4, 2), dims=(0, 2), keepdim=False))],
    place=Kernel("sum", "Sum", takes=("cross_entropy",)),
    answer=("minigrad.functional.reduction.Sum",),
)
