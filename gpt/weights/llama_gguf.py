"""Llama, Qwen2 and Qwen3 as llama.cpp stores them: load a GGUF file as our model.

The file has the same tensors as a Hugging Face folder, with shorter names and mostly quantized
(`gpt.weights.gguf_file`). One difference is easy to miss, because all shapes fit. Rotary positions in llama.cpp rotate
the pairs (2i, 2i + 1) of a head; Hugging Face and we rotate (i, i + D/2). So the rows of a Llama's query and key
matrices were reordered when the file was written, and we undo that here. (The rows of Qwen were not reordered.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minigrad.backend import Array

from ..file_checks import check_known, check_settings, number_setting
from ..files import errors_at, shortened
from ..model_config import LlamaConfig, RopeScaling, Settings
from .gguf_file import KINDS, GGUFError, GGUFFile, dequantize
from .llama_huggingface import MODEL_TYPES, model_type_of, rows
from .safetensors_file import Entry
from .tensor_table import Row, Source, pairs_of

ARCHITECTURE = "llama"
ARCHITECTURES = (ARCHITECTURE, "qwen2", "qwen3")
HEAD_THERE = "output.weight"  # absent where it is tied
ROPE_FREQS = "rope_freqs.weight"  # by what each pair of the rotary positions is slowed down, in Llama 3.1 and later
# The parts of our names, and what they are called there.
NAMES = pairs_of("""
model.embed_tokens       token_embd
model.layers             blk
input_layernorm          attn_norm
self_attn.q_proj         attn_q
self_attn.k_proj         attn_k
self_attn.v_proj         attn_v
self_attn.o_proj         attn_output
self_attn.q_norm         attn_q_norm
self_attn.k_norm         attn_k_norm
post_attention_layernorm ffn_norm
mlp.gate_proj            ffn_gate
mlp.up_proj              ffn_up
mlp.down_proj            ffn_down
model.norm               output_norm
lm_head                  output
""")
# The settings there, and ours.
SIZES = pairs_of("""
vocab_size              vocab_size
attention.head_count    n_head
embedding_length        n_embd
context_length          block_size
attention.head_count_kv n_kv_head
feed_forward_length     n_inner
block_count             n_layer
""")
NUMBERS = {"rope.freq_base": "rope_theta", "attention.layer_norm_rms_epsilon": "rms_norm_epsilon"}
HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
# Settings that are followed with these values only.
FIXED = {"rope.scaling.type": ("none", "linear"), "expert_count": (0,)}
# Any other setting might make another model of it.
KNOWN = {*SIZES, *NUMBERS, *HEAD_SIZES, *FIXED, "rope.scaling.factor", "expert_used_count", "tensor_data_layout"}
LLAMA3 = (1.0, 4.0, 8192)  # the factors and the context of Llama 3.1's scaling, which all models so far share


def name_there(name: str, names: Mapping[str, str] = NAMES) -> str:
    """The name of one of our parameters in a GGUF file.

    >>> name_there("model.layers.3.mlp.up_proj.weight")
    'blk.3.ffn_up.weight'
    """
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def unpermute(array: Array, n_head: int) -> Array:
    """The rows of a query or key matrix in our order: rows 0, 2, 4, ... of each head, then 1, 3, 5, ...

    It accepts any array with one entry per row (rows, ...), such as codes or scales. n_head: of queries, or of keys.

    >>> unpermute(np.arange(8), n_head=2)
    array([0, 2, 1, 3, 4, 6, 5, 7])
    """
    heads = array.reshape(n_head, -1, 2, *array.shape[1:])  # (heads, D/2, 2, ...)
    return heads.swapaxes(1, 2).reshape(array.shape)


def permute(array: Array, n_head: int) -> Array:
    """The inverse of `unpermute`: rows in llama.cpp's order.

    >>> permute(np.arange(8), n_head=2)
    array([0, 2, 1, 3, 4, 6, 5, 7])
    """
    heads = array.reshape(n_head, 2, -1, *array.shape[1:])  # (heads, 2, D/2, ...)
    return heads.swapaxes(1, 2).reshape(array.shape)


def heads_permuted(name: str, config: Settings) -> int:
    """The number of heads whose rows are reordered in the tensor with this name in the file; 0 for most tensors."""
    heads = {"attn_q": config.n_head, "attn_k": config.n_kv_head}.get(name.split(".")[-2], 0)
    return heads if heads and isinstance(config, LlamaConfig) and model_type_of(config) == ARCHITECTURE else 0


# --- settings ---------------------------------------------------------------------------------------------------------


def config_from_gguf(metadata: Mapping[str, Any], tied: bool = True) -> LlamaConfig:
    """Our configuration from the metadata of a GGUF file. tied: whether the file has no tensor HEAD_THERE.

    Raises ValueError, naming the setting, for another architecture or an unsupported setting.
    """
    check_settings(metadata, {"general.architecture": ARCHITECTURES})
    architecture = metadata.get("general.architecture", ARCHITECTURE)
    prefix = f"{architecture}."
    values = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    check_known(values, KNOWN)
    check_settings(metadata, {prefix + name: supported for name, supported in FIXED.items()})
    tokens = metadata.get("tokenizer.ggml.tokens")
    defaults = {
        "vocab_size": len(tokens) if isinstance(tokens, list) else 0,
        "attention.head_count_kv": values.get("attention.head_count", 0),
        "rope.freq_base": 10000.0,
    }
    values = {prefix + name: value for name, value in {**defaults, **values}.items()}
    settings: dict[str, Any] = {ours: number_setting(values, prefix + name, 0, int) for name, ours in SIZES.items()}
    settings |= {ours: float32(number_setting(values, prefix + name, math.nan)) for name, ours in NUMBERS.items()}
    if f"{prefix}attention.key_length" in values:
        settings["head_size"] = number_setting(values, f"{prefix}attention.key_length", 0, int)
    if values.get(f"{prefix}rope.scaling.type") == "linear":
        settings["rope_scaling"] = RopeScaling(float32(number_setting(values, f"{prefix}rope.scaling.factor", 0.0)))
    config = LlamaConfig(**settings | MODEL_TYPES[architecture], tied=tied)
    for name in HEAD_SIZES:
        if (given := values.get(prefix + name, config.head_size)) != config.head_size:
            raise ValueError(f"{prefix}{name} is {shortened(given)}, but a head has {config.head_size} numbers")
    return config


def float32(value: float) -> float:
    """The shortest decimal number with this float32 value, such as 1e-5. The file stores float32.

    >>> float32(9.999999747378752e-06)
    1e-05
    """
    return float(str(np.float32(value)))


def settings(config: LlamaConfig) -> dict[str, Any]:
    """The settings of the model for a GGUF file, the inverse of `config_from_gguf`. Raises ValueError for a model that
    the format cannot describe.
    """
    numbers: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    numbers |= {theirs: float(getattr(config, ours)) for theirs, ours in NUMBERS.items()}
    is_usual = config.head_size * config.n_head == config.n_embd
    numbers |= dict.fromkeys(HEAD_SIZES[2:] if is_usual else HEAD_SIZES, config.head_size)
    scaling = config.rope_scaling
    if scaling is not None and scaling.original_context is None:
        numbers |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    elif scaling is not None and scaling != RopeScaling(round(float(slower(config).max()), 3), *LLAMA3):
        raise ValueError("of scaled rotary positions, GGUF files get only linear ones and those of Llama 3.1")
    return {f"{model_type_of(config)}.{name}": number for name, number in numbers.items()}


def slower(config: LlamaConfig) -> np.ndarray:
    """By what each pair of the rotary positions is slowed down: (D/2), in float32."""
    speeds = config.rope_theta ** (-np.arange(0, config.head_size, 2) / config.head_size)
    return (speeds / (config.rope_scaling or RopeScaling(1.0)).slowed(speeds)).astype(np.float32)


def config_of(file: GGUFFile) -> LlamaConfig:
    """The configuration of the Llama in a GGUF file. Raises GGUFError, naming the file, for an unsupported setting."""
    with errors_at(str(file.path), GGUFError):
        config = config_from_gguf(file.metadata, tied=HEAD_THERE not in file.tensors)
    if ROPE_FREQS not in file.tensors:
        return config
    stored = dequantize(file.tensors[ROPE_FREQS]).reshape(-1)  # the result of Llama 3.1's formula
    with contextlib.suppress(ValueError):  # such as another number of pairs
        found = dataclasses.replace(config, rope_scaling=RopeScaling(round(float(stored.max()), 3), *LLAMA3))
        if config.rope_scaling is None and np.allclose(slower(found), stored, rtol=1e-4, atol=0):
            return found
    raise GGUFError(f"{file.path}: {ROPE_FREQS} is not the scaling of Llama 3.1, and no other is known")


# --- weights ----------------------------------------------------------------------------------------------------------


def gguf_rows(config: LlamaConfig) -> Iterator[Row]:
    """The table of a Llama's tensors and their names in the file."""
    return (row._replace(theirs=name_there(row.ours)) for row in rows(config))


def weights_of(file: GGUFFile, config: Settings) -> Source:
    """The tensors of a GGUF file, read as float32 with their rows in our order."""
    tensors = {name: tensor for name, tensor in file.tensors.items() if name != ROPE_FREQS}

    def read(name: str, rows: slice) -> np.ndarray:
        tensor = tensors[name]
        n_head = heads_permuted(name, config)
        if not n_head:
            return dequantize(tensor._replace(raw=tensor.raw[rows]))
        places = unpermute(np.arange(tensor.shape[0]), n_head)[rows]
        first = places.min()
        return dequantize(tensor._replace(raw=tensor.raw[first : places.max() + 1][places - first]))

    entries = {name: Entry(tensor.kind, tensor.shape, 0, 0) for name, tensor in tensors.items()}
    return Source(file.path, "its own metadata", KINDS, entries, read, lambda name: file.path)
