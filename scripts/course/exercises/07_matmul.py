"""matmul: the matrix product.

    out[i, j] = sum_k x[i, k] y[k, j]

Both gradients are matrix products again, of dout and the other factor. If you forget which one is transposed and where
it stands: there is only one way in which the shapes fit.

Shapes: x (..., M, K), y (..., K, N), out and dout (..., M, N), dx (..., M, K), dy (..., K, N); "..." are batches, the
same for x and y.
Example: x = [[1, 2]], y = [[3], [4]], dout = [[10]]  ->  out = [[11]], dx = [[30, 40]], dy = [[10], [20]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class Matmul(Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.x, ctx.y = x, y
        return x @ y

    @staticmethod
    def backward(ctx, dout):
        # TODO: dx and dy; the transpose of a batch of matrices is y.swapaxes(-1, -2)
        raise NotImplementedError("dx and dy of matmul")
        return dx, dy
'''

BLANKS = '''
dx = dout @ ctx.y.swapaxes(-1, -2)
dy = ctx.x.swapaxes(-1, -2) @ dout
'''


@st.composite
def cases(draw):
    lead = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    m, k, n = (draw(st.integers(1, 3)) for _ in range(3))
    return Case(draw(values((*lead, m, k))), draw(values((*lead, k, n))))


def matrices(x: np.ndarray, y: np.ndarray) -> bool:
    return x.ndim == y.ndim > 1 and x.shape[:-2] == y.shape[:-2]


EXERCISE = Exercise(
    STUB, BLANKS,
    title="two more products backward",
    group="Engine", effort="15 min, medium",
    hints=(
        "x[i, k] goes into out[i, j] for every j, with slope y[k, j]. So dx[i, k] = sum over j of dout[i, j] y[k, j].",
        "dx (M, K) from dout (M, N) and y (K, N transposed): dout @ y^T. dy (K, N) from x (M, K) and dout (M, "
        "N): x^T @ dout.",
        "dx = dout @ ctx.y.swapaxes(-1, -2);  dy = ctx.x.swapaxes(-1, -2) @ dout",
    ),
    checks=(
        OpCheck("Matmul", cases(), Case(some(2, 3, 4), some(2, 4, 5))),
        OpCheck("Matmul", cases(), Case(some(3, 3), some(3, 3, seed=1)), examples=1),
    ),
    place=Kernel("matmul", "Matmul", fits=matrices, takes=("scaled_dot_product_attention",)),
    answer=("minigrad.functional.linalg.Matmul",),
)
