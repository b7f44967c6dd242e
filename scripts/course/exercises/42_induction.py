"""induction: [A] [B] ... [A] -> [B]. The head looks at what followed the current token before.

    follows[t, s] = True where the token before s is the same as the token at t, and s is not later than t

The induction score of a head is its attention to these places. Before s = 0 there is no token: False.

Shapes: ids, an array (T) -> (T, T) booleans
Example: follows_earlier([5, 7, 5]): row 2 is [False, True, False], because 5 was followed by the token at place 1
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, ids

STUB = beginning(__doc__, NUMPY) + '''
def follows_earlier(ids):
    length = len(ids)
    # TODO
    raise NotImplementedError("the places")
    return follows
'''

BLANKS = '''
follows = np.zeros((length, length), bool)
follows[:, 1:] = ids[:, None] == ids[None, :-1]  # the place that follows an equal token, so one further than it
follows &= np.tri(length, dtype=bool)  # no place in the future, and place t itself is allowed
'''

SLIPS = [
    ("follows[:, 1:] = ids[:, None] == ids[None, :-1]", "follows[:, :] = ids[:, None] == ids[None, :]",
     "these are the places of the same token; the head looks at the place that follows it"),
    ("follows &= np.tri(length, dtype=bool)", "follows &= True",
     "the places after t are in the future: a token cannot look there"),
    ("1:] = ids[:, None] == ids[None, :-1]", ":-1] = ids[:, None] == ids[None, 1:]",
     "the token after s is compared: it must be the one before s"),
    ("np.tri(length, dtype=bool)", "np.tri(length, k=-1, dtype=bool)",
     "place t itself counts, if the token before it is the same one: s <= t"),
    ("follows[:, 1:] = ids[:, None] == ids[None, :-1]", "follows = ids[:, None] == np.roll(ids, 1)",
     "place 0 is compared with the last token: before it is none, so its column is False"),
]  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="where a head looks that copies a repeated text",
    group="Looking inside", effort="10 min, medium",
    hints=(
        "Compare each token with each token before s. Then take away what is in the future.",
        "ids[:, None] == ids[None, :-1] is (T, T - 1): column s - 1 of it belongs to place s.",
        "follows[:, 1:] = ids[:, None] == ids[None, :-1]; follows &= np.tri(length, dtype=bool)",
    ),
    checks=[FunctionCheck("follows_earlier", st.integers(1, 7).flatmap(lambda n: ids(n, 3)).map(Case),
                          Case(np.array([1, 2, 1, 1, 2])))],
    answer=("gpt.interpretability.induction.follows_earlier",),
)  # fmt: skip
