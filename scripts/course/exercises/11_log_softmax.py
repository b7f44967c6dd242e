"""log_softmax: the logarithm of softmax along one axis.

    out_i = x_i - ln(sum over j of e^(x_j))

Computed in this form, and from x - max, it is exact even where the probability itself would round to 0, which has the
logarithm -inf.

Shapes: x, out, dout and dx have the same shape; the sums run along `dim`.
Example: x = [[ln 1, ln 3]], dim = 1, dout = [[1, 0]]  ->  out = [[-1.3863, -0.2877]], dx = [[0.75, -0.75]]
"""

from scripts.course.checker.checks import FAR, OP, Case, Exercise, Kernel, OpCheck, beginning, rows, some

STUB = beginning(__doc__, OP) + '''
class LogSoftmax(Function):
    @staticmethod
    def forward(ctx, x, dim):
        # TODO: out; keep what backward needs
        raise NotImplementedError("out of log_softmax")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx
        raise NotImplementedError("dx of log_softmax")
        return (dx,)
'''

BLANKS = '''
shifted = x - x.max(axis=dim, keepdims=True)  # so that exp cannot overflow
ctx.out, ctx.dim = shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True)), dim
return ctx.out

dx = dout - np.exp(ctx.out) * dout.sum(axis=ctx.dim, keepdims=True)  # exp(out): the softmax; dout summed over the row
'''

SLIPS = [
    ("shifted - np.log(np.exp(shifted)", "np.log(np.exp(shifted) / np.exp(shifted)",
     "log of a softmax that rounded to 0 is -inf: subtract logarithms, do not divide first"),
    ("shifted - np.log(np.exp(shifted)", "(np.exp(shifted) / np.exp(shifted)",
     "this is the softmax: return its logarithm"),
    (" * dout.sum(axis=ctx.dim, keepdims=True)", "",
     "the second term lacks the row's sum of dout (this is right for dout = one-hot only)"),
]  # fmt: skip


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="exact where the probability rounds to 0",
    group="Loss", effort="20 min, medium",
    hints=(
        "x_i reaches out_i directly, and every out_j of the row through the logarithm of the sum.",
        "The derivative of ln(sum e^x) by x_i is softmax_i, which is np.exp(out). It meets the row's sum of dout.",
        "dx = dout - np.exp(ctx.out) * dout.sum(axis=ctx.dim, keepdims=True)",
    ),
    checks=[OpCheck("LogSoftmax", rows(), Case(some(3, 4), dim=1)),
            OpCheck("LogSoftmax", rows(), Case(some(3, 4) + FAR, dim=1), examples=1)],
    place=Kernel("log_softmax", "LogSoftmax", takes=("cross_entropy",)),
    answer=("minigrad.functional.activation.LogSoftmax", "minigrad.functional.activation.log_softmax_of_array"),
)
