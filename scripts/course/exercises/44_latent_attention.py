"""latent_attention: one new token reads a cache of latents, without ever making keys and values.

The cache holds c_s, the latent of each of S tokens, and one rotated key r_s that all heads share. In head h, the key of
token s would be [W_UK_h c_s, r_s] and its value W_UV_h c_s. The query is [q_h, q_rope_h], already rotated.

    score_hs = (q_h . (W_UK_h c_s) + q_rope_h . r_s) / sqrt(D + R)      out_h = sum over s of probs_hs (W_UV_h c_s)

probs is the softmax of a head's scores over s. Making S keys for every new token is wasteful, so move the brackets:
q . (W c) = (W^T q) . c, and a weighted sum of W c_s is W times the weighted sum. No array may have H S D numbers.

Shapes: q (H, D), q_rope (H, R), c (S, L), k_rope (S, R), W_UK and W_UV (H, D, L) -> (H, D)
Example: q = [[1]], q_rope = [[0]], c = [[0], [ln 3]], k_rope = [[0], [0]], W_UK = [[[sqrt 2]]], W_UV = [[[2]]]
         W_UK^T q = [sqrt 2]; scores 0 and ln 3; probs 1/4 and 3/4; read 3/4 ln 3 of c; result [[3/2 ln 3]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, some, values

STUB = beginning(__doc__, "import math", NUMPY) + '''
def read(q, q_rope, c, k_rope, W_UK, W_UV):
    # TODO
    raise NotImplementedError("the absorbed read")
'''

BLANKS = '''
absorbed = (q[:, None] @ W_UK)[:, 0]  # (H, L): W_UK^T q of each head
scores = (absorbed @ c.T + q_rope @ k_rope.T) / math.sqrt(q.shape[1] + q_rope.shape[1])  # (H, S)
e = np.exp(scores - scores.max(axis=1, keepdims=True))
probs = e / e.sum(axis=1, keepdims=True)
latent = probs @ c  # (H, L): what each head reads
return (W_UV @ latent[:, :, None])[:, :, 0]
'''

SLIPS = [
    ("q.shape[1] + q_rope.shape[1]", "q.shape[1]", "the rotated part belongs to the query: divide by sqrt(D + R)"),
    ("absorbed @ c.T + q_rope @ k_rope.T", "absorbed @ c.T", "the rotated part is missing: q_rope . k_rope"),
    ("W_UV @ latent", "W_UK @ latent", "keys come out: values are made by W_UV"),
    ("axis=1, keepdims=True)\nlatent", "axis=0, keepdims=True)\nlatent", "each head's probs sum to 1 over the tokens"),
    ("absorbed @ c.T", "(c @ W_UK.swapaxes(1, 2) @ q[:, :, None])[:, :, 0]",
     "the keys or values of all heads are made, H S D numbers: multiply q by W_UK first, and by W_UV at the end"),
]  # fmt: skip


@st.composite
def cases(draw):
    H, D, R, S, L = (draw(st.integers(1, most)) for most in (2, 3, 2, 3, 3))
    return Case(*(draw(values(shape)) for shape in ((H, D), (H, R), (S, L), (S, R), (H, D, L), (H, D, L))))


def absorbed(read, *arrays):
    """The result, and whether an array was made that has as many numbers as all keys, where nothing needs so many."""
    largest = 0

    class Watched(np.ndarray):
        def __array_finalize__(self, source):
            nonlocal largest
            largest = max(largest, self.size)

    result = np.asarray(read(*(array.view(Watched) for array in arrays)))
    (H, D, L), (S, R) = arrays[4].shape, arrays[3].shape
    keys, needed = H * S * D, max((H + S) * (L + R), H * D * L)
    made = "the keys or values of all heads are made, H S D numbers: multiply q by W_UK first, and by W_UV at the end"
    return [made if largest >= keys > needed else "nothing is made", result]


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="reading a cache that holds neither keys nor values",
    group="Attention", effort="30 min, medium",
    hints=(
        "Two products of a query with a cache: W_UK^T q with c, and q_rope with k_rope. Their sum is a row of scores.",
        "(H, 1, D) @ (H, D, L) is (H, 1, L); then (H, L) @ (L, S). The probs (H, S) read c: (H, L).",
        "(q[:, None] @ W_UK)[:, 0] @ c.T + q_rope @ k_rope.T; at the end (W_UV @ (probs @ c)[:, :, None])[:, :, 0]",
    ),
    checks=[FunctionCheck("read", cases(), Case(some(2, 4), some(2, 2, seed=1), some(9, 3, seed=2), some(9, 2, seed=3),
                                                some(2, 4, 3, seed=4), some(2, 4, 3, seed=5)), call=absorbed)],
    answer=("gpt.model.latent_attention.LatentAttention.absorbed",),
)  # fmt: skip
