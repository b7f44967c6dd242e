"""lora: fine-tuning with a trainable low-rank update, added to a frozen weight.

    out = x W^T + scaling (x A^T) B^T            merged: W + scaling B A, one matrix again

W (`weight` below) is frozen: its gradient is None, and is not computed (that is what saves the memory). x, A and B get
theirs. `merge` returns the merged matrix.

Shapes: x (N, I), W (O, I), A (r, I), B (O, r), out and dout (N, O); dx (N, I), dA (r, I), dB (O, r); scaling a number,
used as it is.
Example: x = [[1, 2]], W = [[1, 0]], A = [[1, 1]], B = [[3]], scaling = 2, dout = [[1]]
         -> x A^T = [[3]], out = [[19]], dx = [[7, 6]], dA = [[6, 12]], dB = [[6]]; merged: [[7, 6]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, FunctionCheck, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class LoRA(Function):
    @staticmethod
    def forward(ctx, x, weight, A, B, scaling):
        # TODO
        raise NotImplementedError("out")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx, dA and dB")
        return dx, None, dA, dB


def merge(weight, A, B, scaling):
    # TODO: a new matrix (O, I)
    raise NotImplementedError("the merge")
'''

BLANKS = '''
hidden = x @ A.T
ctx.x, ctx.weight, ctx.A, ctx.B, ctx.hidden, ctx.scaling = x, weight, A, B, hidden, scaling
return x @ weight.T + scaling * (hidden @ B.T)  # the frozen layer, and the path through the adapter

dhidden = ctx.scaling * (dout @ ctx.B)
dB = ctx.scaling * (dout.T @ ctx.hidden)
dA = dhidden.T @ ctx.x
dx = dout @ ctx.weight + dhidden @ ctx.A  # through the frozen layer, and through the adapter

return weight + scaling * (B @ A)
'''

SLIPS = [
    ("x @ weight.T +", "scaling * (x @ weight.T) +",
     "the frozen layer is scaled as well: scaling belongs to the adapter only"),
    ("scaling * (hidden", "scaling / len(A) * (hidden", "it is divided by the rank r, which scaling contains already"),
    ("dB = ctx.scaling * (dout.T @ ctx.hidden)\ndA = dhidden.T @ ctx.x",
     "dB = dout.T @ ctx.hidden\ndA = dhidden.T @ ctx.x / ctx.scaling",
     "scaling is missing in dA and dB"),
    ("dhidden @ ctx.A", "dout @ ctx.B @ ctx.A", "scaling is missing in dx"),
]  # fmt: skip


@st.composite
def cases(draw):
    n, i, o, r = (draw(st.integers(1, 3)) for _ in range(4))
    arrays = (draw(values(shape)) for shape in ((n, i), (o, i), (r, i), (o, r)))
    return Case(*arrays, scaling=draw(st.sampled_from([0.5, 2.0])))


def without_x(case):
    return Case(*case.arguments[1:], **case.options)


TELLING = Case(some(2, 5), some(4, 5), some(3, 5, seed=1), some(4, 3, seed=2), scaling=0.7)

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a low-rank update of a frozen weight, and the merge",
    group="Fine-tuning", effort="30 min, hard",
    hints=(
        "Two paths from x to out; gradients of both add up in dx. Each path consists of linear layers only.",
        "hidden = x A^T (N, r); dhidden = dout B (N, r). dB (O, r) = dout^T hidden, dA (r, I) = dhidden^T x: "
        "times scaling.",
        "dh = scaling * dout @ B; dx = dout @ W + dh @ A; dA = dh.T @ x; dB = scaling * dout.T @ hidden;  "
        "merge: weight + scaling * (B @ A)",
    ),
    checks=(
        OpCheck("LoRA", cases(), TELLING, examples=15),
        FunctionCheck("merge", cases().map(without_x), without_x(TELLING)),
    ),
    answer=("finetune.adapters.lora.LoRALinear.forward", "finetune.adapters.lora.LoRALinear.delta"),
)
