"""absmax: quantize a matrix to 8-bit integers, row by row.

    scale = max(|value|) / 127            the largest magnitude of the row
    code  = round(value / scale)          from -127 to 127;  code * scale is the quantized value

The largest magnitude of a row becomes 127 (or -127), and 0 stays exactly 0. A row of zeros has codes 0; its scale may
be anything.

Shapes: values (R, K) -> (codes (R, K), np.int8; scales (R, 1))
Example: [[0.5, -1.3, 2.4, -0.1]]  ->  scale 0.0189, codes [[26, -69, 127, -5]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, shapes, some, values

STUB = beginning(__doc__, NUMPY) + '''
def absmax(values):
    # TODO: rows of zeros must not divide 0 by 0
    raise NotImplementedError("codes and scales")
'''

BLANKS = '''
largest = np.abs(values).max(axis=1, keepdims=True)
scales = np.where(largest > 0, largest, 1) / 127  # a row of zeros must not divide 0 by 0
return np.rint(values / scales).astype(np.int8), scales  # rounded to the nearest code
'''

SLIPS = [
    ("np.abs(values).max(axis=1, keepdims=True)", "np.ptp(values, axis=1, keepdims=True) / 2",
     "the scale comes from max - min: it is the largest magnitude of the row / 127, symmetric around 0"),
    ("values / scales)", "values / scales * 128 / 127)", "codes reach 128, an overflow to -128: the largest is 127"),
    ("np.abs(values).max(axis=1, keepdims=True)", "np.full((len(values), 1), np.abs(values).max())",
     "one scale for the whole matrix: each row has its own (axis=1, keepdims=True)"),
    (".astype(np.int8), scales", ".astype(np.int8), scales[:, 0]", "scales must be (R, 1): keepdims=True"),
]  # fmt: skip


def quantized(absmax, values):
    import warnings

    with warnings.catch_warnings(record=True) as said, np.errstate(invalid="warn"):
        warnings.simplefilter("always")
        result = absmax(values)
    if not isinstance(result, tuple) or len(result) != 2:
        return [result]
    codes, scales = map(np.asarray, result)
    if scales.shape == (len(values), 1):
        scales = np.where(np.any(values, axis=1, keepdims=True), scales, 0)  # of a row of zeros any scale is right
    has_nan = any("cast" in str(warning.message) for warning in said)
    about = "nan, from 0 / 0 in a row of zeros, made an integer" if has_nan else f"the codes are {codes.dtype}"
    return [about, codes, scales]


@st.composite
def cases(draw):
    """Numbers of two decimals, none of them in the middle between two codes."""
    matrix = draw(values(draw(shapes(2, 2))))
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    fraction = np.abs(matrix) * 127 / np.where(largest > 0, largest, 1) % 1
    return Case(np.where(np.abs(fraction - 0.5) < 1e-6, 0, matrix))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="32 bits into 8",
    group="Quantization", effort="15 min, medium",
    hints=(
        "Stretch a grid of 255 levels to the largest magnitude of the row, and round to it.",
        "np.abs(values).max(axis=1, keepdims=True) is (R, 1).",
        "scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-30) / 127; np.rint(values / "
        "scales).astype(np.int8)",
    ),
    # The library's scales are float32.
    checks=[FunctionCheck("absmax", cases(), Case(some(3, 5)), call=quantized, tolerance=1e-5)],
    answer=tuple(f"finetune.quantization.rounding.{name}" for name in ("absmax", "grid", "to_levels")),
)
