"""online_softmax: attention in tiles, as in FlashAttention: read a few keys at a time, keep running values.

    for every tile of keys:  s = q k_tile^T / sqrt(D)                           (T, tile)
        m_new = max(m, largest s of each row)
        shrink = e^(m - m_new)                       the sums so far are relative to the old maximum
        l   = l * shrink + the row sums of e^(s - m_new)
        out = out * shrink + e^(s - m_new) v_tile
    at the end: out / l

Each query has its own m and l, and a row of out. Begin with m = -inf, l = 0, out = 0. For each query, read each key
only once. Never make the whole (T, S) matrix: no array may be larger than T x tile, or than the inputs.

Shapes: q (T, D), k and v (S, D), tile a number (the last tile may be shorter) -> (T, D)
Example: q = [[1]], k = [[0], [ln 3]], v = [[0], [1]], tile = 1  ->  m = 0, l = 1, out = 0; then m = ln 3, shrink = 1/3,
         l = 1/3 + 1, out = 0 + 1; result [[0.75]]
"""


import tracemalloc

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import FAR, NUMPY, Case, Exercise, FunctionCheck, beginning, some, values

STUB = beginning(__doc__, "import math", NUMPY) + '''
def attention(q, k, v, tile):
    # TODO
    raise NotImplementedError("attention in tiles")
'''

BLANKS = '''
m, l = np.full((len(q), 1), -np.inf), np.zeros((len(q), 1))
out = np.zeros((len(q), v.shape[1]))
for start in range(0, len(k), tile):
    s = q @ k[start : start + tile].T / math.sqrt(q.shape[1])  # the scale 1 / sqrt(D)
    m_new = np.maximum(m, s.max(axis=1, keepdims=True))
    shrink = np.exp(m - m_new)
    e = np.exp(s - m_new)
    l = l * shrink + e.sum(axis=1, keepdims=True)  # the sum so far has to shrink when the maximum rises
    out = out * shrink + e @ v[start : start + tile]  # and so does the output
    m = m_new
return out / l
'''

SLIPS = [
    ("np.exp(m - m_new)", "1", "nothing is shrunk when the maximum rises: e^(m - m_new)"),
    ("np.exp(m - m_new)", "np.exp(m_new - m) if start else 0",
     "shrink is the wrong way around: e^(m - m_new), which is at most 1"),
    ("np.full((len(q), 1), -np.inf)", "np.zeros((len(q), 1))", "the maximum begins at 0: it must begin at -inf"),
    ("np.maximum(m, s.max(axis=1, keepdims=True))", "np.zeros_like(m)", "overflow: the running maximum is not used"),
    ("range(0, len(k), tile)", "range(0, len(k) // tile * tile, tile)", "the last, shorter tile is missing"),
    ("    m = m_new\nreturn out / l", "    out, m = out / l, m_new\nreturn out",
     "it is divided by l in every tile: divide once, at the end"),
]  # fmt: skip


@st.composite
def cases(draw):
    t, s, d = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
    large = draw(st.sampled_from([1.0, 1.0, 1000.0]))
    return Case(draw(values((t, d))) * large, draw(values((s, d))), draw(values((s, d))), draw(st.integers(1, 3)))


def in_tiles(attention, q, k, v, tile):
    """The result, and whether the keys were read more often than there are queries, or so much memory was taken as all
    scores need, where there are many.
    """
    reads, before = np.zeros(len(k), int), None

    class Watched(np.ndarray):
        def __getitem__(self, index):
            nonlocal before
            rows = index[0] if isinstance(index, tuple) else index
            if self is keys and repr(rows) != before:  # the same tile again, in the next line, is the same reading
                reads[rows], before = reads[rows] + 1, repr(rows)
            return super().__getitem__(index)

    keys = k.view(Watched)
    tracemalloc.start()
    try:
        result = np.asarray(attention(q, keys, v, tile))
        largest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if reads.max() > len(q):
        return ["the keys are read twice: with running values, one pass is enough", result]
    whole = "the whole (T, S) matrix of scores is made: read `tile` keys at a time"
    return [whole if len(q) >= 200 and largest >= 8 * len(q) * len(k) else "in tiles", result]


def long_text():
    """All scores of 200 queries are more numbers than everything else that a solution makes."""
    return Case(*(some(200, 2, seed=seed) for seed in range(3)), 8)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="attention without ever holding all scores",
    group="Attention", effort="40 min, hard",
    hints=(
        "A sum of e^(s - m) becomes one of e^(s - m_new) by one factor, e^(m - m_new). That is the whole trick.",
        "m and l are (T, 1), out is (T, D); k[start : start + tile] is a tile, also at the end.",
        "l = l * shrink + p.sum(axis=1, keepdims=True); out = out * shrink + p @ v[start : start + tile]",
    ),
    checks=[FunctionCheck("attention", cases(), Case(some(9, 3), some(7, 3, seed=1), some(7, 3, seed=2), 2),
                          call=in_tiles),
            FunctionCheck("attention", cases(), Case(some(3, 3) + 8 * FAR, some(7, 3, low=1), some(7, 3, seed=2), 2),
                          call=in_tiles, examples=1),
            FunctionCheck("attention", st.builds(long_text), long_text(), call=in_tiles, examples=1)],
    answer=("minigrad.kernels.cpu.attention._forward_rows",),
)
