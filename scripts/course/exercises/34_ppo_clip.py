"""ppo_clip: the clipped surrogate of PPO.

    ratio = exp(logprobs - old_logprobs)
    loss  = -min(ratio A, clip(ratio, 1 - eps, 1 + eps) A),   per token; A: advantages

Where the clipped product is the smaller one, the objective cannot improve and there is no gradient. Elsewhere the
loss is -ratio A, and the derivative of ratio by logprobs is ratio itself. Only logprobs get a gradient.

Shapes: logprobs, old_logprobs, advantages, loss, dout and dlogprobs (N); eps a number.
Example: ratio = [1.5], A = [1], eps = 0.2, dout = [1]  ->  loss = [-1.2], dlogprobs = [0]
         ratio = [1.5], A = [-1]                        ->  loss = [1.5], dlogprobs = [1.5]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, values

STUB = beginning(__doc__, OP) + '''
class PolicyLoss(Function):
    @staticmethod
    def forward(ctx, logprobs, old_logprobs, advantages, eps):
        # TODO
        raise NotImplementedError("the loss")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dlogprobs")
        return dlogprobs, None, None
'''

BLANKS = '''
ratio = np.exp(logprobs - old_logprobs)
plain = ratio * advantages
clipped = np.clip(ratio, 1 - eps, 1 + eps) * advantages
ctx.ratio, ctx.advantages, ctx.unclipped = ratio, advantages, plain <= clipped
return -np.minimum(plain, clipped)

dlogprobs = -dout * ctx.ratio * ctx.advantages * ctx.unclipped  # no gradient where the clipped product is the smaller
'''

SLIPS = [
    ("np.minimum(plain, clipped)", "clipped", "min is missing: the clipped product alone also hides harm"),
    ("np.minimum(plain, clipped)", "plain", "the clipping is missing"),
    ("np.exp(logprobs - old_logprobs)", "logprobs / old_logprobs",
     "the quotient of the log-probabilities is not the ratio: exp(logprobs - old_logprobs)"),
    ("plain <= clipped", "np.abs(ratio - 1) <= eps",
     "0 wherever the ratio is outside: with A < 0 and a large ratio (or A > 0 and a small one) min is not clipped"),
]  # fmt: skip


@st.composite
def cases(draw):
    n = draw(st.integers(1, 4))
    new, old = draw(values(n, -1, 1)), draw(values(n, -1, 1))
    return Case(new, old, draw(values(n)), eps=draw(st.sampled_from([0.15, 0.25])))


RATIOS, ADVANTAGES = np.array([[1.5, 1.5, 0.5, 0.5, 1.1, 0.95], [1.3, -0.7, 1.1, -0.9, 0.8, -1.2]])

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="small steps, by clipping what there is to win",
    group="Fine-tuning", effort="25 min, hard",
    hints=(
        "Which of the two products is the smaller one? Only where it is the unclipped one does logprobs matter.",
        "A mask (N): ratio A <= clipped ratio A. There dlogprobs = -dout ratio A, elsewhere 0.",
        "dlogprobs = np.where(plain <= clipped, -dout * ratio * advantages, 0)",
    ),
    checks=[OpCheck("PolicyLoss", cases(), Case(np.log(RATIOS), np.zeros(6), ADVANTAGES, eps=0.2))],
    answer=("finetune.objectives.ppo.policy_loss",),
)
