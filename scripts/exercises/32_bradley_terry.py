"""The exercise "bradley_terry": the reward model's loss."""

from typing import Any

import hypothesis.strategies as st
import numpy as np

from scripts.exercises.adapters import as_function
from scripts.exercises.catalogue import Exercise
from scripts.exercises.checks import Case, OpCheck, Slip, some, values

STUB = '''"""bradley_terry: the loss of a reward model, given which of two replies was preferred.

    loss = -ln sigmoid(chosen - rejected),   per pair

Under Bradley and Terry's model, the better reply wins with probability sigmoid(difference of scores); the loss is the
surprise. It must be finite for any scores: use np.logaddexp(0, -d) or log1p, not the log of a sigmoid that rounds to 0.

Shapes: chosen, rejected, loss, dout and both gradients (B).
Example: chosen = [2], rejected = [0], dout = [1]  ->  loss = [0.1269], dchosen = [-0.1192], drejected = [0.1192]
"""

import numpy as np

from minigrad.autograd import Function


class RewardLoss(Function):
    @staticmethod
    def forward(ctx, chosen, rejected):
        # TODO: the loss of each pair
        raise NotImplementedError("the loss")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("its gradients")
        return dchosen, drejected
'''

BLANKS = '''
ctx.d = chosen - rejected
return np.logaddexp(0, -ctx.d)

sigmoid = 0.5 * (1 + np.tanh(-ctx.d / 2))  # sigmoid(-d) = 1 - sigmoid(d)
dchosen = -dout * sigmoid
drejected = dout * sigmoid
'''


@st.composite
def cases(draw: Any) -> Case:
    n, scale = draw(st.integers(1, 4)), draw(st.sampled_from([1.0, 1.0, 400.0]))
    return Case(draw(values(n)) * scale, draw(values(n)) * scale)


def by_logaddexp(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """-ln(e^c / (e^c + e^r)): the same with both scores as logits of a softmax."""
    return np.logaddexp(chosen, rejected) - chosen


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


EXERCISE = Exercise(
    title="the reward model's loss",
    group="Fine-tuning", effort="15 min, medium",
    stub=STUB,
    blanks=BLANKS,
    hints=(
        "d(-ln sigmoid(x)) = -(1 - sigmoid(x)) dx = -sigmoid(-x) dx: the less likely the right order, the larger.",
        "One difference per pair, d = chosen - rejected. rejected enters with a minus sign.",
        "dchosen = -dout * sigmoid(rejected - chosen); drejected = -dchosen",
    ),
    checks=(
        OpCheck(
            "RewardLoss",
            cases(),
            Case(some(5), some(5, seed=1)),
            slips=(
                Slip(
                    lambda chosen, rejected: by_logaddexp(rejected, chosen),
                    "the pair is the wrong way round: chosen - rejected must become large",
                ),
                Slip(
                    lambda chosen, rejected: -np.log(sigmoid(chosen - rejected)),
                    "overflow: the sigmoid rounds to 0 and its log to -inf; use np.logaddexp(0, rejected - chosen)",
                ),
                Slip(lambda chosen, rejected: sigmoid(rejected - chosen), "the logarithm is missing: -ln sigmoid"),
                Slip(
                    lambda chosen, rejected: by_logaddexp(chosen, rejected).mean(),
                    "one loss per pair is asked for, not their mean",
                ),
            ),
            backward_slips=(
                Slip(
                    lambda dout, c, r: (
                        -dout * sigmoid(r - c) * sigmoid(c - r),
                        dout * sigmoid(r - c) * sigmoid(c - r),
                    ),
                    "this is the sigmoid's derivative: the logarithm's, 1 / sigmoid, is missing",
                ),
            ),
        ),
    ),
    adapt=lambda library: {"RewardLoss": as_function(library["reward_loss"], "RewardLoss")},
    answer=("finetune.objectives.reward.reward_loss",),
)
