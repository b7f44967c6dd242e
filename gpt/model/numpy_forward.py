"""The decode step in plain NumPy: the formulas of gpt2.py and llama.py without the engine.

Generation reads the prompt in one pass (prefill), and then decodes token by token. A decode step multiplies one row by
every weight, and everything between the products works on a few hundred numbers. What the engine does around an op (a
Context, a Tensor, checks) then takes about as long as the products. Without gradients none of it is needed: arrays go
in, arrays come out, and x changes in place.

`forward_for`, below the formulas, returns such a function if fast kernels are selected and the model consists of
ordinary parts. A layer that replaces a Linear or an Embedding, such as an adapter or a quantized layer, is called as
usual. For anything unusual it returns None, and generation runs the model itself. batch_generation.py asks it once for
each batch of texts.

Shapes: R = B T rows of x, one for each new token; H heads of queries, K heads of keys and values, D numbers per head, S
tokens so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minigrad import Tensor, nn, switches
from minigrad.functional.indexing import check_indices
from minigrad.kernels import dispatch
from minigrad.kernels.cpu import threads

from .kv_cache import KVCache
from .positions import positions_and_mask

if TYPE_CHECKING:
    from .gpt2 import GPT
    from .language_model import LanguageModel
    from .llama import Llama


class NumpyForward(NamedTuple):
    """A model's logits in plain NumPy: by one of the functions below, if the model consists of these parts only."""

    logits: Callable[..., np.ndarray]
    parts: set[type[nn.Module]]


def gpt_forward(model: GPT, ids: np.ndarray, cache: KVCache, attention_mask: np.ndarray | None) -> np.ndarray:
    """The logits of `GPT` for ids (B, T), which continue the cache -> (B, T, V)."""
    body, H = model.transformer, model.config.n_head
    positions, mask = positions_and_mask(ids, cache, attention_mask, model.config.block_size)
    x = (embedding(ids, body.wte) + embedding(positions, body.wpe)).reshape(ids.size, -1)  # (R, C)
    for layer, block in enumerate(body.h):
        qkv = heads(linear(layer_norm(x, block.ln_1), block.attn.c_attn), ids, 3 * H)  # (R, 3C) -> (B, 3H, T, D)
        x += linear(attention(qkv, H, H, layer, cache, mask), block.attn.c_proj)
        x += linear(linear(layer_norm(x, block.ln_2), block.mlp.c_fc, block.mlp.activation), block.mlp.c_proj)
    cache.advance(ids.shape[1])
    return linear(layer_norm(x, body.ln_f), model.lm_head).reshape(*ids.shape, -1)


def llama_forward(model: Llama, ids: np.ndarray, cache: KVCache, attention_mask: np.ndarray | None) -> np.ndarray:
    """The logits of `Llama` for ids (B, T), which continue the cache -> (B, T, V)."""
    body, config = model.model, model.config
    H, K = config.n_head, config.n_kv_head
    positions, mask = positions_and_mask(ids, cache, attention_mask, config.block_size)
    x = embedding(ids, body.embed_tokens).reshape(ids.size, -1)  # (R, C)
    cos, sin = body.rotation(positions, x.dtype)
    cos = cos[..., None, :]  # (T, 1, D/2), or (B, 1, T, 1, D/2) where prompts are padded
    sin = sin[..., None, :] * np.array([[-1], [1]], x.dtype)  # (T, 2, D/2), or (B, 1, T, 2, D/2)
    for layer, block in enumerate(body.layers):
        attn, mlp = block.self_attn, block.mlp
        h = rms_norm(x, block.input_layernorm)
        qkv = np.concatenate([linear(h, attn.q_proj), linear(h, attn.k_proj), linear(h, attn.v_proj)], axis=-1)
        qkv = heads(qkv, ids, H + 2 * K)  # (B, H + 2K, T, D)
        if attn.qk_norm:
            qkv[:, :H] = rms_norm(qkv[:, :H], attn.q_norm)
            qkv[:, H : H + K] = rms_norm(qkv[:, H : H + K], attn.k_norm)
        turn(qkv[:, : H + K], cos, sin)
        x += linear(attention(qkv, H, K, layer, cache, mask), attn.o_proj)
        h = rms_norm(x, block.post_attention_layernorm)
        gate, up = linear(h, mlp.gate_proj), linear(h, mlp.up_proj)  # (R, I)
        x += linear(gate / (1 + np.exp(-gate)) * up, mlp.down_proj)  # silu(gate) * up
    cache.advance(ids.shape[1])
    return linear(rms_norm(x, body.norm), model.lm_head).reshape(*ids.shape, -1)


def embedding(ids: np.ndarray, layer: nn.Embedding) -> np.ndarray:
    """(B, T) -> (B, T, C). A layer that is not an ordinary Embedding is called as usual."""
    return layer.weight.data[ids] if is_plain(layer) else layer(ids).data


