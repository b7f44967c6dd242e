"""A sliding window: each token sees the last few tokens and the first few of the text, and the cache forgets the rest.

    tokens       0  1  2  3  4  5  6  7
    token 7      x  .  .  .  .  x  x  x         a window of 3 tokens, itself included, and 1 sink

In L layers a token still learns of up to L * window tokens (Jiang et al. 2023, "Mistral 7B", arXiv 2310.06825). But a
model that was trained to see everything fails when its first tokens are forgotten: the weights of a softmax sum to 1,
and where nothing fits, heads put them on the first tokens, which every token sees. These *attention sinks* are kept
(Xiao et al. 2023, "Efficient streaming language models with attention sinks", arXiv 2309.17453).

A text may become longer than the model's block if positions are those in the cache (section 3.2):

    tokens       0  4  5  6     in the cache, one token earlier
    tokens       0  5  6  7     in the cache; token 4 is forgotten
    positions    0  1  2  3     of both rows: token 5 moves from 2 to 1

The paper keeps keys as they were before the rotation. We turn a key back by as many positions as it moves, which is
the same: rotations add up. The model does not know: `use_sliding_window` changes the attention of a Llama from outside.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minigrad import Tensor
from minigrad.functional.rotary import rotate

from ..model_config import LlamaConfig
from .kv_cache import KVCache
from .llama import Llama, LlamaAttention, Rotation, rotations


def window_mask(T: int, S: int, window: int, sinks: int = 0) -> np.ndarray:
    """(T, S) booleans: which of S tokens each of the last T sees, namely the last `window` and the first `sinks`.

    >>> window_mask(2, 6, window=2, sinks=1).astype(int)
    array([[1, 0, 0, 1, 1, 0],
           [1, 0, 0, 0, 1, 1]])
    """
    query = np.arange(S - T, S)[:, None]
    key = np.arange(S)
    return (key <= query) & ((key > query - window) | (key < sinks))


class WindowAttention(LlamaAttention):
    """An attention of a Llama, with its weights, in which the last T of S tokens see what `visible(T, S)` says.

    Raises ValueError for padded prompts.
    """

    def __init__(self, attention: Any, window: int, sinks: int):
        self.n_head = attention.n_head
        self.n_kv_head = attention.n_kv_head
        self.qk_norm = attention.qk_norm
        for name, layer in attention.named_children():  # q_proj, k_proj, ...: the layers themselves, not copies
            setattr(self, name, layer)
        self.visible = functools.partial(window_mask, window=window, sinks=sinks)

    def forward(self, x: Tensor, rotation: Rotation, layer: int = 0, cache: Any = None, mask: Any = None) -> Tensor:
        if mask is not None and mask.ndim == 4:  # only padded batches have such a mask
            raise ValueError("a sliding window cannot tell padding from text: give it texts of one length")
        # It hides later tokens too, so the given mask is not needed.
        visible = self.visible(x.shape[1], x.shape[1] + (cache.length if cache else 0))  # (T, S)
        return super().forward(x, rotation, layer, cache, Tensor(visible).to(x.device))


class RollingCache(KVCache):
    """A KV cache that forgets: between two steps it holds the first `sinks` and the last `window` - 1 tokens.

    The next token completes its window; its position is `length`, the number of tokens held. Arrays must be NumPy's: it
    was not written for a GPU.
    """

    always_has_room = True

    def __init__(self, batch: int, capacity: int, config: LlamaConfig, window: int, sinks: int):
        super().__init__(batch, capacity)
        self.config = config
        self.sinks = sinks
        self.kept = sinks + window - 1  # tokens that it holds between two steps

    def advance(self, tokens: int) -> None:
        super().advance(tokens)
        gone = max(self.length - self.kept, 0)  # tokens to forget, those behind the sinks: 0 while there is room
        old = slice(self.sinks + gone, self.length)  # where the tokens are that stay
        new = slice(self.sinks, self.length - gone)  # where they move: `gone` places towards the beginning
        config = self.config
        # One row of angles, back by `gone` positions, for all keys that move.
        turn = rotations(np.array([-gone]), config.head_size, config.rope_theta, float, config.rope_scaling)
        for layer, keys in self.keys.items():
            keys[:, :, new] = rotate(keys[:, :, old], *turn)
            self.values[layer][:, :, new] = self.values[layer][:, :, old].copy()  # a copy, because the two overlap
        self.length -= gone

    def cut(self, length: int) -> None:
        if length:
            raise ValueError("a cache that forgets cannot go back to an earlier token; read the text again")
        super().cut(0)


def use_sliding_window(model: Llama, window: int, sinks: int = 4) -> None:
    """Let each token of a Llama see only the last `window` tokens, itself included, and the first `sinks`.

    `generate` then uses a RollingCache, and a text may grow beyond the block size. Without a cache, positions are those
    in the text. Raises ValueError for a window that does not fit into the block size.
    """
    if not (window >= 1 and 0 <= sinks <= model.config.block_size - window):
        raise ValueError(f"window {window} (>= 1) and {sinks} sinks (>= 0) must fit into {model.config.block_size}")
    for name in model.part_names("attention"):
        model.set_submodule(name, WindowAttention(model.get_submodule(name), window, sinks))
    model.new_cache = functools.partial(RollingCache, config=model.config, window=window, sinks=sinks)
