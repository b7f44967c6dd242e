"""dpo: direct preference optimization, from the log-probabilities of a better and a worse reply.

    h    = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    loss = -ln sigmoid(beta h),   per pair

h says how much more than the reference the policy prefers the better reply; beta h is Bradley and Terry's difference.
The loss must be finite for any h, as in bradley_terry. The reference does not learn: its two gradients are None.

Shapes: four arrays of log-probabilities (B), beta a number; loss, dout and the gradients (B).
Example: policy_chosen = [-4], policy_rejected = [-9], both references = [-5], beta = 0.1, dout = [1]
         -> h = [5], loss = [0.4741], dpolicy_chosen = [-0.0378], dpolicy_rejected = [0.0378]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class DPOLoss(Function):
    @staticmethod
    def forward(ctx, policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
        # TODO
        raise NotImplementedError("the loss")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("its gradients")
        return dpolicy_chosen, dpolicy_rejected, None, None
'''

BLANKS = '''
h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
ctx.h, ctx.beta = h, beta
return np.logaddexp(0, -beta * h)

sigmoid = 0.5 * (1 + np.tanh(-ctx.beta * ctx.h / 2))  # sigmoid(-beta h) = 1 - sigmoid(beta h)
dpolicy_chosen = -dout * ctx.beta * sigmoid
dpolicy_rejected = dout * ctx.beta * sigmoid
'''

SLIPS = [
    ("0, -beta * h", "0, -h", "beta is missing: sigmoid(beta h)"),
    ("0, -beta * h", "0, beta * h", "chosen and rejected are exchanged: h must grow with policy_chosen"),
    ("np.logaddexp(0, -beta * h)", "beta * np.logaddexp(0, -h)",
     "beta stands outside: it belongs inside the sigmoid, sigmoid(beta h)"),
]  # fmt: skip


@st.composite
def cases(draw):
    n = draw(st.integers(1, 3))
    scale = draw(st.sampled_from([1.0, 1.0, 1000.0]))
    arrays = [draw(values(n, -9, 0)) * scale for _ in range(4)]
    return Case(*arrays, beta=draw(st.sampled_from([0.1, 0.5, 2.0])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="preferences without a reward model",
    group="Fine-tuning", effort="25 min, hard",
    hints=(
        "It is bradley_terry with beta h for the difference of scores; one factor more in the chain rule.",
        "Everything is (B). policy_chosen enters h with +1, policy_rejected with -1.",
        "dpolicy_chosen = -dout * beta * sigmoid(-beta h); dpolicy_rejected = -dpolicy_chosen",
    ),
    checks=[OpCheck("DPOLoss", cases(), Case(*[some(5, seed=seed, low=-5, high=-1) for seed in range(4)], beta=0.3))],
    answer=("finetune.objectives.dpo.dpo_loss",),
)
