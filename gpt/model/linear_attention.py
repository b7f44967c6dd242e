"""Linear attention: a state of fixed size that each token writes to and reads from, in the place of the KV cache.

    S_t = S_{t-1} + v_t k_tᵀ                                     linear attention: write the value under the key
    S_t = S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ              delta rule: replace what stood under this key
    S_t = α_t S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ          gated delta rule: and let all the rest fade
    o_t = S_t q_t                                                read

S_t is a matrix of D x D numbers per head, however long the text is; attention keeps the keys and values of all tokens.
If the keys have length 1 and are orthogonal, S q returns exactly the value that was written under the key q. There are
only D orthogonal vectors: with more keys, what is read is mixed with the values of similar keys.

The gated delta rule, for one head:

>>> import numpy as np
>>> T, D, rng = 5, 4, np.random.default_rng(0)
>>> q, k, v = rng.standard_normal((3, T, D))
>>> k /= np.linalg.norm(k, axis=1, keepdims=True)  # keys of length 1
>>> beta, alpha = rng.random((2, T))  # between 0 and 1
>>> S, outs = np.zeros((D, D)), []
>>> for t in range(T):
...     S = alpha[t] * S  # all that was written before fades
...     difference = v[t] - S @ k[t]  # between the new value and what stands under its key
...     S = S + beta[t] * np.outer(difference, k[t])  # with beta = 1, the new value stands there
...     outs.append(S @ q[t])  # read

`token_by_token` is this loop for all heads and with gradients. `by_chunks` computes the same in few large products, for
training:

>>> one_head = [Tensor(x.reshape(1, 1, len(x), -1)) for x in (q, k, v, beta, np.log(alpha), np.zeros((D, D)))]
>>> np.allclose(by_chunks(*one_head)[0].data, outs)
True

The model does not know: `use_linear_attention(model, every=4)` replaces the attention of three of four layers from
outside.

Katharopoulos et al. 2020 (arXiv 2006.16236): linear attention; Schlag et al. 2021 (2102.11174): the delta rule; Yang et
al. 2024 (2406.06484), section 3: its chunks; Yang et al. 2024, "Gated delta networks" (2412.06464), section 3: α.
Simplified: real ones also convolve q, k and v over four neighboring tokens, put a SiLU on them and on an output gate,
and give each head its own speed of fading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import Array, module_of

from .gpt2 import GPT
from .kv_cache import KVCache
from .language_model import init_weights

KINDS = ("linear", "delta", "gated delta")
Beta = Tensor | None  # None: tokens write, and erase nothing


def token_by_token(q: Tensor, k: Tensor, v: Tensor, beta: Beta, log_alpha: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The formulas above, one token after the other. Returns the outputs (B, H, T, D) and the last state (B, H, D, D).

    q, k, v: (B, H, T, D); beta and ln α: (B, H, T, 1), ln α = 0 for a state that does not fade; S: the state before.
    u_t is what token t writes: v_t or, with the delta rule, β_t times its difference from what stands there.
    """
    outs = []
    for t in range(q.shape[2]):
        q_t, k_t, u_t = (x[:, :, t].unsqueeze(-1) for x in (q, k, v))  # columns: (B, H, D, 1)
        S = S * log_alpha[:, :, t].exp().unsqueeze(-1)  # what was written before fades
        if beta is not None:
            u_t = beta[:, :, t].unsqueeze(-1) * (u_t - S @ k_t)  # the difference from what stands under this key
        S = S + u_t @ k_t.transpose(-2, -1)  # (B, H, D, D)
        outs.append(S @ q_t)
    return F.cat(outs, -1).transpose(-2, -1), S


def by_chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Beta, log_alpha: Tensor, S: Tensor, chunk: int = 16
) -> tuple[Tensor, Tensor]:
    """The same as `token_by_token`, `chunk` tokens at a time: a loop of T / L steps, of matrix products (L = chunk).

    Let S be the state before the chunk, and G_t the product of its α up to token t. The state before token t writes is
    G_t S plus the writes u_s k_sᵀ of the tokens s before t, each faded by G_t / G_s. Token t writes the difference of
    its value from what stands there under k_t. So the L rows u_t of U solve a triangular system:

        u_t = β_t (v_t - G_t S k_t - Σ_{s<t} G_t/G_s (k_s · k_t) u_s)            (I + A) U = β (V - G K Sᵀ)

    with A_ts = β_t G_t/G_s k_s · k_t for s < t, else 0; β and G scale the rows. So A^L = 0. Therefore the inverse of
    I + A, which is I - A + A² - A³ + ..., ends with A^(L-1), and is a product of few matrices:
    (I - A)(I + A²)(I + A⁴)(I + A⁸)... For L = 4 it is I - A + A² - A³ = (I - A)(I + A²).

        o_t = G_t S q_t + Σ_{s<=t} G_t/G_s (q_t · k_s) u_s           next S = G_L S + Σ_s G_L/G_s u_s k_sᵀ

    G_t/G_s is e^(g_t - g_s), with g = ln G. It is at most 1, where 1/G_s alone could overflow. If all keys are equal
    and β = 1, the powers of A grow to thousands: then float32 keeps three digits; real kernels solve row by row.
    """
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        Q, K, V = q[:, :, now], k[:, :, now], v[:, :, now]  # (B, H, L, D)
        g = F.cumsum(log_alpha[:, :, now], 2)  # (B, H, L, 1)
        # ln(G_t/G_s) where s <= t. Elsewhere it would be positive, and its exponential could overflow, so it becomes 0.
        log_fade = (g - g.transpose(-2, -1)).tril()  # (B, H, L, L)
        fade = log_fade.exp().tril()  # (B, H, L, L): G_t/G_s where s <= t, else 0
        U = V
        if beta is not None:
            U = beta[:, :, now] * (V - g.exp() * (K @ S.transpose(-2, -1)))
            power = -(beta[:, :, now] * fade * (K @ K.transpose(-2, -1))).tril(-1)  # -A: (B, H, L, L)
            exponent = 1
            while exponent < K.shape[2]:  # the powers -A, A², A⁴, ... below L; A^L is 0
                U = U + power @ U  # (I - A) U, then (I + A²) times this, and so on
                power = power @ power
                exponent *= 2
        outs.append(g.exp() * (Q @ S.transpose(-2, -1)) + fade * (Q @ K.transpose(-2, -1)) @ U)
        last = g[:, :, -1:]  # (B, H, 1, 1)
        S = last.exp() * S + ((last - g).exp() * U).transpose(-2, -1) @ K  # (B, H, D, D)
    return F.cat(outs, 2), S


