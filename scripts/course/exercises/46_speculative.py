"""speculative: what comes after a guess of a small model, so that the text stays the large model's.

The small model drew the token `guess` from its probabilities q. The large one has read it and has p for the same place.
number is random, uniform in [0, 1): an event of probability x happens if number < x.

    1. the guess is accepted with probability min(1, p[guess] / q[guess]): then the next token is the guess for certain
    2. if not, the next token is drawn from max(0, p - q), scaled to sum to 1: from what q proposes too rarely

Return the probabilities of the next token. (p and q here are a guess's; on average over all guesses and numbers, the
result is p, whatever q is. That is the point of the rule.)

Shapes: p, q (V), q[guess] > 0; guess an integer from 0 to V - 1; number in [0, 1) -> probabilities (V)
Example: p = [0.6, 0.4, 0], q = [0.2, 0.5, 0.3]
         guess = 1, number = 0.7 -> [0, 1, 0], accepted: 0.7 < 0.4 / 0.5;  number = 0.9 -> [1, 0, 0]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning

STUB = beginning(__doc__, NUMPY) + '''
def after_guess(p, q, guess, number):
    # TODO
    raise NotImplementedError("the probabilities of the next token")
'''

BLANKS = '''
if number < p[guess] / q[guess]:  # no need for min(1, ...): number is less than 1
    return np.eye(len(p))[guess]
missing = np.maximum(p - q, 0)  # what q proposes too rarely
return missing / missing.sum()
'''

SLIPS = [
    ("number < p[guess] / q[guess]", "True", "the guess is always accepted, so the text is the small model's"),
    ("p[guess] / q[guess]", "p[guess]",
     "the guess is accepted with probability p: it was drawn from q already, so divide by q"),
    ("np.maximum(p - q, 0)", "p", "after a refusal it is drawn from p: what q proposes often then comes too often"),
    ("np.maximum(p - q, 0)", "np.where(np.arange(len(p)) == guess, 0, p)",
     "after a refusal only the guess is left out: take max(0, p - q) for every token"),
]  # fmt: skip


def case(V: int, seed: int, guess: int, tenths: int):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(V), 2)
    return Case(p, q, guess % V, tenths / 10 + 0.05)


CASES = st.builds(case, st.integers(2, 5), st.integers(0, 10_000), st.integers(0, 4), st.integers(0, 9))
EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="guesses of a small model, the text of a large one",
    group="Writing", effort="15 min, medium",
    hints=(
        "Two cases, and the result is a distribution in both: all of it on one token, or p - q where it is positive.",
        "np.eye(len(p))[guess] is (V), 1 at the guess. For the other: cut off at 0, then divide by the sum.",
        "missing = np.maximum(p - q, 0); return missing / missing.sum()",
    ),
    checks=[FunctionCheck("after_guess", CASES, case(5, 5, 1, tenths)) for tenths in (9, 0)],  # refused, accepted
    answer=("gpt.model.speculation.after_guess",),
)  # fmt: skip
