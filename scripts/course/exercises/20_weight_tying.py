"""weight_tying: GPT-2 uses one matrix at both ends: to embed tokens, and to score them.

    hidden = weight[ids]               the embedding
    logits = hidden @ weight.T         the output layer: how much hidden looks like each token

There is no layer in between here, but the gradient is the real one: weight gets the sum of what both uses contribute.

Shapes: ids (N) integers, weight (V, C), hidden (N, C), logits and dout (N, V), dweight (V, C). ids: None.
Example: ids = [1], weight = [[1], [2]], dout = [[1, 0]]  ->  logits = [[2, 4]], dweight = [[2], [1]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, ids, some, values

STUB = beginning(__doc__, OP) + '''
class Tied(Function):
    @staticmethod
    def forward(ctx, ids, weight):
        ctx.ids, ctx.weight, ctx.hidden = ids, weight, weight[ids]
        return ctx.hidden @ weight.T

    @staticmethod
    def backward(ctx, dout):
        # TODO: logits = hidden @ weight.T  ->  dhidden, and weight's gradient as output layer
        # TODO: hidden = weight[ids]        ->  weight's gradient as embedding; ids repeat (np.add.at)
        raise NotImplementedError("dweight of the tied matrix")
        return None, dweight
'''

BLANKS = '''
dhidden = dout @ ctx.weight
as_output = dout.T @ ctx.hidden  # one of the two uses: the output layer
as_embedding = np.zeros_like(ctx.weight)
np.add.at(as_embedding, ctx.ids, dhidden)  # the other use: the embedding, where ids repeat
dweight = as_output + as_embedding  # the gradients of both uses, added
'''


@st.composite
def cases(draw):
    vocabulary, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return Case(draw(ids(draw(st.integers(1, 3)), vocabulary)), draw(values((vocabulary, channels))))


EXERCISE = Exercise(
    STUB, BLANKS,
    title="one matrix used twice: its gradients add up",
    group="Embedding", effort="20 min, medium",
    hints=(
        "This is the diamond again: weight is used twice, so its gradient is the sum over both uses.",
        "As output layer: dout^T (V, N) @ hidden (N, C). As embedding: dhidden = dout @ weight (N, C), scattered "
        "to (V, C).",
        "dweight = dout.T @ ctx.hidden; np.add.at(dweight, ctx.ids, dout @ ctx.weight)",
    ),
    checks=[OpCheck("Tied", cases(), Case(np.array([2, 0, 2, 4]), some(5, 3)))],
    answer=("gpt.model.gpt2.GPT.__init__",),
)
