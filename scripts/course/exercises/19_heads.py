"""heads: split the channels of each token among H heads, and join them again.

One linear layer gives query, key and value of all heads in one row per token, in this order:

    [ q of head 0 | q of head 1 | ... | k of head 0 | ... | v of head 0 | ... ]         P parts, H heads, D numbers each

No arithmetic happens; numbers only change places. So backward puts them back: the same steps, in reverse.

Shapes: split, with n_head = H and parts = P: x (B, T, P H D) -> a tuple of P arrays (B, H, T, D);
        merge: x (B, H, T, D) -> (B, T, H D).
Example: x = [[[1, 2, 3, 4]]], n_head = 2, parts = 1  ->  ([[[[1, 2]], [[3, 4]]]],);  merged: [[[1, 2, 3, 4]]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class SplitHeads(Function):
    @staticmethod
    def forward(ctx, x, n_head, parts):
        B, T, C = x.shape
        # TODO: reshape the channels to (P, H, D), then bring the axes to (P, B, H, T, D); return tuple(...)
        raise NotImplementedError("split")

    @staticmethod
    def backward(ctx, *douts):  # P arrays (B, H, T, D)
        # TODO: np.stack them, and go back to (B, T, P H D)
        raise NotImplementedError("dx of split")
        return (dx,)


class MergeHeads(Function):
    @staticmethod
    def forward(ctx, x):
        B, H, T, D = x.shape
        # TODO
        raise NotImplementedError("merge")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx of merge")
        return (dx,)
'''

BLANKS = '''
ctx.shape = x.shape
return tuple(x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4))

dx = np.stack(douts).transpose(1, 3, 0, 2, 4).reshape(ctx.shape)

ctx.shape = x.shape
return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)

B, H, T, D = ctx.shape
dx = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)
'''


@st.composite
def split_cases(draw):
    b, t, parts, heads, size = (draw(st.integers(1, 3)) for _ in range(5))
    return Case(draw(values((b, t, parts * heads * size))), n_head=heads, parts=parts)


merge_cases = st.tuples(*[st.integers(1, 3)] * 4).flatmap(values).map(Case)

EXERCISE = Exercise(
    STUB, BLANKS,
    title="multi-head split and merge",
    group="Attention", effort="20 min, medium",
    hints=(
        "A reshape cuts or joins neighboring axes; only a transpose may change their order. Merge is split, "
        "backwards.",
        "(B, T, P H D) -reshape-> (B, T, P, H, D) -transpose(2, 0, 3, 1, 4)-> (P, B, H, T, D). Back: "
        "transpose(1, 3, 0, 2, 4).",
        "dx = np.stack(douts).transpose(1, 3, 0, 2, 4).reshape(ctx.shape);  "
        "merge: x.transpose(0, 2, 1, 3).reshape(B, T, H * D)",
    ),
    checks=[
        OpCheck("SplitHeads", split_cases(), Case(some(2, 3, 24), n_head=4, parts=3), examples=15),
        OpCheck("MergeHeads", merge_cases, Case(some(2, 3, 4, 5)), examples=15),
    ],
    place=(Kernel("split_heads", "SplitHeads"), Kernel("merge_heads", "MergeHeads")),
    answer=("minigrad.functional.attention.SplitHeads", "minigrad.functional.attention.MergeHeads"),
)
