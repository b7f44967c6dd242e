"""Llama and its relatives as Hugging Face stores them: a table from settings in config.json and tensors to ours.

The tensors have our names and layouts, and nothing is transposed. config.json needs more care, because transformers has
many variations of Llama. A setting that would change what the model computes is refused by name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from ..file_checks import check_known, check_settings, check_value, number_setting
from ..files import errors_at, shortened
from ..model_config import LlamaConfig, RopeScaling
from .tensor_table import Row, lines_of, pairs_of, rows_of

NAME = "Llama"
# The model types with this shape, and our settings in which they differ.
MODEL_TYPES: dict[str, dict[str, bool]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}

# --- tensors ----------------------------------------------------------------------------------------------------------

PREFIX = "model."  # before our names; theirs may have it
# The angles' speeds, which old versions of transformers stored beside the weights.
BUFFERS = re.compile(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
EMBEDDING = "embed_tokens.weight"
# A line for each tensor: its name, with layers.* in each block, from layers.0 on; its shape; and the setting without
# which there is no such tensor. V vocabulary, C channels, D head size, HD that times the heads of queries, KD times
# those of keys and values, I inner channels.
TENSORS = """
embed_tokens.weight                        V,C
layers.*.input_layernorm.weight            C
layers.*.self_attn.q_proj.weight           HD,C
layers.*.self_attn.k_proj.weight           KD,C
layers.*.self_attn.v_proj.weight           KD,C
layers.*.self_attn.o_proj.weight           C,HD
layers.*.post_attention_layernorm.weight   C
layers.*.mlp.gate_proj.weight              I,C
layers.*.mlp.up_proj.weight                I,C
layers.*.mlp.down_proj.weight              C,I
layers.*.self_attn.q_proj.bias             HD     qkv_bias
layers.*.self_attn.k_proj.bias             KD     qkv_bias
layers.*.self_attn.v_proj.bias             KD     qkv_bias
layers.*.self_attn.q_norm.weight           D      qk_norm
layers.*.self_attn.k_norm.weight           D      qk_norm
norm.weight                                C
"""


def rows(config: LlamaConfig) -> Iterator[Row]:
    """The table, with numbers for letters, for each tensor of a Llama. Nothing is transposed.

    >>> tiny = LlamaConfig(vocab_size=100, n_layer=1, n_head=4, n_kv_head=2, n_embd=8, n_inner=20)
    >>> list(rows(tiny))[3]  # doctest: +NORMALIZE_WHITESPACE
    Row(theirs='layers.0.self_attn.k_proj.weight', ours='model.layers.0.self_attn.k_proj.weight', our_shape=(4, 8),
        transposed=False)
    """
    V, C, D, inner = config.vocab_size, config.n_embd, config.head_size, config.n_inner
    sizes = {"V": V, "C": C, "D": D, "HD": config.n_head * D, "KD": config.n_kv_head * D, "I": inner}
    lines = lines_of(TENSORS)
    table = ((name, letters, False) for name, letters, needs in lines if all(getattr(config, need) for need in needs))
    return rows_of(table, sizes, PREFIX, config)


# --- config.json ------------------------------------------------------------------------------------------------------

# Their name, ours, and what transformers takes where the config.json of a Llama does not say it.
SIZES = (
    ("vocab_size", "vocab_size", 32000),
    ("max_position_embeddings", "block_size", 2048),
    ("num_hidden_layers", "n_layer", 32),
    ("num_attention_heads", "n_head", 32),
    ("hidden_size", "n_embd", 4096),
    ("intermediate_size", "n_inner", 11008),
)
SILU = ("silu", "swish")  # two names for x * sigmoid(x)
# Settings of which our model supports these values. A missing one is the first.
KNOWN = {
    "hidden_act": SILU,
    "tie_word_embeddings": (False, True),
    "attention_bias": (False,),  # of all four layers
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "is_causal": (True,),
    "rope_interleaved": (False,),  # pairs are (i, i + D/2), not (2i, 2i + 1)
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}


def from_json(values: dict[str, Any]) -> LlamaConfig:
    """Our configuration from the settings in config.json.

    Raises ValueError, naming the setting, for a setting that is damaged or not supported. Warns about dropout, which
    our model does not have.
    """
    model_type = values.get("model_type", "llama")
    sizes: dict[str, Any] = {  # the others have other defaults, but always say it
        ours: number_setting(values, theirs, default if model_type == "llama" else 0, int)
        for theirs, ours, default in SIZES
    }
    not_null = {name: value for name, value in values.items() if value is not None}  # a null means the default
    sizes["n_kv_head"] = number_setting(not_null, "num_key_value_heads", sizes["n_head"], int)
    if model_type == "qwen3" or "head_dim" in not_null:
        sizes["head_size"] = number_setting(values, "head_dim", 128, int)
    check_settings(values, KNOWN)
    _check_attention(values, model_type, sizes["block_size"])
    if dropout := number_setting(not_null, "attention_dropout", 0.0):
        warnings.warn(f"attention_dropout is {dropout}; our Llama has none, and trains without", stacklevel=3)
    sizes |= {"rms_norm_epsilon": number_setting(values, "rms_norm_eps", 1e-6), **_rotary_positions(values)}
    return LlamaConfig(**sizes | MODEL_TYPES[model_type], tied=values.get("tie_word_embeddings", False))


def _check_attention(values: dict[str, Any], model_type: str, block_size: int) -> None:
    """Raise ValueError if tokens attend to only some of the tokens before them, in any layer."""
    window = values.get("sliding_window", 4096 if model_type == "mistral" else None)
    if model_type in ("llama", "mistral") and window is not None and not (type(window) is int and window >= block_size):
        raise ValueError(f"sliding_window is {shortened(window)}; only null, or the whole context, is supported here")
    for kind in values.get("layer_types") or ():
        check_value("layer_types", kind, ("full_attention",))


# Settings of rotary positions: their names, and ours in RopeScaling.
SCALING = pairs_of("""
factor                           factor
low_freq_factor                  low_freq_factor
high_freq_factor                 high_freq_factor
original_max_position_embeddings original_context
""")
SCALED = {"linear": ["factor"], "llama3": list(SCALING)}  # the settings that each kind of scaling needs
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *SCALING}


def _rotary_positions(values: dict[str, Any]) -> dict[str, Any]:
    """rope_theta, the base of the rotary positions, and rope_scaling.

    Versions of transformers store them in different places. Raises ValueError for scaling other than "linear" and
    "llama3".
    """
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"  # of versions 4 and 5; 4's goes first
    settings = values.get(name) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{name} must be an object, got {shortened(settings)}")
    with errors_at(name):
        check_known(settings, _ROPE)
    given = {"rope_theta": values.get("rope_theta", 10000.0), **settings}
    for part in (given, values):
        check_settings(part, {"partial_rotary_factor": (1, 1.0)})
    kind = given.get("rope_type", given.get("type", "default"))
    check_value("rope_type", kind, ("default", *SCALED))
    wanted = SCALED.get(kind, [])
    if missing := [name for name in wanted if given.get(name) is None]:
        raise ValueError(f"rotary positions of the type {kind} need {', '.join(missing)}")
    theta = float(number_setting(given, "rope_theta", 10000.0))
    numbers: dict[str, Any] = {SCALING[name]: given[name] for name in wanted}
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**numbers) if wanted else None}


def model_type_of(config: LlamaConfig) -> str:
    """The model type with the biases and norms of a configuration. Raises ValueError if there is none."""
    found = {name: value for name in ("qkv_bias", "qk_norm") if (value := getattr(config, name))}
    for model_type, settings in MODEL_TYPES.items():
        if settings == found:
            return model_type
    raise ValueError("no model of Hugging Face has biases and norms of queries and keys like this one")


def to_json(
    config: LlamaConfig, architecture: str = "LlamaForCausalLM", end: int | None = None, **more: Any
) -> dict[str, Any]:
    """The settings of our model for config.json. `end`: the id of the token that ends a text."""
    model_type = model_type_of(config)
    if model_type == "llama" and config.n_embd % config.n_head:  # transformers refuses this shape, but not in a Mistral
        model_type = "mistral"
        more = {"sliding_window": None, **more}  # without this setting, a Mistral has a window
    scaling: dict[str, Any] | None = None
    if config.rope_scaling is not None:
        kind = "linear" if config.rope_scaling.original_context is None else "llama3"
        numbers = {theirs: getattr(config.rope_scaling, ours) for theirs, ours in SCALING.items()}
        scaling = {"rope_type": kind, **{name: value for name, value in numbers.items() if value is not None}}
    return {
        "model_type": model_type,
        "architectures": [architecture.replace("Llama", model_type.capitalize())],
        **{theirs: getattr(config, ours) for theirs, ours, _ in SIZES},
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_size,
        "hidden_act": SILU[0],
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": config.tied,
        **more,
    }
