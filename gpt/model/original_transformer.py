"""Two choices of the original Transformer that GPT-2 changed: post-norm blocks, and positions that are not learned.

GPTConfig(norm="post") and GPTConfig(positions="sinusoidal") select them. GPT-1 has post-norm and learned positions.
Vaswani et al. 2017, "Attention is all you need".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigrad import Tensor, nn

from ..model_config import GPTConfig
from .kv_cache import KVCache
from .positions import SinusoidalPositions

if TYPE_CHECKING:
    from .gpt2 import Block, Transformer


class PostNormBlock(nn.Module):
    """GPT-2's parts of a block in the original order: normalize the sum x + sub-layer(x), not the sub-layer's input.

    Every block normalizes the residual stream itself, twice, and the gradient passes through all these norms. Deep
    post-norm models need a careful warm-up of the learning rate. Xiong et al. 2020.
    """

    def __init__(self, block: Block):
        self.ln_1 = block.ln_1
        self.attn = block.attn
        self.ln_2 = block.ln_2
        self.mlp = block.mlp

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.ln_1(x + self.attn(x, layer, cache, mask))  # (B, T, C)
        return self.ln_2(x + self.mlp(x))  # (B, T, C)


def use_original_parts(transformer: Transformer, config: GPTConfig) -> None:
    """Give GPT-2's transformer post-norm blocks, sinusoidal positions, or both. The names of its parts stay."""
    if config.positions == "sinusoidal":
        transformer.wpe = SinusoidalPositions(config.block_size, config.n_embd)  # type: ignore[assignment]
    if config.norm == "post":
        transformer.h = nn.ModuleList([PostNormBlock(block) for block in transformer.h])
        transformer.ln_f = nn.Sequential()  # type: ignore[assignment]  # returns x, which the last block has normalized
