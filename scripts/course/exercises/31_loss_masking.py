"""loss_masking: targets for instruction tuning: only the assistant's tokens are learned.

Each token is the target of the one before it. So inputs leave out the last token, and targets the first. loss_mask is
True for the tokens that are to be learned, as targets. Any other target is -100, which cross_entropy ignores. Shorter
conversations are padded on the right: inputs with 0, targets with -100.

Shapes: conversations: a list of B pairs (ids, loss_mask), two lists of one length (>= 2)
        -> (inputs, targets), integer arrays (B, T) with T = the longest length - 1
Example: [([7, 8, 9], [False, False, True]), ([7, 9], [False, True])]
         -> inputs [[7, 8], [7, 0]], targets [[-100, 9], [9, -100]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning

STUB = beginning(__doc__, NUMPY) + '''
def collate(conversations):
    # TODO
    raise NotImplementedError("inputs and targets")
'''

BLANKS = '''
T = max(len(ids) for ids, _ in conversations) - 1  # the longest one, without its last token
inputs = np.zeros((len(conversations), T), int)
targets = np.full((len(conversations), T), -100)
for row, (ids, loss_mask) in enumerate(conversations):
    inputs[row, : len(ids) - 1] = ids[:-1]  # without the last token, padded on the right with 0
    targets[row, : len(ids) - 1] = np.where(loss_mask[1:], ids[1:], -100)  # the next tokens, where they are learned
return inputs, targets
'''

SLIPS = [
    ("np.zeros((len(conversations), T), int)", "np.full((len(conversations), T), -100)",
     "inputs are padded with -100, which is not a token: pad inputs with 0"),
    (BLANKS, BLANKS.replace("ids[:-1]", "ids").replace("[1:]", "").replace(") - 1", ")"),
     "nothing is shifted: inputs leave out the last token, targets the first, so T is the longest length - 1"),
    ("T = max(len(ids) for ids, _ in conversations) - 1", "T = len(conversations[0][0]) - 1",
     "T is the length of the first conversation: it is the longest length - 1"),
]  # fmt: skip


@st.composite
def cases(draw):
    conversations = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(2, 5))
        ids = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
        conversations.append((ids, draw(st.lists(st.booleans(), min_size=n, max_size=n))))
    return Case(conversations)


TALKS = [([5, 6, 7, 8, 9], [False, False, True, True, False]), ([3, 4, 2], [True, False, True])]

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="learn the answers, not the questions",
    group="Fine-tuning", effort="20 min, medium",
    hints=(
        "Shift by one, mask by the flag of the token that is predicted, then pad.",
        "ids[:-1] are inputs, ids[1:] targets, and loss_mask[1:] belongs to the targets.",
        "targets = [id if learn else -100 for id, learn in zip(ids[1:], loss_mask[1:])], padded with -100",
    ),
    checks=[FunctionCheck("collate", cases(), Case(TALKS))],
    answer=("finetune.objectives.sft.collate",),
)
