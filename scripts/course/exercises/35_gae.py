"""gae: generalized advantage estimation, for one reply of L tokens.

    delta_t = r_t + gamma V_{t+1} - V_t            V = 0 after the last token
    A_t     = delta_t + gamma * lam * A_{t+1}      A = 0 after the last token
    R_t     = A_t + V_t                            the returns

delta says by how much a move was better than expected; A adds what it led to. So walk from the end.

Shapes: rewards and values (L) -> (advantages (L), returns (L))
Example: rewards = [0, 1], values = [0.5, 0.8], gamma = 1, lam = 0.5  ->  advantages [0.4, 0.2], returns [0.9, 1.0]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, some, values

STUB = beginning(__doc__, NUMPY) + '''
def gae(rewards, values, gamma, lam):
    # TODO
    raise NotImplementedError("advantages and returns")
'''

BLANKS = '''
advantages = np.zeros(len(rewards))
following, next_value = 0.0, 0.0
for t in reversed(range(len(rewards))):
    delta = rewards[t] + gamma * next_value - values[t]  # r_t + gamma V_{t+1} - V_t
    following = delta + gamma * lam * following  # A_t = delta_t + gamma lam A_{t+1}
    advantages[t] = following
    next_value = values[t]
return advantages, advantages + values  # the returns are A_t + V_t
'''

SLIPS = [
    ("next_value = 0.0, 0.0", "next_value = 0.0, values[-1]", "after the last token V is 0: it is over"),
    ("reversed(range(len(rewards))):",
     "range(len(rewards)):\n    next_value = values[t + 1] if t + 1 < len(values) else 0.0",
     "it walks forwards: A_t needs A_{t+1}, so begin at the end"),
    ("gamma * next_value", "gamma * values[t]", "delta takes V_t twice: the next value is V_{t+1}"),
    ("advantages + values", "np.cumsum(rewards[::-1])[::-1]", "returns are A_t + V_t, not sums of the rewards"),
]  # fmt: skip


@st.composite
def cases(draw):
    n = draw(st.integers(1, 5))
    numbers = {"gamma": draw(st.sampled_from([0.9, 1.0])), "lam": draw(st.sampled_from([0.0, 0.5, 1.0]))}
    return Case(draw(values(n)), draw(values(n)), **numbers)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="what each token contributed",
    group="Fine-tuning", effort="25 min, hard",
    hints=(
        "A_t needs A_{t+1}: go backwards, and carry it along.",
        "All (L); after the last token both V and A are 0, so the last A is r - V.",
        "for t in reversed(range(L)): carried = rewards[t] + gamma * next_value - values[t] + gamma * lam * carried",
    ),
    checks=[FunctionCheck("gae", cases(), Case(some(5), some(5, seed=1), gamma=0.9, lam=0.5))],
    answer=("finetune.objectives.ppo.gae",),
)
