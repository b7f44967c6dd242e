"""Where a token stands: without this, attention sees a bag of words ("dog bites man" = "man bites dog")."""

from __future__ import annotations

import math

import numpy as np


def sinusoidal_table(length: int, size: int) -> np.ndarray:
    """The fixed position code of Vaswani et al. 2017, section 3.5: (length, size) float32.

        PE(t, 2i) = sin(t / 10000^(2i/C)),   PE(t, 2i+1) = cos(t / 10000^(2i/C))

    Like the hands of a clock, each pair of columns turns at its own speed: the first once in 6.3 tokens, the last once in 63,000.
    A step of k tokens is the same rotation everywhere, so that distances can be read off.

    >>> sinusoidal_table(2, 4).round(3).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8410000205039978, 0.5400000214576721, 0.009999999776482582, 1.0]]
    """
    position = np.arange(length)[:, None]  # (T, 1)
    column = np.arange(0, size, 2)  # 2i
    angle = position * np.exp(-math.log(10000.0) * column / size)  # (T, C/2)
    table = np.zeros((length, size), np.float32)
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : size // 2]
    return table