def linear(x: np.ndarray, layer: nn.Linear, activation: str | None = None) -> np.ndarray:
    """(R, in) -> (R, out). A layer that is not an ordinary Linear is called as usual."""
    if not is_plain(layer):
        return layer(Tensor(x), activation).data
    out = threads.matmul(x, layer.weight.data.T)
    if layer.bias is not None:
        out += layer.bias.data
    if activation is None:
        return out
    if activation == "gelu_tanh":  # h (1 + tanh u) / 2 = h / (1 + exp(-2u)), where u = sqrt(2 / pi) (h + 0.044715 h³)
        c = -2 * math.sqrt(2 / math.pi)
        return out / (1 + np.exp(out * (c + 0.044715 * c * (out * out))))
    return nn.layers.activate(Tensor(out), activation).data


def is_plain(layer: nn.Module) -> bool:
    return type(layer) in (nn.Linear, nn.Embedding) and not layer._forward_hooks


def layer_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    # A layer norm is an RMS norm of x minus its mean.
    x = rms_norm(x - np.add.reduce(x, axis=-1, keepdims=True) / x.shape[-1], norm)
    if norm.bias is not None:
        x += norm.bias.data
    return x


def rms_norm(x: np.ndarray, norm: nn.RMSNorm | nn.LayerNorm) -> np.ndarray:
    x = x / np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + norm.eps)
    x *= norm.weight.data
    return x


def turn(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
    """`rotate` (functional/rotary.py) in place. x = [x₁, x₂] becomes [x₁ cos - x₂ sin, x₂ cos + x₁ sin].

    cos (T, 1, D/2), and sin (T, 2, D/2), which holds -sin and sin.
    """
    halves = x.reshape(*x.shape[:-1], 2, -1)  # (B, heads, T, 2, D/2), a view: x₁ and x₂
    swapped = halves[..., ::-1, :] * sin  # -x₂ sin and x₁ sin
    halves *= cos
    halves += swapped


def heads(x: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """(R, count D) -> (B, count, T, D)."""
    return x.reshape(*ids.shape, count, -1).swapaxes(1, 2)


def attention(qkv: np.ndarray, H: int, K: int, layer: int, cache: KVCache, mask: Tensor | None) -> np.ndarray:
    """The T new tokens attend to each other and to the cache: qkv (B, H + 2K, T, D) -> (R, H D)."""
    B, _, T, D = qkv.shape
    # Queries that share keys are the rows of one matrix, head-major: rows (h, t). With H = 4 and K = 2, the T rows of
    # head 0 and then those of head 1 share the first keys; those of heads 2 and 3, the second.
    q = qkv[:, :H].reshape(B, K, H // K * T, D) * D**-0.5
    keys, values = cache.store(layer, qkv[:, H : H + K], qkv[:, H + K :])  # (B, K, S, D)
    scores = q @ keys.swapaxes(-1, -2)  # (B, K, H/K T, S)
    if mask is not None:  # (T, S), or (B, 1, T, S) where prompts are padded
        each_head = scores.reshape(B, K, H // K, T, -1)  # a view: the mask is added to the scores themselves
        each_head += np.where(mask.data, 0, -np.inf)[..., None, :, :]
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    probs = np.exp(scores, out=scores)
    probs /= np.add.reduce(probs, axis=-1, keepdims=True)
    return (probs @ values).reshape(B, H, T, D).swapaxes(1, 2).reshape(B * T, H * D)


def forward_for(model: LanguageModel) -> Callable[..., np.ndarray] | None:
    """Return a function that computes `model`'s logits as arrays, or None if there is none.

    declared: the NumpyForward of the model's class. parts: the classes of which the model may consist. layers: the last
    names of layers that may be of any class.
    """
    declared = vars(type(model)).get("numpy_forward")  # not inherited: a subclass may compute something else
    if declared is None or switches.observers or switches.autocast.get() or not dispatch.only_fast():
        return None
    parts = {type(model), nn.ModuleList, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Dropout, *declared.parts}
    # What replaces one of these layers, {'wte', 'c_attn', ...}, is called as a whole, whatever it is made of.
    layers = {name.rpartition(".")[2] for name in (*model.names.embeddings, *model.names.layers, "lm_head")}
    for name, module in model.named_modules():
        known = type(module) in parts or not layers.isdisjoint(name.split("."))
        if not known or module._forward_hooks:
            return None
    # Squares of float16 numbers soon exceed 65504, the largest of them.
    if not all(type(p.data) is np.ndarray and p.dtype != np.float16 for p in model.parameters()):
        return None

    def decode(ids: np.ndarray, cache: KVCache, attention_mask: np.ndarray | None = None) -> np.ndarray:
        check_indices("embedding", ids, model.config.vocab_size, "the vocabulary")
        # In x / (1 + e^-x), e^-x may be infinite; the quotient is then 0, as it should be.
        with np.errstate(over="ignore"):
            return declared.logits(model, ids, cache, attention_mask)

    return decode
