"""GPT-2, on a page. Radford et al. 2019, "Language models are unsupervised multitask learners".

    ids (B, T) -> embeddings (B, T, C) -> blocks (B, T, C) -> last layer norm (B, T, C) -> head: logits (B, T, V)

Shapes: B sequences in a batch, T tokens in each ("time"), C channels, which are the numbers that describe a token
(n_embd), H attention heads with D = C / H channels each, V tokens in the vocabulary. Logits are one score for each of
the V tokens; softmax turns them into probabilities of the next token. Parameters carry GPT-2's own names:

    transformer.wte   word token embedding          transformer.h.N.ln_1, ln_2   layer norms of block N ("h" for hidden)
    transformer.wpe   word position embedding       transformer.h.N.attn, mlp    its two sub-layers
    transformer.ln_f  final layer norm              lm_head                      language-model head, tied to wte

On a first reading, leave out `layer`, `cache` and `mask`: training calls the model without them, and reads all T tokens
at once. They serve generation and padded batches:

    cache   holds the keys and values of the tokens from earlier calls, so they are not computed again (kv_cache.py)
    layer   the number of a block; the cache stores each block's keys and values under it, and nothing else uses it
    mask    says which token may attend to which: it hides padding, and orders several tokens that follow a cache
"""

from __future__ import annotations

from typing import Any

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array

from ..model_config import GPTConfig
from . import part_names
from .kv_cache import KVCache
from .language_model import Ids, LanguageModel, init_weights
from .numpy_forward import NumpyForward, gpt_forward
from .original_transformer import use_original_parts
from .positions import positions_and_mask


class CausalSelfAttention(nn.Module):
    """Each token gathers information from itself and the tokens before it: the only place where tokens meet.

    Every token asks (query), offers (key) and contributes (value). H heads do this side by side, each in its own D
    channels, so a token can ask H questions at once. Vaswani et al. 2017, section 3.2. In each head, the output for the
    token at position t is an average of the values of the tokens s = 0 ... t, weighted by how well query t fits key s:

        out_t = Σ_s weight_ts v_s        weight_t = softmax over s of q_t · k_s / sqrt(D), where s <= t

    The product of D numbers each grows with D: if they are independent, of mean 0 and variance 1, its standard
    deviation is sqrt(D). Without the division, large products would push the softmax to a single weight of 1, where its
    gradient vanishes.

    `forward` calls F.scaled_dot_product_attention, which computes this for all t at once. Step by step, the same
    numbers come out (without dropout, which is 0 by default):

    >>> import numpy as np
    >>> T, D = 5, 4
    >>> attn = CausalSelfAttention(GPTConfig(n_head=2, n_embd=2 * D))
    >>> x = Tensor(np.random.default_rng(0).standard_normal((1, T, 2 * D), np.float32))  # (B, T, C)
    >>> q, k, v = F.split_heads(attn.c_attn(x), 2, parts=3)  # cut 3C channels into q, k, v, each into (B, H, T, D)
    >>> scores = q @ k.transpose(-2, -1) / D**0.5  # (B, H, T, T): in row t and column s, how well query t fits key s
    >>> later = np.triu(np.ones((T, T), bool), 1)  # (T, T): True where s is after t
    >>> weights = scores.masked_fill(later, -np.inf).softmax(-1)  # (B, H, T, T): each row sums to 1, as e^-inf = 0
    >>> out = attn.c_proj(F.merge_heads(weights @ v))  # (B, H, T, D) -> (B, T, C)
    >>> np.allclose(out.data, attn(x).data, atol=1e-6)
    True
    """

    def __init__(self, config: GPTConfig):
        self.n_head = config.n_head
        # Dropout: in training, each number becomes 0 with this probability, so the model cannot rely on any single one.
        self.dropout_p = config.dropout
        # "c" for convolution: OpenAI wrote linear layers as convolutions of width 1.
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)  # the output projection W_O
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C). layer: the block's number, for the cache.

        mask (T, S): True where query t may attend to key s, of the S tokens read so far; None: all s up to t.
        """
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
    """The feed-forward network transforms each token by itself, in a layer four times as wide: c_proj(gelu(c_fc(x))).

    GELU is x Φ(x), where Φ is the distribution function of the normal distribution: a smooth ReLU. GPT-2 has its tanh
    form, which is why config.activation is "gelu_tanh" (`Gelu` in minigrad/functional/activation.py has both). The MLP
    has 8 C² of the 12 C² weights of a block; attention has 3 C² + C².
    """

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)  # "fully connected"
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)
        self.activation = config.activation
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        # gelu(c_fc(x)), in its tanh form. The layer applies it, because one op for both saves a pass over the memory.
        hidden = self.c_fc(x, activation=self.activation)  # (B, T, 4C)
        return self.dropout(self.c_proj(hidden))  # (B, T, C)


class Block(nn.Module):
    """Attention, then the MLP. Each reads x and adds its result to it.

    x is called the residual stream: a sum that runs through all blocks, and each block adds to it. Gradients flow back
    through these additions unchanged, so they reach the first block even in a deep model. Pre-norm means that a
    sub-layer reads a normalized copy of the stream, while the stream itself is not normalized. A layer norm brings each
    token's C numbers to mean 0 and variance 1, and then scales and shifts each channel by a learned weight and bias.
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
    """Everything below the head: from ids to hidden states, which are one vector of C numbers per token.

    For a text that is read at once, and without dropout, this is all. Positions are needed because attention averages,
    and an average does not depend on the order: without them, the model could not tell the order of earlier tokens.

    >>> import numpy as np
    >>> transformer = Transformer(GPTConfig(vocab_size=10, block_size=4, n_layer=2, n_head=2, n_embd=8))
    >>> ids, positions = np.array([[3, 1, 4, 1]]), np.array([0, 1, 2, 3])  # (B, T), (T)
    >>> x = transformer.wte(ids) + transformer.wpe(positions)  # (B, T, C)
    >>> for block in transformer.h:
    ...     x = x + block.attn(block.ln_1(x))
    ...     x = x + block.mlp(block.ln_2(x))
    >>> x = transformer.ln_f(x)
    >>> np.allclose(x.data, transformer(ids).data)
    True
    """

    def __init__(self, config: GPTConfig):
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # a row for each token of the vocabulary
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # a row for each position
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, ids: Array, cache: KVCache | None = None, attention_mask: Array | None = None) -> Tensor:
        # positions: 0, 1, ..., T - 1; with a cache they start at its length. mask: None, unless several tokens follow a
        # cache, or some are padding.
        positions, mask = positions_and_mask(ids, cache, attention_mask, self.config.block_size)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C): what the token is, plus where it is
        for layer, block in enumerate(self.h):
            x = block(x, layer, cache, mask)  # (B, T, C)
        if cache is not None:
            cache.advance(ids.shape[1])  # every layer has stored T more tokens
        return self.ln_f(x)  # (B, T, C)


