"""causal_mask: a token may attend to itself and to earlier tokens, never to later ones.

While training, all T tokens are present at once, and T = S. While writing with a KV cache there are S tokens in all,
and only the last T of them are queries (often T = 1): query t is token S - T + t.

    mask[t, s] = True where query t may see token s

Shapes: two numbers, queries T <= keys S -> (T, S) booleans
Example: causal_mask(3, 3) = [[1, 0, 0], [1, 1, 0], [1, 1, 1]];  causal_mask(1, 3) = [[1, 1, 1]];
         causal_mask(2, 3) = [[1, 1, 0], [1, 1, 1]]          (1 for True)
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, Patch, beginning

STUB = beginning(__doc__, NUMPY) + '''
def causal_mask(queries, keys):
    # TODO
    raise NotImplementedError("the mask")
'''

BLANKS = '''
asking = np.arange(keys - queries, keys)[:, None]  # the queries are the last tokens
return np.arange(keys) <= asking  # a token sees itself and what came before, not the future
'''

SLIPS = [
    ("np.arange(keys - queries, keys)", "(np.arange(queries) + queries - keys)",
     "the sign of the offset S - T is flipped: query t is token S - T + t"),
    ("keys - queries, keys", "queries",
     "queries are numbered from token 0, but with a cache they are the last ones of S: offset S - T"),
]  # fmt: skip


cases = st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda sizes: Case(*sorted(sizes)))


def with_any_sizes(causal_mask):
    """The learner's where the queries are the last tokens; the exercise does not ask for others."""

    def mask(xp, queries: int, keys: int, past: int = 0) -> np.ndarray:
        return causal_mask(queries, keys) if past + queries == keys else xp.tri(queries, keys, past, dtype=bool)

    return mask


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="who may look at whom",
    group="Attention", effort="5 min, easy",
    hints=(
        "Number the queries as tokens: the last T of S. Then compare two numbers, who asks and who is seen.",
        "np.arange(S - T, S)[:, None] is (T, 1), np.arange(S) is (S): comparing them gives (T, S).",
        "np.tril(np.ones((queries, keys), dtype=bool), keys - queries)",
    ),
    checks=[FunctionCheck("causal_mask", cases, Case(2, 5))],
    place=Patch("causal_mask", "minigrad.functional.attention.causal_mask", adapt=with_any_sizes),
    answer=("minigrad.functional.attention.causal_mask",),
)
