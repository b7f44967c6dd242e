"""The position of each token, and which tokens it may attend to.

Without positions, attention sees a bag of words: "dog bites man" equals "man bites dog". GPT-2 learns a vector per
position (`wpe` in gpt2.py), Llama rotates queries and keys by their positions (`rotations` in llama.py), and the
original Transformer adds sines and cosines (`sinusoidal_table` below).
"""

from __future__ import annotations

import math

import numpy as np

from minigrad import Tensor, nn
from minigrad.backend import Array, module_of
from minigrad.functional.attention import causal_mask

from ..model_config import INIT_STD
from .kv_cache import KVCache


def positions_and_mask(
    ids: Array, cache: KVCache | None, attention_mask: Array | None, block_size: int
) -> tuple[Array, Tensor | None]:
    """The positions of ids (B, T), which follow the tokens in the cache, and the mask of what each may attend to.

    Positions are (T). The mask is (T, S), where S includes the tokens in the cache; it is None if the causal rule of
    attention is enough, which is so without a cache and for a single token. With an attention_mask (B, S), 0 for
    padding, positions are (B, T), because padding is not counted, and the mask is (B, 1, T, S). Where several texts are
    packed into a row, attention_mask is k for the k-th: its positions begin at 0, and it sees no other text. Raises
    ValueError for more tokens than the block size.

    >>> positions, mask = positions_and_mask(np.array([[7, 8, 9, 7, 9]]), None, np.array([[1, 1, 1, 2, 2]]), 5)
    >>> positions
    array([[0, 1, 2, 0, 1]])
    >>> mask.data[0, 0].astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0],
           [0, 0, 0, 1, 0],
           [0, 0, 0, 1, 1]])
    """
    xp = module_of(ids)
    B, T = ids.shape
    past = 0 if cache is None else cache.length  # tokens whose keys and values are in the cache
    if past + T > block_size:
        raise ValueError(f"{past + T} tokens are more than the model's block size of {block_size}")
    if attention_mask is None:
        mask = Tensor(causal_mask(xp, T, past + T, past)) if past and T > 1 else None
        return xp.arange(past, past + T), mask
    if attention_mask.shape != (B, past + T):
        raise ValueError(f"attention_mask must have shape {(B, past + T)}, got {attention_mask.shape}")
    of_query, of_key = attention_mask[:, past:, None], attention_mask[:, None, :]  # (B, T, 1), (B, 1, S)
    same_text = (of_query == of_key) | (of_query == 0)  # what padding sees does not matter
    # (T, S) & (B, 1, S) & (B, T, S): a key must be in the past, real, and of the same text
    visible = causal_mask(xp, T, past + T, past) & (of_key != 0) & same_text
    positions = xp.maximum(visible.sum(axis=-1) - 1, 0)  # (B, T): how many earlier tokens it sees
    return positions, Tensor(visible[:, None])  # (B, 1, T, S): the same for all heads


class SinusoidalPositions(nn.Module):
    """The rows of `sinusoidal_table` for given positions. It is used like an embedding, but it is fixed.

    The paper adds them to token embeddings with standard deviation 1. Ours start at INIT_STD, so the table is scaled by
    the same factor. At full size it would drown the tokens, and the model would learn little more than their
    frequencies.
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

    Each pair of columns rotates at its own speed, like the hands of a clock: the first pair once in 6.3 tokens, the
    last once in 63,000. A step of k tokens is the same rotation everywhere, so distances are easy to compute.

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
