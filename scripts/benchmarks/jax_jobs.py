"""The opponent in JAX: GPT-2's training step as one compiled function that may reuse the memory of its arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt import GPTConfig
from scripts.benchmarks.jobs import model_config, token_ids


def parameters(config: GPTConfig) -> dict[str, Any]:
    C, rng = config.n_embd, np.random.default_rng(0)

    def matrix(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.02, shape), jnp.float32)

    def linear(inputs: int, outputs: int) -> dict[str, jax.Array]:
        return {"weight": matrix(inputs, outputs), "bias": jnp.zeros(outputs)}

    def norm() -> dict[str, jax.Array]:
        return {"weight": jnp.ones(C), "bias": jnp.zeros(C)}

    shapes = {"c_attn": (C, 3 * C), "attn_proj": (C, C), "c_fc": (C, 4 * C), "mlp_proj": (4 * C, C)}
    blocks = [
        {"ln_1": norm(), "ln_2": norm(), **{name: linear(*shape) for name, shape in shapes.items()}}
        for _ in range(config.n_layer)
    ]
    return {"wte": matrix(config.vocab_size, C), "wpe": matrix(config.block_size, C), "h": blocks, "ln_f": norm()}


def loss(p: dict[str, Any], ids: jax.Array, targets: jax.Array, n_head: int) -> jax.Array:
    B, T = ids.shape
    x = p["wte"][ids] + p["wpe"][:T]
    for block in p["h"]:
        qkv = linear(layer_norm(x, block["ln_1"]), block["c_attn"])
        q, k, v = (part.reshape(B, T, n_head, -1) for part in jnp.split(qkv, 3, axis=-1))
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(out.reshape(B, T, -1), block["attn_proj"])
        x = x + linear(jax.nn.gelu(linear(layer_norm(x, block["ln_2"]), block["c_fc"])), block["mlp_proj"])
    log_probs = jax.nn.log_softmax(layer_norm(x, p["ln_f"]) @ p["wte"].T)
    return -jnp.take_along_axis(log_probs, targets[..., None], axis=-1).mean()


def linear(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    return x @ p["weight"] + p["bias"]


def layer_norm(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * p["weight"] + p["bias"]


@partial(jax.jit, static_argnames="n_head", donate_argnums=0)
def train_step(state: Any, ids: jax.Array, targets: jax.Array, n_head: int) -> tuple[Any, jax.Array]:
    """forward, backward, clip, AdamW."""
    p, m, v, t = state
    value, grads = jax.value_and_grad(loss)(p, ids, targets, n_head)
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1, 1 / (norm + 1e-6)), grads)
    t = t + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g * g, v, grads)

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        decay = 0.1 if p.ndim >= 2 else 0.0
        return p * (1 - 1e-4 * decay) - 1e-4 * m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.95**t)) + 1e-8)

    return (jax.tree.map(update, p, m, v), m, v, t), value


class Training:
    """forward, backward, clip, AdamW on one batch."""

    def __init__(self, preset: str, batch: int, time: int):
        config = model_config(preset)
        self.n_head = config.n_head
        self.ids, self.targets = jnp.asarray(token_ids(config, 2, batch, time))
        p = parameters(config)
        self.state = p, jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p), jnp.zeros(())

    def step(self) -> float:
        self.state, value = train_step(self.state, self.ids, self.targets, self.n_head)
        return float(value)


JOBS = {"train": Training}
