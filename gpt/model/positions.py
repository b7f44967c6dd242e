"""Where a token stands: without this, attention sees a bag of words ("dog bites man" = "man bites dog").

GPT-2 learns a vector per position, like one per token: an `nn.Embedding` called wpe. Here is the way without learning.
A third way, turning queries and keys by their positions, is `rotations` in llama.py.
"""

from __future__ import annotations

import math

import numpy as np

from minigrad import Tensor, nn
from minigrad.backend import Array, module_of

from .attention import padding_mask
from .config import INIT_STD
from .kv_cache import KVCache


def positions_and_mask(
    ids: Array, cache: KVCache | None, attention_mask: Array | None, block_size: int
) -> tuple[Array, Tensor | None]:
    """Where the tokens ids (B, T) stand, behind those in the cache, and what each may see beyond the causal rule.

    Positions are (T), and the mask None; with an attention_mask (B, tokens so far), 0 for padding, they are (B, T), as
    padding takes no place, and the mask (B, 1, T, S). Raises ValueError for more tokens than the block size.
    """
    xp = module_of(ids)
    B, T = ids.shape
    past = 0 if cache is None else cache.length
    if past + T > block_size:
        raise ValueError(f"{past + T} tokens are more than the model's block size of {block_size}")
    if attention_mask is None:
        return xp.arange(past, past + T), None
    if attention_mask.shape != (B, past + T):
        raise ValueError(f"attention_mask must have shape {(B, past + T)}, got {attention_mask.shape}")
    real = attention_mask != 0
    return xp.maximum(real.cumsum(axis=1) - 1, 0)[:, past:], padding_mask(real, T)


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
