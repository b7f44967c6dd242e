"""delta_rule: write to a state of fixed size, and read from it, in the place of attention.

    S = α_t S                             all that was written before fades
    u = β_t (v_t - S k_t)                 the difference of the value from what stands under the key
    S = S + u k_tᵀ                        is written there
    out_t = S q_t                         and the state is read

S is 0 before the first token. With β_t = 1 and a key of length 1, the state then returns v_t for k_t: the old value is
replaced, not added to. A key that is orthogonal to k_t finds what it found before. Yang et al. 2024, arXiv 2412.06464.

Shapes: q and k (T, D), v (T, E), beta and alpha (T) -> out (T, E), the result. S is (E, D), u is (E).
Example: D = 2, E = 1, alpha = [1, 1], beta = [1, 1]; k = q = [[1, 0], [1, 0]], v = [[5], [7]]  ->  out = [[5], [7]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning

STUB = beginning(__doc__, NUMPY) + '''
def delta_rule(q, k, v, beta, alpha):
    S = np.zeros((v.shape[1], k.shape[1]))
    out = np.zeros(v.shape)
    for t in range(len(q)):
        # TODO: fade, write, read
        raise NotImplementedError("a token")
    return out
'''

BLANKS = '''
S = alpha[t] * S
u = beta[t] * (v[t] - S @ k[t])
S = S + np.outer(u, k[t])
out[t] = S @ q[t]
'''

SLIPS = [
    ("S = alpha[t] * S\nu = beta[t] * (v[t] - S @ k[t])\n", "u = beta[t] * (v[t] - S @ k[t])\nS = alpha[t] * S\n",
     "what stands under the key is read before it has faded: fade first"),
    ("S = alpha[t] * S\nu = beta[t] * (v[t] - S @ k[t])\nS = S + np.outer(u, k[t])",
     "u = beta[t] * (v[t] - S @ k[t])\nS = alpha[t] * (S + np.outer(u, k[t]))",
     "the new value fades as well: fade first, then write"),
    ("S = S + np.outer(u, k[t])\nout[t] = S @ q[t]", "out[t] = S @ q[t]\nS = S + np.outer(u, k[t])",
     "the state is read before the token has written: a token sees itself"),
    ("np.outer(u, k[t])", "np.outer(k[t], u)",
     "S is transposed: its rows belong to the value and its columns to the key, np.outer(u, k[t])"),
]  # fmt: skip


def case(T: int, D: int, E: int, seed: int):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((2, T, D)) / np.sqrt(D)
    return Case(q, k, rng.standard_normal((T, E)), *rng.uniform(0.1, 1, (2, T)))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS, title="replace what stands under a key", group="Attention", effort="15 min, medium",
    hints=(
        "Four lines in the order of the formula, and all of them use the newest S.",
        "S (E, D) @ k[t] (D) is what stands under the key, (E). np.outer(u, k[t]) is (E, D).",
        "S = alpha[t] * S; u = beta[t] * (v[t] - S @ k[t]); S = S + np.outer(u, k[t]); out[t] = S @ q[t]",
    ),
    checks=[FunctionCheck("delta_rule", st.builds(case, *[st.integers(1, 5)] * 4), case(5, 3, 2, 0))],
    answer=("gpt.model.linear_attention.token_by_token",),
)  # fmt: skip
