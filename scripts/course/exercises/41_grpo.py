"""grpo: the loss of GRPO, from the checked answers to some questions.

    A    = (r - mean(r)) / (std(r) + 0.0001)                r: the rewards of a group, the answers to one question
    L_i  = mean(-min(ratio A, clip(ratio, 0.8, 1.2) A))     over the tokens of answer i
    loss = mean(L_i)                                        over all answers

All tokens of an answer share its advantage A. std is that of a sample (divided by G - 1, not by G), as in TRL.

ratio is that of ppo_clip, a number for each token. Answers differ in length, so mask is True where an answer has a
token. Where it is False there is none: what stands there in ratio is padding, and must not change the loss.

Shapes: rewards (Q, G): of G answers to each of Q questions. ratio and mask (Q G, L): a row for each answer (all answers
to the first question, then all to the second, ...), and L columns for its tokens. The result is a number.
Example: rewards = [[1, 0]], ratio = [[1, 2], [1, 9]], mask = [[True, True], [True, False]]
         A = [0.707, -0.707]; the 9 is padding; of the three tokens -min(...) is -0.707, -0.848 and 0.707;
         the means of the two answers are -0.778 and 0.707; the loss is -0.035
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning

STUB = beginning(__doc__, NUMPY) + '''
def grpo_loss(ratio, mask, rewards):
    # TODO
    raise NotImplementedError("the loss")
'''

BLANKS = '''
advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, keepdims=True, ddof=1) + 1e-4)
A = advantages.reshape(-1, 1)
losses = -np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A)
means = (losses * mask).sum(axis=1) / mask.sum(axis=1)  # of each answer over its tokens
return means.mean()  # over the answers
'''

SLIPS = [
    ("mean(axis=1, keepdims=True)) / (rewards.std(axis=1, keepdims=True, ddof=1)", "mean()) / (rewards.std(ddof=1)",
     "answers are compared with those to other questions: mean and std within each group"),
    ("keepdims=True, ddof=1)", "keepdims=True)", "std divides by G: divide by G - 1, with ddof=1"),
    ("reshape(-1, 1)", "T.reshape(-1, 1)",
     "the advantages are in another order than the answers, which stand question by question"),
    (" * mask).sum(axis=1) / mask.sum(axis=1)", ").mean(axis=1)",
     "it counts places where an answer has no token: use the mask"),
    ("means = (losses * mask).sum(axis=1) / mask.sum(axis=1)", "means = losses[mask]",
     "all tokens count the same, as in DAPO: first the mean of each answer, then the mean over answers"),
]  # fmt: skip


def case(Q: int, G: int, L: int, seed: int):
    rng = np.random.default_rng(seed)
    mask = np.arange(L) < rng.integers(1, L + 1, (Q * G, 1))
    return Case(np.exp(rng.uniform(-0.6, 0.6, mask.shape)), mask, rng.integers(0, 3, (Q, G)).astype(float))


cases = st.builds(case, st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(0, 10_000))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="answers to one question, compared with each other",
    group="Fine-tuning", effort="20 min, medium",
    hints=(
        "Compare along axis 1 of rewards, and keep that axis. Then each answer needs its advantage beside its tokens.",
        "advantages (Q, G) -> (Q G, 1), which broadcasts with ratio (Q G, L); sum losses * mask over axis 1.",
        "((losses * mask).sum(axis=1) / mask.sum(axis=1)).mean()",
    ),
    checks=[FunctionCheck("grpo_loss", cases, case(3, 4, 5, seed=0))],
    answer=tuple(f"finetune.objectives.grpo.{name}" for name in ("group_advantages", "answer_weights", "grpo_loss")),
)  # fmt: skip
