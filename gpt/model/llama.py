"""Llama, on a page: GPT-2 with five changes. Touvron et al. 2023, "LLaMA: open and efficient foundation language
models". Llama 1, 2 and 3 have this shape (the first without grouped queries), and so do TinyLlama and SmolLM2.

    GPT-2                   here                       why
    LayerNorm               RMSNorm                    subtracting the mean is not needed: cheaper, and as good
    learned positions       rotary positions           attention sees distances; nothing is learned or stored
    GELU between 2 layers   SwiGLU among 3 layers      a gate, computed from the token, decides what passes
    one key head per query  grouped-query attention    fewer heads of keys and values: a smaller KV cache
    biases                  no biases                  not needed either: fewer parameters, and as good

    RMSNorm(x) = x / sqrt(mean(x²) + eps) * weight     over a token's C numbers; Zhang & Sennrich 2019
    rotary positions                                   `rotations` below; Su et al. 2021
    SwiGLU = silu(gate) * up, silu(z) = z sigmoid(z)   `LlamaMLP` below; Shazeer 2020
    grouped-query attention                            `LlamaAttention` below; Ainslie et al. 2023

The rest is GPT-2 (gpt2.py explains it): residual stream, pre-norm blocks, causal attention, the head (here tied or
not). Simplified: no dropout.

Mistral also has this shape. Two other models differ from it in a setting: in Qwen2, the layers that compute queries,
keys and values do have biases (config.qkv_bias); Qwen3 normalizes queries and keys (config.qk_norm).

Shapes: B batch, T time, C channels (n_embd), H heads of queries, K heads of keys and values, D head size (usually
C / H), I inner channels, V vocabulary. Parameters carry Hugging Face's names:

    model.embed_tokens                          token embedding; tied, it is the head too, and stored under this name
    model.layers.N.input_layernorm              the norm before attention
    model.layers.N.self_attn.{q,k,v,o}_proj     queries, keys, values, output
    model.layers.N.post_attention_layernorm     the norm before the feed-forward network
    model.layers.N.mlp.{gate,up,down}_proj      its three layers
    model.norm, lm_head                         the last norm, the language-model head
"""

from __future__ import annotations

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array, module_of

from ..model_config import LlamaConfig, RopeScaling
from . import part_names
from .kv_cache import KVCache
from .language_model import LanguageModel, init_weights
from .numpy_forward import NumpyForward, llama_forward
from .positions import positions_and_mask

Rotation = tuple[Array, Array]  # cosine and sine of every token's angles: (T, D/2), or (B, 1, T, D/2)


def rotations(
    positions: Array, head_size: int, theta: float, dtype: object, scaling: RopeScaling | None = None
) -> Rotation:
    """Return cosine and sine of the angles by which queries and keys are turned, for tokens at these positions.

    The D numbers of a query or key x are read as D/2 pairs, and each pair as a point in the plane: with D = 4 the pairs
    are (x[0], x[2]) and (x[1], x[3]), in general pair i is (x[i], x[i + D/2]), one number from each half. At position
    t, pair i is turned about the origin by the angle t / theta^(2i/D).

    The pairs are like the hands of a clock. Pair 0 turns by one radian per token and tells neighbors apart. Each
    further pair turns more slowly, and the last ones tell far from near, because they have not gone round
    once. theta is 10,000 in Llama 1 and 2 and 500,000 in Llama 3. With theta = 100 and D = 4, pair 1 is slower by
    100^(2/4) = 10:

    >>> import numpy as np
    >>> cos, sin = rotations(np.arange(3), head_size=4, theta=100.0, dtype=np.float64)
    >>> np.degrees(np.arctan2(sin, cos)).round(1)  # a row for each position, a column for each pair
    array([[  0. ,   0. ],
           [ 57.3,   5.7],
           [114.6,  11.5]])
    >>> def turn(x, t):  # x for a token at position t
    ...     (x1, x2), c, s = np.split(x, 2), cos[t], sin[t]  # the points are (x1[i], x2[i])
    ...     return np.concatenate([x1 * c - x2 * s, x1 * s + x2 * c])
    >>> turn(np.array([1.0, 0.0, 0.0, 0.0]), 1).round(2)  # by 57.3 degrees, pair 0 goes from (1, 0) to (0.54, 0.84)
    array([0.54, 0.  , 0.84, 0.  ])

    The model does this with F.rotary_embedding, which has a gradient:

    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> np.allclose(F.rotary_embedding(x, cos[2], sin[2]).data, turn(x, 2))
    True

    Why this works: turning two vectors by the same angle does not change their dot product. So if a query is turned for
    position t and a key for position s, their product is that of the query turned for t - s and the key as it is. It
    depends on the distance t - s and not on where the two tokens are:

    >>> q, k = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])
    >>> np.allclose(turn(q, 2) @ turn(k, 1), turn(q, 1) @ k)
    True

    positions: (T) gives (T, D/2); (B, T) gives (B, 1, T, D/2), the same for all heads. scaling: slows the hands down,
    for longer texts than the model was first trained on.

    Su et al. 2021, section 3.2.2. The pairs are those of Hugging Face's files. The paper's are neighbors,
    (x[2i], x[2i + 1]).
    """
    xp = module_of(positions)  # NumPy, or CuPy if they are on a GPU
    speeds = theta ** (-xp.arange(0, head_size, 2) / head_size)  # (D/2), in float64: far positions keep their digits
    if scaling is not None:
        speeds = scaling.slowed(speeds)  # as Llama 3.1 does (gpt/model_config.py)
    angles = positions[..., None] * speeds  # (T, D/2), or (B, T, D/2) where padding shifts each row's positions
    if positions.ndim == 2:
        angles = angles[:, None]  # (B, 1, T, D/2): broadcast over the heads
    return xp.cos(angles).astype(dtype), xp.sin(angles).astype(dtype)


