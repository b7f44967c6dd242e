"""mean: the average along some axes.

    out = (sum of x over the axes `dims`) / n,     n: how many elements go into each result

Shapes: as for sum. x (2, 3), dims = (1,): n = 3, out (2,), dout (2,), dx (2, 3)
Example: x = [[1, 2, 3]], dims = (1,), dout = [6]  ->  out = [2], dx = [[2, 2, 2]]
"""

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, reductions, some

STUB = beginning(__doc__, OP) + '''
class Mean(Function):
    @staticmethod
    def forward(ctx, x, dims, keepdim):  # dims: a tuple of axes
        ctx.shape, ctx.dims, ctx.keepdim = x.shape, dims, keepdim
        return x.mean(axis=dims, keepdims=keepdim)

    @staticmethod
    def backward(ctx, dout):
        # TODO: as in sum, but each of the n elements moves the mean by 1/n of its own step only
        raise NotImplementedError("dx of mean")
        return (dx,)
'''

BLANKS = '''
dout = dout if ctx.keepdim else np.expand_dims(dout, ctx.dims)
n = np.prod([ctx.shape[axis] for axis in ctx.dims])  # how many elements go into each result
dx = np.broadcast_to(dout / n, ctx.shape)
'''

COUNT, ADVICE = "np.prod([ctx.shape[axis] for axis in ctx.dims])", "n is the product of the lengths along `dims`"

SLIPS = [
    (COUNT, "np.prod(ctx.shape)", f"n counts all elements of x: {ADVICE} only"),
    (COUNT, "ctx.shape[ctx.dims[0]]", f"n counts one axis only: {ADVICE}"),
    (COUNT, "ctx.shape[ctx.dims[-1]]", f"n counts one axis only: {ADVICE}"),
    (COUNT, "len(dout)", f"len(dout) is the length of dout's first axis: {ADVICE}"),
    (COUNT, "len(ctx.dims)", f"len(ctx.dims) is how many axes are averaged over: {ADVICE}"),
    (COUNT, "ctx.shape[ctx.dims]", f"dims is a tuple, and only a number can be an index of a tuple: {ADVICE}"),
]  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a sum whose gradient is shared out",
    group="Engine", effort="10 min, easy",
    hints=(
        "A mean is a sum times 1/n, and a constant factor forward is the same factor backward.",
        "n is the product of x's lengths along `dims`. The rest is sum's backward: expand, then repeat to ctx.shape.",
        "n = int(np.prod([ctx.shape[axis] for axis in ctx.dims])); expand dout, divide by n, broadcast to ctx.shape",
    ),
    checks=[OpCheck("Mean", reductions(), Case(some(3, 4, 5), dims=(0, 2), keepdim=False))],
    place=Kernel("mean", "Mean", takes=("layer_norm",)),
    answer=("minigrad.functional.reduction.Mean",),
)
