"""attention: each query takes a weighted average of the values.

    scores = q k^T / sqrt(D) + mask         (..., T, S); mask is 0, or -inf where a query may not look
    probs  = softmax(scores)                along the last axis; subtract the largest score of each row first
    out    = probs v

Backward, you know every piece: two matrix products, softmax in between, and a constant factor. Reverse the three lines
one after the other, beginning with the last.

Shapes: q (..., T, D), k (..., S, D), v (..., S, D), mask (T, S) without gradient, out (..., T, D); each of dq, dk and
dv is like its input.
Example: q = [[2, 0]], k = [[1, 0], [0, 1]], v = [[10, 0], [0, 20]], mask = [[0, 0]]
         -> scores = [[1.4142, 0]], probs = [[0.8044, 0.1956]], out = [[8.0442, 3.9116]]
"""

import math

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import FAR, OP, Case, Exercise, Kernel, OpCheck, beginning, some, values

STUB = (
    beginning(__doc__, "import math", OP)
    + """
class Attention(Function):
    @staticmethod
    def forward(ctx, q, k, v, mask):
        # TODO: out; keep q, k, v, probs and the scale
        raise NotImplementedError("out of attention")

    @staticmethod
    def backward(ctx, dout):
        # TODO: out = probs @ v            ->  dv, dprobs
        # TODO: probs = softmax(scores)    ->  dscores
        # TODO: scores = q @ k.T * scale   ->  dq, dk
        raise NotImplementedError("gradients of attention")
        return dq, dk, dv, None
"""
)

# The first block replaces forward's TODO, the second backward's.
BLANKS = """
scale = 1 / math.sqrt(q.shape[-1])  # the scale 1 / sqrt(D)
scores = q @ k.swapaxes(-1, -2) * scale + mask  # divided by sqrt(D), and the mask is added
shifted = scores - scores.max(axis=-1, keepdims=True)  # so that exp cannot overflow
e = np.exp(shifted)
probs = e / e.sum(axis=-1, keepdims=True)  # softmax over the keys of each query
ctx.q, ctx.k, ctx.v, ctx.probs, ctx.scale = q, k, v, probs, scale
return probs @ v

dv = ctx.probs.swapaxes(-1, -2) @ dout
dprobs = dout @ ctx.v.swapaxes(-1, -2)
dot = (dprobs * ctx.probs).sum(axis=-1, keepdims=True)  # softmax's dot product, one number per row
dscores = ctx.probs * (dprobs - dot)  # softmax backward
dq = dscores @ ctx.k * ctx.scale  # the scale 1 / sqrt(D) again
dk = dscores.swapaxes(-1, -2) @ ctx.q * ctx.scale  # the scale 1 / sqrt(D) again
"""

# What a slip replaces in BLANKS, what it puts there, and what the learner is told.
SLIPS = [
    ("probs = e /", "e = np.exp(q @ k.swapaxes(-1, -2) * scale)\nprobs = (mask == 0) * e /",
     "the mask comes after softmax: hidden keys must get -inf before it, or the weights do not sum to 1"),
    ("shifted =", "scores = np.where(mask == 0, q @ k.swapaxes(-1, -2) * scale, 0)\nshifted =",
     "hidden scores are 0 where they must be -inf: e^0 = 1 is a weight as large as others"),
    ("axis=-1", "axis=-2", "softmax runs along the queries: each query's weights, along the last axis, must sum to 1"),
    ("(dprobs - dot)", "(1 - ctx.probs) * dprobs",
     "only the diagonal of softmax's Jacobian: the dot product of the row is missing"),
]  # fmt: skip


@st.composite
def cases(draw):
    heads = tuple(draw(st.lists(st.integers(1, 2), max_size=1)))  # () or (H,)
    t, s, d = (draw(st.integers(1, 3)) for _ in range(3))
    mask = np.zeros((t, s))
    if draw(st.booleans()):
        mask = np.where(np.tri(t, s) > 0, 0.0, -np.inf)  # any mask will do here in which each query sees a key
    q, k, v = (draw(values((*heads, n, d), -2, 2)) for n in (t, s, s))
    size = draw(st.sampled_from([1.0, 1.0, 1000.0]))  # exp overflows with 1000, unless the maximum is subtracted
    return Case(q * size, k, v, mask)


def with_the_mask(q, k, v, mask, is_causal, **rest):
    """The learner's op gets the causal mask as an array: 0 where a query may look, -inf where it may not."""
    t, s = q.shape[-2], k.shape[-2]
    visible = np.ones((t, s), bool)
    if is_causal:
        visible = np.tri(t, s, s - t) > 0  # the last query sees all keys
    return q, k, v, np.where(visible, 0, -np.inf).astype(q.dtype)


def fits(q, k, v, mask, is_causal, scale, dropout_p, stream):
    """Whether the learner's op can compute this call of the library."""
    is_plain = mask is None and not dropout_p and q.shape[:-2] == k.shape[:-2]
    return is_plain and math.isclose(scale, 1 / math.sqrt(q.shape[-1]))


CAUSAL = np.where(np.tri(3, 4) > 0, 0.0, -np.inf)  # any mask will do here as well
TELLING = Case(some(2, 3, 5), some(2, 4, 5, seed=1), some(2, 4, 5, seed=2), CAUSAL)
# With FAR, the scores of one query are so large that e^x is inf, and those of another so low that e^x is 0.
LARGE = Case(some(2, 3, 5) + FAR, some(2, 4, 5, low=1), some(2, 4, 5, seed=2), CAUSAL)

EXERCISE = Exercise(
    STUB,
    BLANKS,
    SLIPS,
    title="scaled dot-product attention, both ways",
    group="Attention",
    effort="40 min, hard",
    hints=(
        "Three steps forward, three steps back: matmul, softmax, matmul. You have solved each of them.",
        "dv = probs^T dout (S, D); dprobs = dout v^T (T, S); dscores (T, S) by softmax's rule; dq (T, D), dk (S, D).",
        "dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)); dq = dscores @ k * scale; "
        "dk = dscores.swapaxes(-1, -2) @ q * scale",
    ),
    checks=[OpCheck("Attention", cases(), TELLING, examples=12), OpCheck("Attention", cases(), LARGE, examples=1)],
    place=Kernel("scaled_dot_product_attention", "Attention", with_the_mask, fits=fits),
    answer=("minigrad.functional.attention.ScaledDotProductAttention", "minigrad.functional.attention.hide"),
)
