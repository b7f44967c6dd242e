"""bradley_terry: the loss of a reward model, given which of two replies was preferred.

    loss = -ln sigmoid(chosen - rejected),   per pair

Under Bradley and Terry's model, the better reply wins with probability sigmoid(difference of scores); the loss is the
surprise. It must be finite for any scores: with d = chosen - rejected, use np.logaddexp(0, -d) or log1p, not the log of
a sigmoid, which rounds to 0 where d is -1000.

Shapes: chosen, rejected, loss, dout and both gradients (B).
Example: chosen = [2], rejected = [0], dout = [1]  ->  loss = [0.1269], dchosen = [-0.1192], drejected = [0.1192]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
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

SLIPS = [
    ("np.logaddexp(0, -ctx.d)", "0.5 * (1 + np.tanh(ctx.d / 2))", "this is the sigmoid: the loss is -ln of it"),
    ("0.5 * (1 + np.tanh(-ctx.d / 2))", "0.25 * (1 - np.tanh(ctx.d / 2) ** 2)",
     "this is the sigmoid's derivative: the logarithm's, 1 / sigmoid, is missing"),
]  # fmt: skip


@st.composite
def cases(draw):
    n, scale = draw(st.integers(1, 4)), draw(st.sampled_from([1.0, 1.0, 400.0]))
    return Case(draw(values(n)) * scale, draw(values(n)) * scale)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="the reward model's loss",
    group="Fine-tuning", effort="15 min, medium",
    hints=(
        "d(-ln sigmoid(x)) = -(1 - sigmoid(x)) dx = -sigmoid(-x) dx: the less likely the right order, the larger.",
        "One difference per pair, d = chosen - rejected. rejected enters with a minus sign.",
        "dchosen = -dout * sigmoid(rejected - chosen); drejected = -dchosen",
    ),
    checks=[OpCheck("RewardLoss", cases(), Case(some(5) + [0, 0, 0, 10.4, -8.6], some(5, seed=1)))],
    answer=("finetune.objectives.reward.reward_loss",),
)
