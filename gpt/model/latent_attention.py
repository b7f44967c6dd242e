"""Latent attention: the KV cache holds a few numbers per token, from which the keys and values of all heads are made.

    x --+--> W_DKV --> RMSNorm --> c      --+--> W_UK --> keys,   one for each head
        |                                   +--> W_UV --> values, one for each head
        +--> W_KR  --> rotated --> k_rope ---------------> keys,   the same for all heads

Grouped-query attention saves memory by having fewer heads of keys and values (llama.py). Here there are as many heads
as before, but the cache does not hold them: it holds c, their common *latent*, with d_c numbers, and one rotated key
with d_r numbers. A token takes d_c + d_r numbers in each layer, where multi-head attention, with H heads of D numbers,
takes 2 H D.

The keys made from c are not rotated, and k_rope alone tells positions: `absorbed` says why.

DeepSeek-AI 2024, "DeepSeek-V2" (arXiv 2405.04434), section 2.1. The model does not know: `use_latent_attention`
replaces the attention of a Llama from outside. The norm on c is DeepSeek's. Simplified: the queries are made from x,
without a latent of their own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import minigrad.functional as F
from minigrad import Tensor, nn

from ..model_config import LlamaConfig
from .language_model import init_weights
from .llama import Llama, Rotation
from .structure import SharedInput


class LatentAttention(nn.Module):
    """out_h = softmax(q_h k_hᵀ / sqrt(D + d_r)) v_h for each head h, with

        c   = RMSNorm(W_DKV x)          k_rope = rotated(W_KR x)                    what the cache holds
        k_h = [W_UK_h c, k_rope]        q_h    = [W_Q_h x, rotated(W_QR_h x)]   D + d_r numbers
        v_h = W_UV_h c

    latent d_c, rope d_r: see the page's top. The angles of k_rope are every (D / d_r)-th of the model's D / 2: for
    D = 8 and d_r = 4, the angles 0 and 2 of 0..3. Raises ValueError for an odd d_r, or one that does not divide D.
    """

    def __init__(self, config: LlamaConfig, latent: int, rope: int):
        H, D, C = config.n_head, config.head_size, config.n_embd
        if rope < 2 or rope % 2 or D % rope:
            raise ValueError(f"rope must be even and divide the head size of {D}, got {rope}")
        self.n_head = H
        self.pairs = slice(None, None, D // rope)
        self.scale = (D + rope) ** -0.5
        self.latent_proj = nn.Linear(C, latent, bias=False)  # W_DKV
        self.latent_norm = nn.RMSNorm(latent, config.rms_norm_epsilon)
        self.k_rope_proj = nn.Linear(C, rope, bias=False)  # W_KR
        self.k_proj = nn.Linear(latent, H * D, bias=False)  # W_UK, of all heads
        self.v_proj = nn.Linear(latent, H * D, bias=False)  # W_UV
        self.q_proj = nn.Linear(C, H * D, bias=False)  # W_Q
        self.q_rope_proj = nn.Linear(C, H * rope, bias=False)  # W_QR
        self.o_proj = nn.Linear(H * D, C, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, layer: int = 0, cache: Any = None, mask: Any = None) -> Tensor:
        cos, sin = (part[..., self.pairs] for part in rotation)  # (T, d_r / 2)
        c = self.latent_norm(self.latent_proj(x)).unsqueeze(1)  # (B, 1, T, d_c)
        k_rope = F.rotary_embedding(self.k_rope_proj(x).unsqueeze(1), cos, sin)  # (B, 1, T, d_r)
        q = F.split_heads(self.q_proj(x), self.n_head)  # (B, H, T, D)
        q_rope = F.rotary_embedding(F.split_heads(self.q_rope_proj(x), self.n_head), cos, sin)  # (B, H, T, d_r)
        if cache is not None:
            c, k_rope = cache.append(layer, c, k_rope)  # (B, 1, S, d_c), (B, 1, S, d_r): of all S tokens so far
        # A layer that LoRA or quantization has put in place of a projection has no matrix to absorb.
        are_plain = type(self.k_proj) is type(self.v_proj) is nn.Linear
        attend = self.absorbed if cache is not None and x.shape[1] == 1 and are_plain else self.simple
        return self.o_proj(F.merge_heads(attend(q, q_rope, c, k_rope, mask)))  # (B, T, C)

    def simple(self, q: Tensor, q_rope: Tensor, c: Tensor, k_rope: Tensor, mask: Tensor | None) -> Tensor:
        """Make the keys and values of all heads from c, and attend: (B, H, T, D). It is the form to train with."""
        k, v = (F.split_heads(proj(c.squeeze(1)), self.n_head) for proj in (self.k_proj, self.v_proj))  # (B, H, S, D)
        # k_rope is the same for all heads: (B, H, T, D + d_r), (B, H, S, D + d_r)
        q, k = F.cat([q, q_rope], -1), F.cat([k, k_rope.expand(*k.shape[:-1], -1)], -1)
        is_causal = mask is None and q.shape[2] > 1  # a single token is the last one so far and sees all S tokens
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=self.scale)

    def absorbed(self, q: Tensor, q_rope: Tensor, c: Tensor, k_rope: Tensor, mask: Tensor | None) -> Tensor:
        """The same for a single token that sees all S so far, without making their keys and values again:

            q · (W_UK c) = (W_UKᵀ q) · c          Σ_s probs_s (W_UV c_s) = W_UV (Σ_s probs_s c_s)

        W_UK is absorbed by the query, and W_UV is applied to what was read. All heads read the same c, so this is
        attention with a single head of keys [c, k_rope] and values c.

        Why is the rotated key apart? If the keys made from c were rotated, a rotation that differs from token to token
        would stand between the query and W_UK, and the query could not absorb W_UK.
        """
        W_UK, W_UV = (proj.weight.reshape(self.n_head, -1, c.shape[-1]) for proj in (self.k_proj, self.v_proj))
        # q @ W_UK: (B, H, 1, D) @ (H, D, d_c)
        queries, keys = F.cat([q @ W_UK, q_rope], -1), F.cat([c, k_rope], -1)  # (B, H, 1, d_c + d_r), (B, 1, S, ...)
        # The products of queries and keys are those of `simple`, and so is the scale.
        # (B, H, 1, d_c) @ (H, d_c, D) -> (B, H, 1, D)
        return F.scaled_dot_product_attention(queries, keys, c, mask, scale=self.scale) @ W_UV.transpose(-1, -2)


def use_latent_attention(model: Llama, latent: int, rope: int) -> None:
    """Replace the attention of a Llama by latent attention, and draw all weights of the model again.

    Raises what `LatentAttention` raises. Checkpoints and `save_pretrained` refuse the result.
    """
    for name in model.part_names("attention"):
        model.set_submodule(name, LatentAttention(model.config, latent, rope))
    from_x = ("self_attn.q_proj", "self_attn.q_rope_proj", "self_attn.latent_proj", "self_attn.k_rope_proj")
    from_c = ("self_attn.k_proj", "self_attn.v_proj")
    inputs = (SharedInput(from_x, "input_layernorm"), SharedInput(from_c, "self_attn.latent_norm"))
    # Which layers share an input, for quantization.
    model.names = dataclasses.replace(model.names, inputs=(*inputs, *model.names.inputs[1:]))
    init_weights(model, residual_projections=("o_proj.weight", "down_proj.weight"))
