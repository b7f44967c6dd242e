"""ablation: switch heads off, and see what the model can no longer do.

The heads of a token stand side by side: head h has the D channels h D ... (h + 1) D - 1. A head that is off adds zeros.

Shapes: x (B, T, H D), off: a list of heads, n_head = H -> (B, T, H D)
Example: without_heads(x, [0], 2) of a token [1, 2, 3, 4] is [0, 0, 3, 4]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, some, values

STUB = beginning(__doc__, NUMPY) + '''
def without_heads(x, off, n_head):
    # TODO
    raise NotImplementedError("zeros for the heads that are off")
'''

BLANKS = '''
keep = np.ones(n_head)
keep[off] = 0  # these heads, and no others
mask = np.repeat(keep, x.shape[-1] // n_head)  # each number of keep D times, side by side
return x * mask  # along the last axis, the channels
'''

SLIPS = [
    ("keep = np.ones(n_head)\nkeep[off] = 0", "keep = np.zeros(n_head)\nkeep[off] = 1",
     "the heads in `off` are switched off, and the others stay"),
    ("keep[off]", "keep[off[:1]]", "only the first head of `off` is off: all of them must be"),
    ("return x * mask", "return x * mask * n_head / max(1, keep.sum())",
     "the other heads stay as they are: this is not dropout, nothing is scaled up"),
    (BLANKS, "x = x.copy()\nx[:, off] = 0\nreturn x", "tokens are set to 0: a head is D channels of the last axis"),
]  # fmt: skip


@st.composite
def cases(draw):
    heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), heads * size)
    off = draw(st.lists(st.integers(0, heads - 1), unique=True, max_size=heads))
    return Case(draw(values(shape)), off, heads)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a model without some of its heads",
    group="Looking inside", effort="5 min, easy",
    hints=(
        "One number per head, 0 or 1, and then the same number for all channels of the head.",
        "keep is (H), and the mask is (H D): D = x.shape[-1] // n_head.",
        "mask = np.repeat(keep, x.shape[-1] // n_head)",
    ),
    checks=[FunctionCheck("without_heads", cases(), Case(some(2, 3, 8), [1, 3], 4))],
    answer=("gpt.interpretability.heads.without_heads",),
)  # fmt: skip
