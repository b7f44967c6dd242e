"""embedding: every token id looks up its row of a table.

    out = weight[ids]

Backward: each row of weight gets the gradients of all places where its id occurs, added up. A row that is not looked
up gets 0. Beware: NumPy's  dweight[ids] += dout  keeps only one of the places where an id repeats.

Shapes: ids (...) integers, weight (V, C), out and dout (..., C), dweight (V, C). ids get no gradient: None.
Example: ids = [2, 0, 2], dout = [[1], [10], [100]], V = 3  ->  dweight = [[10], [0], [101]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, ids, shapes, some, values

STUB = beginning(__doc__, OP) + '''
class Embedding(Function):
    @staticmethod
    def forward(ctx, ids, weight):
        ctx.ids, ctx.shape = ids, weight.shape
        return weight[ids]

    @staticmethod
    def backward(ctx, dout):
        # TODO: dweight, zeros of shape ctx.shape and dout's dtype, with every row of dout added at its id
        raise NotImplementedError("dweight of embedding")
        return None, dweight
'''

BLANKS = '''
dweight = np.zeros(ctx.shape, dout.dtype)
np.add.at(dweight, ctx.ids, dout)
'''

SLIPS = [
    ("np.add.at(dweight, ctx.ids, dout)", "dweight[ctx.ids] += dout",
     "accumulation overwritten: where an id repeats, only one place counts; use np.add.at"),
    ("dout)", "dout)\ndweight /= np.maximum(np.bincount(ctx.ids.ravel(), minlength=len(dweight)), 1)[:, None]",
     "this is the mean over the places of an id: they must be added up"),
]  # fmt: skip


@st.composite
def cases(draw):
    vocabulary, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return Case(draw(ids(draw(shapes(1, 2)), vocabulary)), draw(values((vocabulary, channels))))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a look-up, and ids that occur twice",
    group="Embedding", effort="10 min, medium",
    hints=(
        "A look-up is a product with one-hot rows. Its transpose scatters: rows of dout are added where they "
        "came from.",
        "ids.reshape(-1) has N ids, and dout.reshape(N, C) their N rows: add row n at dweight[ids[n]].",
        "dweight = np.zeros(ctx.shape, dout.dtype); np.add.at(dweight, ctx.ids, dout)",
    ),
    checks=[OpCheck("Embedding", cases(), Case(np.array([[2, 0, 2], [4, 2, 0]]), some(5, 4)), in_float32=True)],
    place=Kernel("embedding", "Embedding", lambda ids, weight, padding_idx=None: (ids, weight)),
    answer=("minigrad.functional.indexing.Embedding",),
)
