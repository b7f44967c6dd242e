"""focal_loss: cross-entropy that cares less about what is right already (Lin et al. 2017).

    p    = softmax(logits)[target],   per row
    loss = the mean over the rows of  -(1 - p)^gamma ln p

Large numbers must not break it. Where logits are near 1000 or -1000, e^logits is inf or 0. Where the target's logit is
2000 below the others, p rounds to 0 and its logarithm is -inf, although the loss of this row is an ordinary number,
2000. There as well, loss and dlogits must be finite and right: one inf or nan spoils the mean, and every gradient.

Shapes: logits (N, C), targets (N) integers, loss (), dout (), dlogits (N, C); targets: None. gamma a number >= 1.
Example: logits = [[0, 0]], targets = [1], gamma = 2, dout = 1  ->  p = 0.5, loss = 0.1733,
         dlogits = [[0.2983, -0.2983]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import FAR, OP, Case, Exercise, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class FocalLoss(Function):
    @staticmethod
    def forward(ctx, logits, targets, gamma):
        # TODO
        raise NotImplementedError("the loss")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dlogits")
        return dlogits, None
'''

BLANKS = '''
shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
rows = np.arange(len(targets))
ln_p = log_probs[rows, targets]
p = np.exp(ln_p)
ctx.probs, ctx.p, ctx.ln_p, ctx.rows, ctx.targets, ctx.gamma = np.exp(log_probs), p, ln_p, rows, targets, gamma
return (-((1 - p) ** gamma) * ln_p).mean()

p, gamma, n = ctx.p, ctx.gamma, len(ctx.p)
p_dp = gamma * (1 - p) ** (gamma - 1) * p * ctx.ln_p - (1 - p) ** gamma  # product rule, times p, which may be 0
onehot = np.zeros_like(ctx.probs)
onehot[ctx.rows, ctx.targets] = 1
dlogits = dout / n * p_dp[:, None] * (onehot - ctx.probs)
'''

SLIPS = [
    ("logits - logits.max(axis=1, keepdims=True)", "logits", "overflow: subtract the largest logit of each row first"),
    ("-((1 - p) ** gamma) * ln_p", "-ln_p", "(1 - p)^gamma is missing: this is cross-entropy"),
    ("-((1 - p) ** gamma)", "-(p**gamma)",
     "the weight is p^gamma: it must be (1 - p)^gamma, small where the model is right already"),
    ("gamma * (1 - p) ** (gamma - 1) * p * ctx.ln_p - ", "-",
     "the weight (1 - p)^gamma depends on p, too: its term is missing (product rule)"),
]  # fmt: skip


FALLEN = -2000 * (np.arange(12).reshape(3, 4) == 6)  # one logit of the row that is far above 0: its p is 0


@st.composite
def cases(draw):
    n, classes = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    targets = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    return Case(draw(values((n, classes))), targets, gamma=draw(st.sampled_from([1.0, 2.0, 3.0])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="cross-entropy that cares about what is hard",
    group="Assessment", effort="40 min, hard",
    checks=[OpCheck("FocalLoss", cases(), Case(some(5, 4), np.array([0, 3, 1, 2, 3]), gamma=2.0)),
            OpCheck("FocalLoss", cases(), Case(some(3, 4) + FAR + FALLEN, np.array([0, 2, 1]), gamma=2.0), examples=1)],
)
