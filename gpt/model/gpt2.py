"""GPT-2, on a page. Radford et al. 2019, "Language models are unsupervised multitask learners".

The blocks are here. What GPT does with them (scoring, the loss, writing) it shares with every other language model:
see language_model.py.

Shapes: B batch, T time (tokens), C channels (n_embd), V vocabulary. Parameters carry GPT-2's own names, so that its
weights fit:

    transformer.wte   word token embedding          transformer.h.N.ln_1, ln_2   layer norms of block N ("h" for hidden)
    transformer.wpe   word position embedding       transformer.h.N.attn, mlp    its two sub-layers
    transformer.ln_f  final layer norm              lm_head                      language-model head, tied to wte
"""

from __future__ import annotations

import os

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array

from ..tokenizer.tokenizer import Tokenizer
from ..weights import gpt2_huggingface, hub
from .attention import CausalSelfAttention
from .config import GPTConfig
from .kv_cache import KVCache
from .language_model import LanguageModel, init_weights, is_plain
from .positions import SinusoidalPositions, positions_and_mask


class MLP(nn.Module):
    """The feed-forward network: each token by itself, through a layer four times as wide. Two thirds of a block."""

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)  # "fully connected"
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)
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
        positions, mask = positions_and_mask(ids, cache, attention_mask, self.config.block_size)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, layer, cache, mask)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.ln_f(x)


class GPT(LanguageModel):
    """A GPT with its language-model head: `model(ids)` scores, at every position, all tokens as the next."""

    def __init__(self, config: GPTConfig):
        self.config = config
        with nn.init.skipped():  # init_weights sets them all
            self.transformer = Transformer(config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        # Tied: what a token means going in is how it is recognised coming out.
        self.lm_head.weight = self.transformer.wte.weight
        init_weights(self, adds_to_residual=("c_proj.weight",))

    def body(self, ids: Array, cache: KVCache | None, attention_mask: Array | None) -> Tensor:
        return self.transformer(ids, cache, attention_mask)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> GPT:
        """A GPT-2 in evaluation mode, from a Hugging Face folder or by name ("gpt2")."""
        return gpt2_huggingface.load(hub.find(source), cls)

    def save_pretrained(self, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
        """Write a folder that transformers loads, with the tokenizer if it is given."""
        gpt2_huggingface.save(self, folder, tokenizer)
