"""Where a token stands: without this, attention sees a bag of words ("dog bites man" = "man bites dog").

GPT-2 learns a vector per position, like one per token: an `nn.Embedding` called wpe. Here is the way without learning.
"""

from __future__ import annotations

import math

import numpy as np

from minigrad import Tensor, nn
from minigrad.backend import Array

from .config import INIT_STD


class SinusoidalPositions(nn.Module):
    """The rows of `sinusoidal_table` for given positions: in the place of an embedding, but fixed.

    The paper adds them to token embeddings of standard deviation 1. Ours start at INIT_STD, so the table is as much
    smaller: at full size it drowns the tokens, and the model learns hardly more than their frequencies.
    """

    table: Array

    def __init__(self, length: int, size: int):
        table = np.float32(INIT_STD) * sinusoidal_table(length, size)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Array) -> Tensor:
        return Tensor(self.table[positions])


def sinusoidal_table(length: int, size: int) -> np.ndarray:
    """The fixed position code of Vaswani et al. 2017, section 3.5: (length, size) float32.

        PE(t, 2i) = sin(t / 10000^(2i/C)),   PE(t, 2i+1) = cos(t / 10000^(2i/C))

    Like the hands of a clock, each pair of columns turns at its own speed: the first once in 6.3 tokens, the last once
    in 63,000. A step of k tokens is the same rotation everywhere, so that distances can be read off.

    >>> print(sinusoidal_table(3, 4).round(2))
    [[ 0.    1.    0.    1.  ]
     [ 0.84  0.54  0.01  1.  ]
     [ 0.91 -0.42  0.02  1.  ]]
    """
    position = np.arange(length)[:, None]  # (T, 1)
    column = np.arange(0, size, 2)  # 2i
    angle = position * np.exp(-math.log(10000.0) * column / size)  # (T, C/2)
    table = np.zeros((length, size), np.float32)
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : size // 2]
    return table
