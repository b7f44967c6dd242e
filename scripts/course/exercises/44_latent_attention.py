"""latent_attention: one new token reads a cache of latents, without ever making keys and values.

The cache holds c_s, the latent of each of S tokens, and one rotated key r_s that all heads share. In head h, the key of
token s would be [W_UK_h c_s, r_s] and its value W_UV_h c_s. The query is [q_h, q_rope_h], already rotated.

    score_hs = (q_h · (W_UK_h c_s) + q_rope_h · r_s) / sqrt(D + R)
    out_h    = sum_s probs_hs (W_UV_h c_s)

probs is the softmax of a head's scores over s. Making S keys for every new token is wasteful, so move the brackets:
q · (W c) = (W^T q) · c, and a weighted sum of W c_s is W times the weighted sum. No array may have H S D numbers.

Shapes: q (H, D), q_rope (H, R), c (S, L), k_rope (S, R), W_UK and W_UV (H, D, L) -> (H, D)
Example: q = [[1]], q_rope = [[0]], c = [[0], [ln 3]], k_rope = [[0], [0]], W_UK = [[[sqrt 2]]], W_UV = [[[2]]]
         W_UK^T q = [sqrt 2]; scores 0 and ln 3; probs 1/4 and 3/4; read 3/4 ln 3 of c; result [[3/2 ln 3]]
"""

import tracemalloc

import hypothesis.strategies as st

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


def in_memory(read, q, q_rope, c, k_rope, W_UK, W_UV):
    """The result, and whether so much memory was taken as all keys need, where there are many."""
    (H, D), S = q.shape, len(c)
    tracemalloc.start()
    try:
        result = read(q, q_rope, c, k_rope, W_UK, W_UV)
        largest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    made = "the keys or values of all heads are made, H S D numbers: multiply q by W_UK first, and by W_UV at the end"
    return [made if S >= 300 and largest >= 8 * H * S * D else "nothing is made", result]


def long_cache():
    """Twelve heads of 16, and 300 tokens: all keys are 20 times as many numbers as all latents and scores."""
    shapes = (12, 16), (12, 2), (300, 4), (300, 2), (12, 16, 4), (12, 16, 4)
    return Case(*(some(*shape, seed=seed) for seed, shape in enumerate(shapes)))


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
                                                some(2, 4, 3, seed=4), some(2, 4, 3, seed=5)), call=in_memory),
            FunctionCheck("read", st.builds(long_cache), long_cache(), call=in_memory, examples=1)],
    answer=("gpt.model.latent_attention.LatentAttention.absorbed",),
)  # fmt: skip
