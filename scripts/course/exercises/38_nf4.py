"""nf4: quantize to 4 bits, with 16 levels placed where normally distributed weights are.

The levels are given, sorted, from -1 to 1. For every block:

    scale = max |value| of the block
    code  = the number of the level nearest to value / scale          value becomes levels[code] * scale

Shapes: values (N), block a divisor of N, levels (16) -> (codes (N), integers 0..15; scales (N / block))
Example: values = [2.0, -1.0, 0.1, 0.0], block = 4  ->  scales [2.0], codes [15, 2, 8, 7]
"""

import hypothesis.strategies as st
import numpy as np

from finetune.quantization.nf4 import nf4_levels
from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, some, values

STUB = beginning(__doc__, NUMPY) + '''
def nf4(values, block, levels):
    # TODO: a block of zeros has scale 0, and everywhere the code of the level 0.0
    raise NotImplementedError("codes and scales")
'''

BLANKS = '''
blocks = values.reshape(-1, block)
scales = np.abs(blocks).max(axis=1)
safe = np.where(scales > 0, scales, 1)  # a block of zeros must not divide 0 by 0
scaled = (blocks / safe[:, None]).reshape(-1)
codes = np.abs(scaled[:, None] - levels).argmin(axis=1)
return codes, scales
'''

SLIPS = [
    ("return codes,", "return levels[codes],", "these are the levels: return their numbers, the codes 0 to 15"),
    ("np.abs(blocks).max(axis=1)", "np.full(len(blocks), np.abs(blocks).max())",
     "one scale for everything: each block has its own"),
]  # fmt: skip
LEVELS = nf4_levels().astype(np.float64)


@st.composite
def cases(draw):
    block, blocks = draw(st.sampled_from([2, 4])), draw(st.integers(1, 3))
    return Case(draw(values(block * blocks)), block, LEVELS)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="16 levels where the numbers are",
    group="Quantization", effort="20 min, medium",
    hints=(
        "Scale each block into [-1, 1], then look which of 16 numbers is nearest.",
        "values.reshape(-1, block) is (blocks, block); distances to all levels: (N, 1) - (16) -> (N, 16), argmin "
        "over the last.",
        "codes = np.abs(scaled[:, None] - levels).argmin(axis=1), with scaled = values / np.repeat(scales, block)",
    ),
    checks=[FunctionCheck("nf4", cases(), Case(some(12), 4, LEVELS))],
    answer=("finetune.quantization.nf4.nf4", "finetune.quantization.nf4.nearest"),
)
