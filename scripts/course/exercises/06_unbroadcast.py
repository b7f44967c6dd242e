"""unbroadcast: bring a gradient back to the shape of an input that NumPy repeated.

In x + bias with x (B, C) and bias (C,), the bias is used B times. Its gradient is the sum of what all copies received.
NumPy repeats in two ways: it puts axes in front, and it stretches axes of length 1. Undo both.

    shape ()      or (3,)   stretched to (2, 3): sum over the axes in front
    shape (2, 1)            stretched to (2, 3): sum over axis 1, and keep it, with length 1

Shapes: dout (any shape that `shape` broadcasts to) -> `shape`
Example: unbroadcast([[1, 2, 3], [10, 20, 30]], (3,)) = [11, 22, 33]; to (2, 1): [[6], [60]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, Patch, beginning, shapes, some, values

STUB = beginning(__doc__, NUMPY) + '''
def unbroadcast(dout, shape):
    # TODO: sum the axes in front away; then sum every axis that has length 1 in `shape` only (keepdims)
    raise NotImplementedError("unbroadcast")
'''

BLANKS = '''
added = dout.ndim - len(shape)
dout = dout.sum(axis=tuple(range(added)))  # axes in front
stretched = tuple(axis for axis, length in enumerate(shape) if length == 1)
return dout.sum(axis=stretched, keepdims=True)  # axes of length 1
'''

SLIPS = [
    ("dout.sum(axis=stretched, keepdims=True)", "dout",
     "only the axes in front are summed; axes of length 1 were also stretched"),
    ("tuple(range(added))", "tuple(range(-added, 0))", "the last axes are summed: NumPy adds axes in front, sum those"),
    ("dout.sum(axis=tuple(range(added)))", "dout[(0,) * added]", "the first copy is taken: sum the axes in front"),
    ("dout.sum(axis=tuple(range(added)))", "dout[(0,) * added][tuple(slice(0, 1 if n == 1 else None) for n in shape)]",
     "this is what the first copy received: the sum over the copies is missing"),
]  # fmt: skip


@st.composite
def cases(draw):
    full = draw(shapes(1, 3))
    kept = full[draw(st.integers(0, len(full))) :]
    shape = tuple(draw(st.sampled_from([1, n])) for n in kept)
    return Case(draw(values(full)), shape)


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="what was repeated forward is summed backward",
    group="Engine", effort="20 min, medium",
    hints=(
        "Where forward repeats, backward adds up; where forward adds up, backward repeats. This is sum, mirrored.",
        "There are dout.ndim - len(shape) axes in front. Of the others, those with shape[i] == 1 were stretched.",
        "dout.sum(axis=all these axes, keepdims=True).reshape(shape)",
    ),
    checks=[FunctionCheck("unbroadcast", cases(), Case(some(2, 3, 4), (3, 1)))],
    place=Patch("unbroadcast", "minigrad.functional.elementwise.unbroadcast", "minigrad.functional.linalg.unbroadcast",
                adapt=lambda own: lambda dout, shape: None if shape is None else own(dout, shape)),
    answer=("minigrad.functional.broadcasting.unbroadcast",),
)
