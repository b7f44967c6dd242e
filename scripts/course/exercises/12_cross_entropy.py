"""cross_entropy: how surprised the model is by the actual targets.

    loss = the mean over the rows that count of  -ln softmax(logits)[target]

Rows whose target is `ignore_index`, any number (padding, prompts), do not count: they are left out of the mean, and get
gradient 0. The gradient is famous for its simplicity: predicted probabilities minus one-hot targets, divided by n, the
number of rows that count, and multiplied by dout.

Shapes: logits (N, C), targets (N) integers, loss (): a number; dout (), dlogits (N, C). targets get no gradient: None.
At least one row counts.
Example: logits = [[0, 0], [5, 1]], targets = [1, -100], ignore_index = -100, dout = 1
         ->  loss = 0.6931, dlogits = [[0.5, -0.5], [0, 0]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import FAR, OP, Case, Exercise, Kernel, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class CrossEntropy(Function):
    @staticmethod
    def forward(ctx, logits, targets, ignore_index):
        # TODO: the loss, from log-probabilities (see log_softmax); keep what backward needs
        raise NotImplementedError("the loss")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dlogits
        raise NotImplementedError("dlogits")
        return dlogits, None
'''

BLANKS = '''
shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # over the classes of each row
kept = targets != ignore_index  # rows that count
n = kept.sum()  # how many rows count
rows, classes = np.arange(len(targets)), np.where(kept, targets, 0)
ctx.log_probs, ctx.kept, ctx.n, ctx.rows, ctx.classes = log_probs, kept, n, rows, classes
losses = -log_probs[rows, classes]
return (losses * kept).sum() / n

probs = np.exp(ctx.log_probs)
onehot = np.zeros_like(probs)
onehot[ctx.rows, ctx.classes] = 1  # the truth: 1 at each row's target
dlogits = (probs - onehot) * ctx.kept[:, None] * dout / ctx.n  # probabilities minus the truth, over the rows that count
'''

SLIPS = [
    ("n = kept.sum()", "n = len(targets)", "ignored rows count in the mean: divide by the number of rows that count"),
    ("(losses * kept).sum() / n", "losses.mean()", "ignored rows are in the loss: targets of ignore_index must give 0"),
    ("(probs - onehot) * ctx.kept[:, None]", "(probs - onehot * ctx.kept[:, None])",
     "ignored rows get a gradient: it must be 0 there"),
    ("/ ctx.n", "/ len(ctx.kept)", "divided by all rows: n is the number of rows that count"),
    ("!= ignore_index", ">= 0", "`ignore_index` may be any number, not only a negative one: compare targets with it"),
    ("!= ignore_index", "!= -100", "-100 is written into the code: `ignore_index` says which rows do not count"),
]  # fmt: skip


@st.composite
def cases(draw):
    n, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    ignore_index = draw(st.sampled_from([-100, -100, -1]))
    targets = [draw(st.integers(0, classes - 1))] + draw(
        st.lists(st.sampled_from([*range(classes), ignore_index]), min_size=n - 1, max_size=n - 1)
    )
    scale = draw(st.sampled_from([1.0, 1.0, 1000.0]))
    return Case(draw(values((n, classes))) * scale, np.array(targets), ignore_index=ignore_index)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="what a language model is trained with",
    group="Loss", effort="30 min, hard",
    hints=(
        "Per row, loss = ln(sum of e^logits) - logits[target]. The first term's derivative is softmax, the "
        "second's is one-hot.",
        "kept (N) says which rows count; n = kept.sum(). Where a target is -100, index with 0 instead, and "
        "multiply by kept.",
        "dlogits = np.exp(log_probs); dlogits[rows, safe_targets] -= 1; dlogits * kept[:, None] * dout / n",
    ),
    checks=[OpCheck("CrossEntropy", cases(), Case(some(5, 4), np.array([1, -100, 3, 0, 3]), ignore_index=-100)),
            OpCheck("CrossEntropy", cases(), Case(some(3, 4) + FAR, np.array([1, 2, 3]), ignore_index=2), examples=1)],
    place=Kernel(
        "cross_entropy",
        "CrossEntropy",
        lambda logits, targets, ignore_index, reduction: (logits, targets, ignore_index),
        fits=lambda logits, targets, ignore_index, reduction: reduction == "mean",
    ),
    answer=("minigrad.functional.loss.CrossEntropy",),
)
