"""Llama as Hugging Face stores it: which setting of config.json, and which tensor, is which of ours.

Names and layouts of the tensors are ours: nothing is transposed. What takes care is config.json, since transformers
knows many variations of Llama under one name. A setting that would change what the model computes is refused by name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from ..files import check_settings, integer_setting, number_setting, shortened
from ..model.config import LlamaConfig
from .tensor_table import HEAD, Row

NAME = "Llama"

# --- tensors ----------------------------------------------------------------------------------------------------------

PREFIX = "model."  # before our names; theirs may have it
# The angles' speeds, which old versions of transformers stored beside the weights.
BUFFERS = re.compile(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
# fmt: off
# Name and shape. V vocabulary, C channels, KD heads of keys and values times their size, I inner channels.
EMBEDDING = "embed_tokens.weight"
BLOCK = (  # after "layers.0.", "layers.1.", ...
    ("input_layernorm.weight",          ("C",)),
    ("self_attn.q_proj.weight",         ("C", "C")),
    ("self_attn.k_proj.weight",         ("KD", "C")),
    ("self_attn.v_proj.weight",         ("KD", "C")),
    ("self_attn.o_proj.weight",         ("C", "C")),
    ("post_attention_layernorm.weight", ("C",)),
    ("mlp.gate_proj.weight",            ("I", "C")),
    ("mlp.up_proj.weight",              ("I", "C")),
    ("mlp.down_proj.weight",            ("C", "I")),
)
# fmt: on


def rows(config: LlamaConfig) -> Iterator[Row]:
    """The table, with numbers for letters, for each tensor of a Llama.

    >>> tiny = LlamaConfig(vocab_size=100, n_layer=1, n_head=4, n_kv_head=2, n_embd=8, n_inner=20)
    >>> list(rows(tiny))[3]  # doctest: +NORMALIZE_WHITESPACE
    Row(theirs='layers.0.self_attn.k_proj.weight', their_shape=(4, 8),
        ours='model.layers.0.self_attn.k_proj.weight', our_shape=(4, 8), transposed=False)
    """
    sizes = {"C": config.n_embd, "KD": config.n_kv_head * config.head_size, "I": config.n_inner}
    table = (config.vocab_size, config.n_embd)

    def row(name: str, shape: tuple[int, ...]) -> Row:
        return Row(name, shape, PREFIX + name, shape, False)

    yield row(EMBEDDING, table)
    for layer in range(config.n_layer):
        yield from (row(f"layers.{layer}.{name}", tuple(sizes[s] for s in shape)) for name, shape in BLOCK)
    yield row("norm.weight", (config.n_embd,))
    if not config.tied:
        yield Row(HEAD, table, HEAD, table, False)


# --- config.json ------------------------------------------------------------------------------------------------------

# Their name, ours, and what transformers takes where config.json does not say it.
SIZES = (
    ("vocab_size", "vocab_size", 32000),
    ("max_position_embeddings", "block_size", 2048),
    ("num_hidden_layers", "n_layer", 32),
    ("num_attention_heads", "n_head", 32),
    ("hidden_size", "n_embd", 4096),
    ("intermediate_size", "n_inner", 11008),
)
SILU = ("silu", "swish")  # two names for x * sigmoid(x)
# What our model does, and cannot do otherwise.
FIXED = {
    "attention_bias": False,
    "mlp_bias": False,
    "rope_interleaved": False,  # pairs are (i, i + D/2), not (2i, 2i + 1)
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}


def from_json(values: dict[str, Any], where: str = "config.json") -> LlamaConfig:
    """Our configuration, from the settings in config.json; `where` stands in errors.

    Raises ValueError, naming the setting, for one that is damaged or that our model cannot follow. Warns of dropout,
    which our model does not have.
    """
    sizes: dict[str, Any] = {ours: integer_setting(values, theirs, default, where) for theirs, ours, default in SIZES}
    not_null = {name: value for name, value in values.items() if value is not None}  # a null means the default
    sizes["n_kv_head"] = integer_setting(not_null, "num_key_value_heads", sizes["n_head"], where)
    check_settings(values, FIXED, where)
    activation = values.get("hidden_act", SILU[0])
    if activation not in SILU:
        raise ValueError(f"{where}: hidden_act is {shortened(activation)}; only {SILU[0]} is supported here")
    if values.get("head_dim") not in (None, sizes["n_embd"] / sizes["n_head"]):
        given = shortened(values["head_dim"])
        raise ValueError(f"{where}: head_dim is {given}; only hidden_size / num_attention_heads is supported here")
    tied = values.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        raise ValueError(f"{where}: tie_word_embeddings must be true or false, got {shortened(tied)}")
    if dropout := number_setting(not_null, "attention_dropout", 0.0, where):
        warnings.warn(f"{where}: attention_dropout is {dropout}; our Llama has none, and trains without", stacklevel=2)
    epsilon = number_setting(values, "rms_norm_eps", 1e-6, where)
    theta = _rope_theta(values, where)
    try:
        return LlamaConfig(**sizes, rope_theta=theta, rms_norm_epsilon=epsilon, tied=tied)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _rope_theta(values: dict[str, Any], where: str) -> float:
    """The base of the rotary positions, wherever the version of transformers that wrote config.json put it.

    Raises ValueError for positions that are scaled, by which models are made to read longer texts than they learned on.
    """
    given = {"rope_theta": values.get("rope_theta", 10000.0)}
    for name in ("rope_scaling", "rope_parameters"):  # of versions 4 and 5
        settings = values.get(name)
        if settings is None:
            continue
        if not isinstance(settings, dict):
            raise ValueError(f"{where}: {name} must be an object, got {shortened(settings)}")
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind != "default":
            raise ValueError(f"{where}: {name} is of the type {shortened(kind)}; only 'default' is supported here")
        given |= settings
    for part in (given, values):
        if part.get("partial_rotary_factor", 1) != 1:
            factor = shortened(part["partial_rotary_factor"])
            raise ValueError(f"{where}: partial_rotary_factor is {factor}; only 1 is supported here")
    return float(number_setting(given, "rope_theta", 10000.0, where))


def to_json(
    config: LlamaConfig, architecture: str = "LlamaForCausalLM", end: int | None = None, **more: Any
) -> dict[str, Any]:
    """What config.json says of our model. `end` is the id of the token that ends a text."""
    return {
        "model_type": "llama",
        "architectures": [architecture],
        **{theirs: getattr(config, ours) for theirs, ours, _ in SIZES},
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_size,
        "hidden_act": SILU[0],
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": config.tied,
        **more,
    }
