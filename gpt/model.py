"""GPT-2, on a page. Radford et al. 2019, "Language models are unsupervised multitask learners".

Shapes: B batch, T time (tokens), C channels (n_embd), V vocabulary. Parameters carry GPT-2's own names, so that its
weights fit:

    transformer.wte   word token embedding          transformer.h.N.ln_1, ln_2   layer norms of block N ("h" for hidden)
    transformer.wpe   word position embedding       transformer.h.N.attn, mlp    its two sub-layers
    transformer.ln_f  final layer norm              lm_head                      language-model head, tied to wte
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array, module_of
from minigrad.functional.indexing import check_indices

from . import generation, hub, huggingface
from .attention import CausalSelfAttention, padding_mask
from .config import INIT_STD, GPTConfig
from .kv_cache import KVCache
from .positions import SinusoidalPositions
from .tokenizer import Tokenizer


class MLP(nn.Module):
    """The feed-forward network: each token by itself, through a layer four times as wide. Two thirds of a block."""

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)  # "fully connected"
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(self.c_fc):
            hidden = F.linear_gelu(x, self.c_fc.weight, self.c_fc.bias, "tanh")  # (B, T, 4C)
        else:
            hidden = F.gelu(self.c_fc(x), "tanh")
        return self.dropout(self.c_proj(hidden))  # (B, T, C)


class Block(nn.Module):
    """Attention gathers from other tokens, the MLP thinks about it; both add to x, the residual stream."""

    def __init__(self, config: GPTConfig):
        self.pre_norm = config.norm == "pre"
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        if self.pre_norm:
            x = x + self.attn(self.ln_1(x), layer, cache, mask)
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attn(x, layer, cache, mask))
        return self.ln_2(x + self.mlp(x))


class Transformer(nn.Module):
    """Everything below the head: ids in, hidden states out."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe: nn.Module = (
            nn.Embedding(config.block_size, config.n_embd)
            if config.positions == "learned"
            else SinusoidalPositions(config.block_size, config.n_embd)
        )
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        # After post-norm blocks there is nothing left to normalize.
        self.ln_f: nn.Module = (
            nn.LayerNorm(config.n_embd, config.layer_norm_epsilon) if config.norm == "pre" else nn.Sequential()
        )

    def forward(self, ids: Array, cache: KVCache | None = None, attention_mask: Array | None = None) -> Tensor:
        xp = module_of(ids)
        B, T = ids.shape
        past = 0 if cache is None else cache.length
        if past + T > self.config.block_size:
            raise ValueError(f"{past + T} tokens are more than the model's block size of {self.config.block_size}")
        positions, mask = xp.arange(past, past + T), None  # (T,)
        if attention_mask is not None:
            if attention_mask.shape != (B, past + T):
                raise ValueError(f"attention_mask must have shape {(B, past + T)}, got {attention_mask.shape}")
            real = attention_mask != 0
            positions = xp.maximum(real.cumsum(axis=1) - 1, 0)[:, past:]  # (B, T): padding takes no place
            mask = padding_mask(real, T)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, layer, cache, mask)
        if cache is not None:
            cache.advance(T)
        return self.ln_f(x)


class GPT(nn.Module):
    """A GPT with its language-model head: `model(ids)` scores, at every position, all tokens as the next."""

    def __init__(self, config: GPTConfig):
        self.config = config
        with nn.init.skipped():  # _init_weights sets them all
            self.transformer = Transformer(config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        # Tied: what a token means going in is how it is recognised coming out.
        self.lm_head.weight = self.transformer.wte.weight
        self._init_weights()

    def _init_weights(self) -> None:
        """Normal with INIT_STD; what adds to the residual stream, 2 n_layer times, scaled by 1/sqrt(2 n_layer)."""
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * self.config.n_layer))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=INIT_STD)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)  # norms start as the identity

    def hidden_states(self, ids: Any, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        """What the last block makes of each token: ids (B, T), or (T) for one sequence, -> (B, T, C).

        cache: read `ids` as the continuation of what it holds, and add them (without gradients). attention_mask
        (B, tokens so far): 0 is padding. Raises IndexError for ids outside the vocabulary, ValueError for more tokens
        than the block size.
        """
        mask = None if attention_mask is None else self._on_device(_as_array(attention_mask, "attention_mask"))
        return self.transformer(self._ids(ids, "ids"), cache, mask)

    def forward(self, ids: Any, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V), where logits[:, t] are about token t + 1. Arguments as `hidden_states`."""
        return self.lm_head(self.hidden_states(ids, cache, attention_mask))

    def loss(self, ids: Any, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Cross-entropy of targets (B, T), nats per token; `ignore_index` does not count; "none" gives (B, T)."""
        hidden = self.hidden_states(ids)  # (B, T, C)
        targets = self._ids(targets, "targets", ignore_index)
        if targets.shape != hidden.shape[:2]:
            raise ValueError(f"targets of shape {targets.shape} do not fit ids of shape {hidden.shape[:2]}")
        hidden, flat = hidden.reshape(-1, self.config.n_embd), targets.reshape(-1)  # (B*T, C), (B*T)
        if is_plain(self.lm_head):
            loss = F.linear_cross_entropy(hidden, self.lm_head.weight, flat, ignore_index, reduction)
        else:
            loss = F.cross_entropy(self.lm_head(hidden), flat, ignore_index=ignore_index, reduction=reduction)
        return loss.reshape(targets.shape) if reduction == "none" else loss

    def token_logprobs(self, ids: Any, targets: Any) -> Tensor:
        """ln p(targets[b, t] | ids[b, :t+1]): (B, T)."""
        return -self.loss(ids, targets, reduction="none")

    def generate(self, ids: Any, max_new_tokens: int, **options: Any) -> list[list[int]]:
        """Continue `ids` token by token: see `gpt.generation.generate`."""
        return generation.generate(self, ids, max_new_tokens, **options)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> GPT:
        """A GPT-2 in evaluation mode, from a Hugging Face folder or by name ("gpt2"): see `gpt.huggingface.load`."""
        return huggingface.load(hub.find(source), cls)

    def save_pretrained(self, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
        """Write a folder that transformers loads, with the tokenizer if it is given: see `gpt.huggingface.save`."""
        huggingface.save(self, folder, tokenizer)

    def _ids(self, ids: Any, what: str, ignore_index: int | None = None) -> Array:
        """Ids as an integer array (B, T) on the model's device, checked while they are on the host."""
        array = _as_array(ids, what)
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "iu":
            got = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"{what} must be integers of shape (batch, time) with time >= 1, got {got}")
        if isinstance(array, np.ndarray):
            counted = array if ignore_index is None else np.where(array == ignore_index, 0, array)
            check_indices(what, counted, self.config.vocab_size, "the vocabulary")
        return self._on_device(array)

    def _on_device(self, array: Array) -> Array:
        xp = module_of(next(self.parameters()).data)
        return array if isinstance(array, xp.ndarray) else xp.asarray(array)


def _as_array(values: Any, what: str) -> Array:
    if isinstance(values, Tensor):
        return values.data
    try:
        return np.asarray(values) if isinstance(values, list | tuple) else values
    except ValueError:
        raise ValueError(f"{what} must be sequences of one length; generate() pads others") from None


def is_plain(layer: nn.Module) -> bool:
    """Is this a Linear whose weight alone says what it does? Then it may be fused with what follows it."""
    return type(layer) is nn.Linear and not layer._forward_hooks
