"""Multi-head causal self-attention: the only place where a token sees other tokens.

`CausalSelfAttention` is GPT's. Llama's (llama.py) makes its queries, keys and values otherwise, and then does the same:
`causal_attention`.
"""

from __future__ import annotations

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array, module_of

from .config import GPTConfig
from .kv_cache import KVCache


class CausalSelfAttention(nn.Module):
    """H heads, each attending in its own D = C / H numbers; then one layer that mixes what they found.

    Every token asks (query), offers (key) and contributes (value). Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, config: GPTConfig):
        self.n_head = config.n_head
        self.dropout_p = config.dropout
        # GPT-2's names: its linear layers were convolutions of width 1, hence the "c".
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key and value in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)  # the output projection W_O
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C). `mask` (B, 1, T, S), True where query t may see key s, replaces the causal one."""
        q, k, v = F.split_heads(self.c_attn(x), self.n_head, parts=3)  # (B, H, T, D) each
        out = causal_attention(q, k, v, layer, cache, mask, self.dropout_p if self.training else 0.0)
        return self.resid_dropout(self.c_proj(out))  # (B, T, C)


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer: int = 0,
    cache: KVCache | None = None,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """What each head finds, the heads side by side again: q (B, H, T, D), k and v (B, H or fewer, T, D) -> (B, T, C).

    The keys and values of earlier tokens come from the cache. `mask` as in `CausalSelfAttention`.
    """
    T = q.shape[2]
    if cache is not None:
        if k.requires_grad:
            raise RuntimeError("a KV cache keeps no gradients: call the model inside `with no_grad():`")
        keys, values = cache.append(layer, k.data, v.data)
        k, v = Tensor(keys), Tensor(values)  # (B, H, S, D), S = tokens read before + T
        if mask is None and 1 < T < k.shape[2]:
            mask = causal_mask_after(q.data, T, k.shape[2])
    is_causal = mask is None and T > 1
    grouped = k.shape[1] != q.shape[1]  # several query heads share one of k and v
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, enable_gqa=grouped)  # (B, H, T, D)
    return F.merge_heads(out)


def causal_mask_after(like: Array, queries: int, keys: int) -> Tensor:
    """(T, S), where `like` is: the T queries are the last of S tokens, so query t sees the keys 0 .. S - T + t."""
    xp = module_of(like)
    return Tensor(xp.tril(xp.ones((queries, keys), dtype=bool), keys - queries))


def padding_mask(real: Array, queries: int) -> Tensor:
    """(B, 1, T, S) from (B, S), True where a token is real: causal, and no token sees padding."""
    causal = causal_mask_after(real, queries, real.shape[1])
    return Tensor(causal.data & real[:, None, None, :])