class StateCache(KVCache):
    """A cache for a model in which some layers keep a state, in the place of keys and values.

    Its states cannot forget just the last tokens. Raises ValueError where they should.
    """

    def __init__(self, batch: int, capacity: int):
        super().__init__(batch, capacity)
        self.states: dict[int, Array] = {}  # layer -> (B, H, D, D)

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(state.nbytes for state in self.states.values())

    def keep_state(self, layer: int, state: Tensor) -> None:
        """Keep the state of a layer, in the place of the one before it."""
        if state.requires_grad:
            raise RuntimeError("a KV cache keeps no gradients: call the model inside `with no_grad():`")
        self.states[layer] = state.data

    def copy(self, other: Any, rows: Sequence[int]) -> None:
        super().copy(other, rows)
        self.states = {layer: state[rows] for layer, state in other.states.items()}

    def cut(self, length: int) -> None:
        if self.states and length < self.length:
            if length > 0:
                raise ValueError(f"a state cannot forget just tokens {length} to {self.length - 1}: cut(0), read again")
            self.states.clear()
        super().cut(length)


class LinearAttention(nn.Module):
    """In the place of CausalSelfAttention. β = σ(...) and α = σ(4 + ...) are computed from each token, for each head.

    With a cache, the state is all that is kept. A mask is read only for padding, which neither writes nor fades: a row
    holds one text.
    """

    def __init__(self, width: int, n_head: int, kind: str = "gated delta"):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.n_head = n_head
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.beta = None if kind == "linear" else nn.Linear(width, n_head)
        self.alpha = nn.Linear(width, n_head) if kind == "gated delta" else None

    def forward(self, x: Tensor, layer: int = 0, cache: StateCache | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C), with the arguments of CausalSelfAttention."""
        B, T, C = x.shape
        H = self.n_head
        D = C // H
        q, k, v = F.split_heads(self.c_attn(x), H, parts=3)  # (B, H, T, D) each
        q, k = (F.rms_norm(y, D) / D**0.5 for y in (q, k))  # vectors of length 1
        zeros = module_of(x.data).zeros((B, H, D, D), x.dtype)
        S = Tensor(zeros if cache is None else cache.states.get(layer, zeros))
        beta = None if self.beta is None else F.sigmoid(F.split_heads(self.beta(x), H))  # (B, H, T, 1)
        # α = σ(4 + ...) starts at 0.98: a gate that starts at 0.5 would forget everything within a few tokens.
        # Without a gate, ln α = 0: zeros (B, H, T, 1).
        log_alpha = k[..., :1] * 0 if self.alpha is None else F.logsigmoid(F.split_heads(self.alpha(x), H) + 4)
        if mask is not None:
            real = mask[..., -1, -T:].unsqueeze(-1).to(k.dtype)  # the last row of the mask is True for all but padding
            k, log_alpha = k * real, log_alpha * real
        out, S = by_chunks(q, k, v, beta, log_alpha, S)
        if cache is not None:
            cache.keep_state(layer, S)
        # The norm makes the output independent of how much has been written.
        return self.c_proj(F.merge_heads(F.rms_norm(out, D)))  # (B, T, C)


def use_linear_attention(model: GPT, kind: str = "gated delta", every: int = 4) -> None:
    """Replace the attention of a GPT, except in each `every`-th layer, and draw all weights of the model again.

    every=4 is the three-to-one hybrid of Qwen3-Next and Kimi Linear; every=0 replaces all. Dropout is left out.
    Checkpoints and `save_pretrained` refuse the result, and so does speculation: a state cannot forget a wrong guess.
    """
    for layer, name in enumerate(model.part_names("attention"), start=1):
        if not every or layer % every:
            model.set_submodule(name, LinearAttention(model.config.n_embd, model.config.n_head, kind))
    model.new_cache = StateCache
    # Only for AWQ: it cannot move a scale through these, since β and α also read what c_attn reads, and a norm stands
    # before c_proj.
    of_attention = tuple(shared._replace(source=None) for shared in model.names.inputs[:2])
    model.names = dataclasses.replace(model.names, inputs=of_attention + model.names.inputs[2:])
    init_weights(model, residual_projections=("c_proj.weight",))
