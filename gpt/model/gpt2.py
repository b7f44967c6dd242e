"""GPT-2, on a page. Radford et al. 2019, "Language models are unsupervised multitask learners".

    ids (B, T) -> embeddings (B, T, C) -> blocks (B, T, C) -> last layer norm (B, T, C) -> head: logits (B, T, V)

Shapes: B sequences in a batch, T tokens in each ("time"), C channels, which are the numbers that describe a token
(n_embd), H attention heads with D = C / H channels each, V tokens in the vocabulary. Logits are one score for each of
the V tokens; softmax turns them into probabilities of the next token. Parameters carry GPT-2's own names:

    transformer.wte   word token embedding          transformer.h.N.ln_1, ln_2   layer norms of block N ("h" for hidden)
    transformer.wpe   word position embedding       transformer.h.N.attn, mlp    its two sub-layers
    transformer.ln_f  final layer norm              lm_head                      language-model head, tied to wte

`cache`, `layer` and `mask` are for generation and padded batches. In training all T tokens are read at once, and cache
and mask are None. A KV cache holds the keys and values of the tokens from earlier calls, so they are not computed again
(kv_cache.py). A mask says which token may attend to which. It hides padding, and it is needed when several tokens
follow a cache.
"""

from __future__ import annotations

from typing import Any

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array

from .config import GPTConfig
from .kv_cache import KVCache
from .language_model import LanguageModel, init_weights
from .original_transformer import apply_original_design
from .positions import positions_and_mask


class CausalSelfAttention(nn.Module):
    """Each token gathers information from itself and the tokens before it: the only place where tokens meet.

    Every token asks (query), offers (key) and contributes (value). H heads do this side by side, each in its own D
    channels, so a token can ask H questions at once. Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, config: GPTConfig):
        self.n_head = config.n_head
        self.dropout_p = config.dropout
        # "c" for convolution: OpenAI wrote linear layers as convolutions of width 1.
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)  # the output projection W_O
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C). mask: True where query t may attend to key s; None is the causal rule."""
        # The row of a token holds its query, key and value for all heads: (B, T, 3C) -> three times (B, H, T, D).
        q, k, v = F.split_heads(self.c_attn(x), self.n_head, parts=3)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, H, S, D): those of all S tokens read so far
        # Causal: a token does not see later tokens. A single token is the last one so far and sees all S tokens.
        # Several tokens that follow a cache come with a mask (positions_and_mask).
        is_causal = mask is None and x.shape[1] > 1
        dropout_p = self.dropout_p if self.training else 0.0  # dropout on the attention weights
        # softmax(q kᵀ / sqrt(D)) v: every query averages the values, weighted by how well their keys match it.
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal)  # (B, H, T, D)
        out = F.merge_heads(out)  # (B, T, C): concatenate the heads
        return self.resid_dropout(self.c_proj(out))  # (B, T, C): W_O combines the results of the heads


class MLP(nn.Module):
    """The feed-forward network transforms each token by itself, in a layer four times as wide.

    It has 8 C² of the 12 C² weights of a block; attention has 3 C² + C².
    """

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)  # "fully connected"
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)
        self.activation = config.activation
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.c_fc(x, activation=self.activation)  # (B, T, 4C): GELU, between the two matrix products
        return self.dropout(self.c_proj(hidden))  # (B, T, C)


class Block(nn.Module):
    """Attention, then the MLP. Each reads x and adds its result to it.

    x is called the residual stream: a sum that runs through all blocks, and each block adds to it. Gradients flow back
    through these additions unchanged, so they reach the first block even in a deep model. Pre-norm means that a
    sub-layer reads a normalized copy of the stream, while the stream itself is not normalized.
    """

    def __init__(self, config: GPTConfig):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), layer, cache, mask)  # (B, T, C): tokens exchange information
        return x + self.mlp(self.ln_2(x))  # (B, T, C): each token processes what it has gathered


class Transformer(nn.Module):
    """Everything below the head: from ids to hidden states, which are one vector of C numbers per token."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # a row for each token of the vocabulary
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # a row for each position
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        apply_original_design(self)  # changes nothing unless the config asks for post-norm or sinusoidal positions

    def forward(self, ids: Array, cache: KVCache | None = None, attention_mask: Array | None = None) -> Tensor:
        positions, mask = positions_and_mask(ids, cache, attention_mask, self.config.block_size)
        # positions (T): 0, 1, ..., T - 1; with a cache they start at its length
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C): what the token is, plus where it is
        for layer, block in enumerate(self.h):
            x = block(x, layer, cache, mask)  # (B, T, C)
        if cache is not None:
            cache.advance(ids.shape[1])  # every layer has stored T more tokens
        return self.ln_f(x)  # (B, T, C)


class GPT(LanguageModel):
    """A transformer and its language-model head.

    `LanguageModel` adds what all architectures share: `generate`, `from_pretrained`, `save_pretrained`, and the loss:

        model.loss(ids, targets)    cross-entropy of the logits at all B T positions; targets[:, t] follows ids[:, t]
    """

    model_type = "gpt2"  # in Hugging Face's config.json

    def __init__(self, config: GPTConfig):
        self.config = config
        with nn.init.skipped():  # init_weights, below, sets all weights
            self.transformer = Transformer(config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        # Tied weights: one matrix, used twice. A row is the input vector of a token, and the token's logit is the dot
        # product of a hidden state with the same row.
        if config.tied:
            self.lm_head.weight = self.transformer.wte.weight
        # Both sub-layers end in a c_proj, whose output is added to the residual stream. These weights start smaller, so
        # the stream does not grow with the number of layers.
        init_weights(self, residual_projections=("c_proj.weight",))

    def forward(self, ids: Any, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V): logits[:, t] score every token as the token at t + 1."""
        hidden = self.hidden_states(ids, cache, attention_mask)  # (B, T, C): checks the ids, then calls `body`
        return self.lm_head(hidden)  # (B, T, V)

    def body(self, ids: Array, cache: KVCache | None, attention_mask: Array | None) -> Tensor:
        """ids (B, T) -> hidden states (B, T, C)."""
        return self.transformer(ids, cache, attention_mask)
