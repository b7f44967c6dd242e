"""Llama as Hugging Face keeps it, in and out: a folder with config.json and model.safetensors.

Names and layouts are ours: nothing is renamed, nothing transposed. What takes care is config.json, since transformers
knows many variations of Llama under one name. A setting that would change what the model computes is refused by name.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from minigrad import nn

from ..model.config import LlamaConfig
from ..tokenizer.tokenizer import Tokenizer
from .huggingface_config import CONFIG, check_fixed, number, read_config, short, size
from .huggingface_folder import Weights, write_folder
from .tensor_table import HEAD, Row, fill, their_tensors

M = TypeVar("M", bound=nn.Module)

MODEL_TYPE = "llama"
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
# The angles' speeds, which old versions of transformers stored beside the weights.
BUFFER = re.compile(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

# fmt: off
# Name and shape. V vocabulary, C channels, KD heads of keys and values times their size, I inner channels.
EMBEDDING = "embed_tokens.weight"
BLOCK = (  # behind "layers.0.", "layers.1.", ...
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
        return Row(name, shape, f"model.{name}", shape, False)

    yield row(EMBEDDING, table)
    for layer in range(config.n_layer):
        yield from (row(f"layers.{layer}.{name}", tuple(sizes[s] for s in shape)) for name, shape in BLOCK)
    yield row("norm.weight", (config.n_embd,))
    if not config.tied:
        yield Row(HEAD, table, HEAD, table, False)


# --- config.json ------------------------------------------------------------------------------------------------------


def to_llama_config(values: dict[str, Any], where: str = CONFIG) -> LlamaConfig:
    """Our configuration, from what `read_config` returns; `where` stands in errors.

    Raises ValueError, naming the setting, for one that is damaged or that our model cannot follow. Warns of dropout,
    which our model does not have.
    """
    sizes: dict[str, Any] = {ours: size(values, theirs, default, where) for theirs, ours, default in SIZES}
    kv_heads = {name: n for name, n in values.items() if n is not None}  # null: as many as there are heads of queries
    sizes["n_kv_head"] = size(kv_heads, "num_key_value_heads", sizes["n_head"], where)
    check_fixed(values, FIXED, where)
    activation = values.get("hidden_act", SILU[0])
    if activation not in SILU:
        raise ValueError(f"{where}: hidden_act is {short(activation)}; only {SILU[0]} is supported here")
    if values.get("head_dim") not in (None, sizes["n_embd"] / sizes["n_head"]):
        given = short(values["head_dim"])
        raise ValueError(f"{where}: head_dim is {given}; only hidden_size / num_attention_heads is supported here")
    tied = values.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        raise ValueError(f"{where}: tie_word_embeddings must be true or false, got {short(tied)}")
    if values.get("attention_dropout") is not None and (dropout := number(values, "attention_dropout", 0.0, where)):
        warnings.warn(f"{where}: attention_dropout is {dropout}; our Llama has none, and trains without", stacklevel=2)
    epsilon = number(values, "rms_norm_eps", 1e-6, where)
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
            raise ValueError(f"{where}: {name} must be an object, got {short(settings)}")
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind != "default":
            raise ValueError(f"{where}: {name} is of the type {short(kind)}; only 'default' is supported here")
        given |= settings
    for part in (given, values):
        if part.get("partial_rotary_factor", 1) != 1:
            factor = short(part["partial_rotary_factor"])
            raise ValueError(f"{where}: partial_rotary_factor is {factor}; only 1 is supported here")
    return float(number(given, "rope_theta", 10000.0, where))


def from_llama_config(
    config: LlamaConfig, architecture: str = "LlamaForCausalLM", end: int | None = None, **more: Any
) -> dict[str, Any]:
    """What config.json says of our model. `end` is the id of the token that ends a text."""
    return {
        "model_type": MODEL_TYPE,
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


# --- the folder -------------------------------------------------------------------------------------------------------


def open_weights(folder: str | os.PathLike[str]) -> Weights:
    """The folder's tensors, by Hugging Face's names without "model."."""
    return Weights(folder, prefix="model.", buffers=BUFFER)


def load(folder: str | os.PathLike[str], build: Callable[[LlamaConfig], M]) -> M:
    """The Llama in `folder`, as `build` makes one of a configuration; float32, in evaluation mode.

    Raises FileNotFoundError, or ValueError naming the file, the setting or the tensor that is missing, surplus,
    misshapen, not finite, or damaged.
    """
    config = to_llama_config(read_config(folder, MODEL_TYPE), str(Path(folder) / CONFIG))
    with open_weights(folder) as weights:
        return fill(lambda: build(config), weights, rows(config), EMBEDDING if config.tied else "").eval()


def save(model: Any, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
    """Write a Llama, and its tokenizer, as a folder that transformers loads.

    Raises ValueError for a model that is no plain Llama, such as one with adapters, FileExistsError where the folder
    holds a training run, OSError.
    """
    config = from_llama_config(model.config, end=None if tokenizer is None else tokenizer.eos_token_id)
    write_folder(folder, config, their_tensors(model, rows(model.config), "Llama"), tokenizer)