class LlamaMLP(nn.Module):
    """The feed-forward network with a gate: down(silu(gate(x)) * up(x)), where silu(z) = z sigmoid(z).

    GELU changes each inner number by itself; here one layer decides how much of another's result passes. silu is a
    smooth ReLU, like GELU: close to 0 for very negative z, and close to z for large ones. With three matrices instead
    of two, the inner width is 8/3 C instead of 4 C, to cost the same. Shazeer 2020.
    """

    def __init__(self, config: LlamaConfig):
        self.gate_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.up_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.down_proj = nn.Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.swiglu(self.gate_proj(x), self.up_proj(x))  # (B, T, I): silu(gate) * up
        return self.down_proj(hidden)  # (B, T, C)


class LlamaAttention(nn.Module):
    """Grouped-query attention, with rotary positions.

    H heads ask, but only K answer: each head of keys and values serves H / K neighboring heads of queries, and the KV
    cache holds K heads instead of H (Ainslie et al. 2023). Queries and keys are turned according to their positions
    before they are multiplied, so the product depends on the distance between the two tokens (`rotations` shows it).

    layer, cache, mask: leave them out at first, as in gpt2.py.
    """

    def __init__(self, config: LlamaConfig):
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.q_proj = nn.Linear(config.n_embd, config.n_head * config.head_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.n_embd, config.n_kv_head * config.head_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.n_embd, config.n_kv_head * config.head_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.n_head * config.head_size, config.n_embd, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_size, config.rms_norm_epsilon)
            self.k_norm = nn.RMSNorm(config.head_size, config.rms_norm_epsilon)

    def forward(
        self, x: Tensor, rotation: Rotation, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        q = F.split_heads(self.q_proj(x), self.n_head)  # (B, H, T, D)
        k = F.split_heads(self.k_proj(x), self.n_kv_head)  # (B, K, T, D)
        v = F.split_heads(self.v_proj(x), self.n_kv_head)  # (B, K, T, D)
        if self.qk_norm:  # of each head's D numbers (Qwen3)
            q, k = self.q_norm(q), self.k_norm(k)
        # Values are not turned: a position decides who attends to a token, not what the token says.
        q, k = F.rotary_embedding(q, *rotation), F.rotary_embedding(k, *rotation)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, K, S, D): of all S tokens read so far
        is_causal = mask is None and x.shape[1] > 1  # a single token is the last one so far and sees all S tokens
        grouped = self.n_kv_head < self.n_head
        # softmax(q kᵀ / sqrt(D)) v, as in GPT-2: (B, H, T, D)
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=grouped)
        return self.o_proj(F.merge_heads(out))  # (B, T, C)


class LlamaBlock(nn.Module):
    """Attention, then the feed-forward network. Each reads a normalized copy of the residual stream and adds to it."""

    def __init__(self, config: LlamaConfig):
        self.input_layernorm = nn.RMSNorm(config.n_embd, config.rms_norm_epsilon)
        self.self_attn = LlamaAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.n_embd, config.rms_norm_epsilon)
        self.mlp = LlamaMLP(config)

    def forward(
        self, x: Tensor, rotation: Rotation, layer: int = 0, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, layer, cache, mask)  # (B, T, C)
        return x + self.mlp(self.post_attention_layernorm(x))  # (B, T, C)


class LlamaTransformer(nn.Module):
    """Everything below the head: from ids to hidden states, which are one vector of C numbers per token."""

    def __init__(self, config: LlamaConfig):
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList([LlamaBlock(config) for _ in range(config.n_layer)])
        self.norm = nn.RMSNorm(config.n_embd, config.rms_norm_epsilon)

    def forward(self, ids: Array, cache: KVCache | None = None, attention_mask: Array | None = None) -> Tensor:
        positions, mask = positions_and_mask(ids, cache, attention_mask, self.config.block_size)
        x = self.embed_tokens(ids)  # (B, T, C): no positions are added
        rotation = self.rotation(positions, x.dtype)
        for layer, block in enumerate(self.layers):
            x = block(x, rotation, layer, cache, mask)  # (B, T, C)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.norm(x)  # (B, T, C)

    def rotation(self, positions: Array, dtype: object) -> Rotation:
        """The `rotations` of this model's queries and keys."""
        config = self.config
        return rotations(positions, config.head_size, config.rope_theta, dtype, config.rope_scaling)


class Llama(LanguageModel):
    """A transformer and its language-model head; used like `GPT`, and with the same `forward`."""

    def __init__(self, config: LlamaConfig):
        self.config: LlamaConfig = config
        with nn.init.skipped():  # init_weights, below, sets them all
            self.model = LlamaTransformer(config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        init_weights(self, residual_projections=("o_proj.weight", "down_proj.weight"))

    # As in `GPT`: for code that loads the model, looks into it or changes it from outside, and for generation.
    model_type = family = "llama"
    config_class = LlamaConfig
    names = part_names.LLAMA
    numpy_forward = NumpyForward(llama_forward, {LlamaTransformer, LlamaBlock, LlamaAttention, LlamaMLP})
