"""sampling: reshape the model's distribution before a token is drawn.

    1. temperature   divide the logits by it
    2. top_k         keep the k largest logits only (None: all)
    3. softmax       over what is kept; the others have probability 0. Subtract the largest logit first
    4. top_p         keep the most likely tokens until they have top_p together; the one that reaches it is
                     kept as well; scale them to sum to 1 again

Shapes: logits (V), all different; temperature > 0; 1 <= top_k <= V or None; 0 < top_p <= 1 -> probabilities (V)
Example: logits = [ln 1, ln 6, ln 3], temperature = 1
         top_k = 2, top_p = 1      ->  [0, 0.6667, 0.3333]
         top_k = None, top_p = 0.5 ->  [0, 1, 0];      top_p = 0.7  ->  [0, 0.6667, 0.3333]
"""

import hypothesis.strategies as st
import numpy as np

from gpt.model.generation import Sampling
from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, Patch, beginning, some, values

STUB = beginning(__doc__, NUMPY) + '''
def probabilities(logits, temperature, top_k, top_p):
    # TODO
    raise NotImplementedError("the distribution")
'''

BLANKS = '''
logits = logits / temperature  # before softmax: after it, the temperature would cancel
if top_k is not None:
    kth = np.sort(logits)[-top_k]
    logits = np.where(logits >= kth, logits, -np.inf)
e = np.exp(logits - logits.max())
probs = e / e.sum()
order = np.argsort(-probs)
before = np.cumsum(probs[order]) - probs[order]  # what the more likely tokens have together
kept = order[before < top_p]  # the one that reaches top_p is kept
nucleus = np.zeros_like(probs)
nucleus[kept] = probs[kept]
return nucleus / nucleus.sum()  # scaled to sum to 1 again
'''

SLIPS = [
    (BLANKS, BLANKS.replace("np.where(logits >= kth, logits, -np.inf)", "logits").replace("top_p]", "top_p][:top_k]"),
     "top_p comes before top_k: cut by top_k first, and take the softmax of what is kept"),
    ("[-top_k]\n    logits = np.where(logits >= kth", "[top_k - 1]\n    logits = np.where(logits <= kth",
     "the k smallest logits are kept: top_k keeps the largest"),
    ("logits, -np.inf)", "logits, 0.0)", "logits that are cut are set to 0, but e^0 is 1: they must be -inf"),
    ("before < top_p", "(before + probs[order] <= top_p) | (before == 0)",
     "the token with which top_p is reached must also be kept"),
    (" - probs[order]", " - probs[order] * (top_p == 1)", "the token with which top_p is reached must also be kept"),
]  # fmt: skip


@st.composite
def cases(draw):
    logits = draw(values(draw(st.integers(1, 5))).map(lambda x: x + np.arange(len(x)) * 0.013))
    top_k = draw(st.none() | st.integers(1, len(logits)))
    logits = logits * draw(st.sampled_from([1.0, 1.0, 1.0, 1000.0]))
    return Case(logits, draw(st.sampled_from([0.5, 1.0, 2.0])), top_k, draw(st.sampled_from([0.33, 0.61, 0.87, 1.0])))


def as_method(probabilities):
    def method(self: Sampling, logits, seen=()):
        logits = self.penalized(logits, seen).astype(np.float64)
        return np.arange(len(logits)), np.asarray(probabilities(logits, self.temperature, self.top_k, self.top_p))

    return method


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="temperature, top-k and top-p",
    group="Writing", effort="30 min, hard",
    hints=(
        "Set what is cut by top_k to -inf before the softmax. For top_p, sort, and look at what the better ones have.",
        "order = np.argsort(-probs) (V); np.cumsum(probs[order]) - probs[order] is what the more likely ones "
        "have together.",
        "kept = order[np.cumsum(probs[order]) - probs[order] < top_p]; everything else 0; divide by the sum",
    ),
    checks=(
        FunctionCheck("probabilities", cases(), Case(some(6), 0.5, 3, 1.0)),
        FunctionCheck("probabilities", cases(), Case(some(6), 2.0, None, 0.61), examples=1),
        FunctionCheck("probabilities", cases(), Case(some(6), 2.0, 3, 0.61), examples=20),
        FunctionCheck("probabilities", cases(), Case(some(6) - 1000, 0.5, 3, 1.0), examples=1),
    ),
    place=Patch("probabilities", "gpt.model.generation.Sampling.candidates", adapt=as_method),
    answer=tuple(f"gpt.model.generation.{name}" for name in ("Sampling.candidates", "most_likely", "nucleus")),
)
