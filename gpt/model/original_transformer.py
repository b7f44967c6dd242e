"""Two choices of the original Transformer that GPT-2 changed: post-norm, and positions that are not learned.

`GPTConfig(norm="post")` and `GPTConfig(positions="sinusoidal")` select them. GPT-1 has post-norm and learned positions.
Vaswani et al. 2017, "Attention is all you need".
"""

from __future__ import annotations

import math

import numpy as np

from minigrad import Tensor, nn
from minigrad.backend import Array

from .config import INIT_STD, GPTConfig
from .gpt2 import TRANSFORMERS, Block, Transformer
from .kv_cache import KVCache


class OriginalTransformer(Transformer):
    """A `Transformer` with post-norm blocks, sinusoidal positions, or both. The names of its parts stay the same."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        if config.positions == "sinusoidal":
            self.wpe = SinusoidalPositions(config.block_size, config.n_embd)  # type: ignore[assignment]
        if config.norm == "post":
            self.h = nn.ModuleList([PostNormBlock(config) for _ in range(config.n_layer)])
            self.ln_f = nn.Sequential()  # type: ignore[assignment]  # returns x, which the last block has normalized


# From now on, GPT(config) builds one for these norms and positions.
TRANSFORMERS |= dict.fromkeys([("post", "learned"), ("pre", "sinusoidal"), ("post", "sinusoidal")], OriginalTransformer)


class PostNormBlock(Block):
    """A block that normalizes after each sub-layer: the sum x + sub-layer(x) is normalized, not the input.

    Every block normalizes the residual stream itself, twice, and the gradient passes through all these norms. Deep
    post-norm models need a careful warm-up of the learning rate. Xiong et al. 2020.
    """

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.ln_1(x + self.attn(x, layer, cache, mask))  # (B, T, C)
        return self.ln_2(x + self.mlp(x))  # (B, T, C)


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
