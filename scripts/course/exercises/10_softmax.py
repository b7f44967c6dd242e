"""softmax: turn scores into probabilities along one axis.

    out_i = e^(x_i) / sum over j of e^(x_j)

Subtract the largest x of each row first: the result stays the same, because e^-max cancels, and e^1000 is never
computed.

Raising one x_i changes every out_j of its row, because they share the sum:
d out_j / d x_i = out_j ((1 if i = j) - out_i). So dx_i is a sum over j, which can be written without any n x n matrix.

Shapes: x, out, dout and dx have the same shape; the sums run along `dim` (keepdims=True).
Example: x = [[ln 1, ln 3]], dim = 1, dout = [[1, 0]]  ->  out = [[0.25, 0.75]], dx = [[0.1875, -0.1875]]
"""

from scripts.course.checker.checks import FAR, OP, Case, Exercise, Kernel, OpCheck, beginning, rows, some

STUB = beginning(__doc__, OP) + '''
class Softmax(Function):
    @staticmethod
    def forward(ctx, x, dim):
        # TODO: out; keep it, and dim, for backward
        raise NotImplementedError("out of softmax")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx
        raise NotImplementedError("dx of softmax")
        return (dx,)
'''

BLANKS = '''
shifted = x - x.max(axis=dim, keepdims=True)  # so that exp cannot overflow
e = np.exp(shifted)
ctx.out, ctx.dim = e / e.sum(axis=dim, keepdims=True), dim
return ctx.out

dot = (dout * ctx.out).sum(axis=ctx.dim, keepdims=True)  # one per row; without the sum, only the Jacobian's diagonal
dx = ctx.out * (dout - dot)  # the factor out belongs to both
'''

SLIPS = [
    ("axis=dim, keepdims=True", "", "the sum runs over everything: each row along `dim` must sum to 1 (axis=dim)"),
    ("axis=dim", "axis=0", "the sum runs along axis 0, not along `dim`"),
    ("x.max(axis", "x.min(axis", "the smallest x is subtracted, so exp overflows: it must be the largest, x.max"),
]  # fmt: skip


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="scores into probabilities; every output depends on every input",
    group="Attention", effort="20 min, medium",
    hints=(
        "dx_i = sum over j of dout_j out_j ((1 if i = j) - out_i). Take the sum apart: what does each of the two "
        "terms give?",
        "The second term is out_i times one number per row: (dout * out).sum(axis=dim, keepdims=True).",
        "dx = ctx.out * (dout - (dout * ctx.out).sum(axis=ctx.dim, keepdims=True))",
    ),
    checks=[OpCheck("Softmax", rows(), Case(some(3, 4), dim=1)),
            OpCheck("Softmax", rows(), Case(some(3, 4) + FAR, dim=1), examples=1)],
    place=Kernel("softmax", "Softmax", takes=("scaled_dot_product_attention",)),
    answer=("minigrad.functional.activation.Softmax",),
)
