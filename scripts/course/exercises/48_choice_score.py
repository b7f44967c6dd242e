"""choice_score: how probable a choice is after its question, as exams of language models are scored.

    score = Σ ln p(token | all tokens before it)          over the tokens of the choice, but not of the question
    p = softmax(logits of the position before the token)

ids are the tokens of question and choice together, and ids[start:] those of the choice. logits has a row for each of
them: row t predicts ids[t + 1], so the last row predicts what would come next, and is not needed.

A long choice has a small probability. So the second result is the score per character of the choice, whose number does
not depend on the tokenizer.

Shapes: logits (T, V), ids (T), start and characters: integers >= 1 -> (score, score per character), two numbers
Example: logits = [[ln 0.5, ln 0.5], [ln 0.9, ln 0.1], [0, 5]], ids = [0, 1, 0], start = 1, characters = 10
         -> the choice is 1, 0: ln 0.5 + ln 0.9 = -0.799, and -0.0799
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning

STUB = beginning(__doc__, NUMPY) + '''
def choice_score(logits, ids, start, characters):
    # TODO
    raise NotImplementedError("the score, and the score per character")
'''

BLANKS = '''
shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (T, V): log_softmax of each row
places = np.arange(start, len(ids))  # of the tokens of the choice
score = logprobs[places - 1, ids[places]].sum()  # the row before a token predicts it
return score, score / characters
'''

SLIPS = [
    ("places - 1", "places", "nothing is shifted: row t predicts ids[t + 1], so a token needs the row before it"),
    ("np.arange(start, ", "np.arange(1, ", "the question's tokens are scored too: begin at `start`"),
    ("len(ids))  #", "len(ids) - 1)  #", "the choice's last token is not scored"),
    ("logprobs[places", "logits[places", "logits are not log-probabilities: take log_softmax of each row first"),
    ("score / characters", "score / len(places)",
     "it is divided by the number of tokens, which depends on the tokenizer: divide by `characters`"),
    ("ids[places]].sum()", "ids[places]].mean()", "the score is a sum over the choice's tokens, not their mean"),
]  # fmt: skip


@st.composite
def cases(draw):
    T, V = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    return case(T, V, draw(st.integers(1, T - 1)), draw(st.integers(1, 12)), draw(st.integers(0, 10_000)))


def case(T: int, V: int, start: int, characters: int, seed: int):
    rng = np.random.default_rng(seed)
    return Case(rng.normal(0, 2, (T, V)), rng.integers(V, size=T), start, characters)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a multiple-choice exam without a written answer",
    group="Fine-tuning", effort="15 min, medium",
    hints=(
        "Take log_softmax of each row. Then pick one number for each token of the choice: which row, and which column?",
        "The token at place t has its log-probability in row t - 1, column ids[t]. The places are start, ..., T - 1.",
        "logprobs[places - 1, ids[places]].sum(), with places = np.arange(start, len(ids))",
    ),
    checks=[FunctionCheck("choice_score", cases(), case(7, 5, 3, 11, seed=0))],
    answer=("finetune.evaluation.multiple_choice.choice_score",),
)  # fmt: skip