class GPT(LanguageModel):
    """A transformer and its language-model head, which computes logits from hidden states.

    `LanguageModel` adds what all architectures share: `hidden_states`, `generate`, `from_pretrained`,
    `save_pretrained`, and the loss, which is the cross-entropy of the logits at all B T positions. targets[:, t] is the
    token that follows ids[:, t]:

    >>> import numpy as np
    >>> model = GPT(GPTConfig(vocab_size=10, block_size=4, n_layer=1, n_head=2, n_embd=8))
    >>> ids, targets = np.array([[3, 1, 4, 1]]), np.array([[1, 4, 1, 5]])  # (B, T) each
    >>> logits = model(ids)  # (B, T, V)
    >>> loss = F.cross_entropy(logits.reshape(-1, 10), targets.reshape(-1))  # the mean of -ln p(target)
    >>> np.allclose(loss.data, model.loss(ids, targets).data)
    True
    """

    def __init__(self, config: GPTConfig):
        self.config: GPTConfig = config
        with nn.init.skipped():  # init_weights, below, sets all weights
            self.transformer = Transformer(config)
            if (config.norm, config.positions) != ("pre", "learned"):  # not GPT-2, but what came before it
                use_original_parts(self.transformer, config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        # Tied weights: one matrix, used twice. A row is the input vector of a token, and the token's logit is the dot
        # product of a hidden state with the same row.
        if config.tied:
            self.lm_head.weight = self.transformer.wte.weight
        # All matrices start with standard deviation 0.02, the choice of GPT-1 (Radford et al. 2018, section 4.1). Both
        # sub-layers end in a c_proj, whose output is added to the residual stream: 2 n_layer additions. These weights
        # start smaller, by 1 / sqrt(2 n_layer), so the stream does not grow with the number of layers (Radford et al.
        # 2019, section 2.3).
        init_weights(self, residual_projections=("c_proj.weight",))

    def forward(self, ids: Ids, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V): logits[:, t] score every token as the token at t + 1."""
        hidden = self.hidden_states(ids, cache, attention_mask)  # (B, T, C): self.transformer(ids), with ids checked
        return self.lm_head(hidden)

    # The rest is not needed to compute anything. It is for code that loads the model, looks into it or changes it from
    # outside, and for a shortcut of generation.
    model_type = "gpt2"  # in Hugging Face's config.json
    family = "gpt"  # in ours
    config_class = GPTConfig
    names = part_names.GPT2
    numpy_forward = NumpyForward(gpt_forward, {Transformer, Block, CausalSelfAttention, MLP})
