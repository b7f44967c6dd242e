"""positions: the sinusoidal position encoding of the Transformer.

    PE[t, 2i]     = sin(t / 10000^(2i/C))
    PE[t, 2i + 1] = cos(t / 10000^(2i/C))

Like the hands of a clock, each pair of columns turns at its own speed, the first fast, the last slowly.

Shapes: length T and size C (even) -> (T, C)
Example: T = 2, C = 4  ->  [[0, 1, 0, 1], [0.8415, 0.5403, 0.0100, 1.0000]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, Patch, beginning

STUB = beginning(__doc__, NUMPY) + '''
def sinusoidal(length, size):
    # TODO
    raise NotImplementedError("the table")
'''

BLANKS = '''
t = np.arange(length)[:, None]
i = np.arange(size // 2)
angle = t / 10000 ** (2 * i / size)
table = np.zeros((length, size))
table[:, 0::2] = np.sin(angle)
table[:, 1::2] = np.cos(angle)
return table
'''

SLIPS = [
    ("np.cos(angle)", "np.cos(t / 10000 ** ((2 * i + 1) / size))",
     "each column has its own speed: a pair 2i, 2i + 1 shares one"),
    ("table[:, 1::2] = np.cos(angle)", "table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)",
     "all sines come first: sine and cosine must alternate, even columns and odd ones"),
    ("np.sin(angle)\ntable[:, 1::2] = np.cos(angle)", "np.cos(angle)\ntable[:, 1::2] = np.sin(angle)",
     "sine and cosine are exchanged: even columns have the sine"),
]  # fmt: skip

sizes = st.builds(Case, st.integers(1, 6), st.integers(1, 4).map(lambda half: 2 * half))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="positions, written like the hands of a clock",
    group="Embedding", effort="15 min, medium",
    hints=(
        "One angle for each place and pair of columns: place times speed. Then sine in even columns, cosine in "
        "odd ones.",
        "np.arange(length)[:, None] is (T, 1), np.arange(0, size, 2) is (C/2): their product with a speed is (T, C/2).",
        "angle = t / 10000 ** (np.arange(0, size, 2) / size); table[:, 0::2] = np.sin(angle); table[:, 1::2] = "
        "np.cos(angle)",
    ),
    # The library's table is float32.
    checks=[FunctionCheck("sinusoidal", sizes, Case(5, 6), tolerance=1e-5)],
    place=Patch("sinusoidal", "gpt.model.positions.sinusoidal_table"),
    answer=("gpt.model.positions.sinusoidal_table",),
)
