"""newton_schulz: nearly U V^T for a matrix U S V^T, by matrix products. Muon does this to its momentum.

    X = matrix / sqrt(sum(x^2))        x: the elements of the matrix; no singular value is larger than 1

then, `steps` times, with a, b, c = 3.4445, -4.7750, 2.0315,

    A = X X^T
    X = a X + (b A + c A A) X          = U (a S + b S^3 + c S^5) V^T  (because X X^T X = U S^3 V^T)

The singular vectors stay; five steps bring the singular values close to 1.

Shapes: matrix (n, m), not all 0 -> (n, m).
Example: newton_schulz([[3.0, 0.0], [0.0, 4.0]], 1)  ->  [[1.1933, 0.0], [0.0, 0.9765]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, shapes, some, values

STUB = beginning(__doc__, NUMPY) + '''
def newton_schulz(matrix, steps):
    a, b, c = 3.4445, -4.7750, 2.0315
    # TODO
    raise NotImplementedError("the steps of Newton-Schulz")
    return X
'''

BLANKS = '''
norm = np.sqrt((matrix * matrix).sum())
X = matrix / norm  # norm is the root of the sum of squares
for _ in range(steps):
    A = X @ X.T
    X = a * X + (b * A + c * A @ A) @ X
'''

SLIPS = [
    ("np.sqrt((matrix * matrix).sum())", "np.linalg.norm(matrix, 2)",
     "divide by the root of the sum of squares, not by the largest singular value"),
    ("X = matrix / norm", "u, _, vt = np.linalg.svd(matrix, full_matrices=False)\nsteps, X = 0, u @ vt",
     "this is U V^T itself, from an SVD, which is slow: take `steps` steps of the polynomial"),
    ("(b * A + c * A @ A) @ X", "b * X**3 + c * X**5",
     "these are powers of each element: X X^T X is a product of matrices"),
    ("for _ in range(steps):\n    A = X @ X.T", "A = X @ X.T\nfor _ in range(steps):",
     "A is computed once: X changes in each step, and A = X X^T with it"),
]  # fmt: skip

cases = st.builds(Case, shapes(2, 2).flatmap(values).filter(np.any), st.integers(1, 5))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="singular values to 1, without an SVD",
    group="Optimizer", effort="15 min, medium",
    hints=(
        "Only odd powers of X exist: X, X X^T X, X X^T X X^T X. Each acts on the singular values alone.",
        "A is (n, n), so it stands to the left of X (n, m).",
        "A = X @ X.T; X = a * X + (b * A + c * A @ A) @ X",
    ),
    checks=[FunctionCheck("newton_schulz", cases, Case(some(2, 3), 2))],
    answer=("minigrad.muon.newton_schulz",),
)
