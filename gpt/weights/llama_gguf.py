"""Llama, Qwen2 and Qwen3 as llama.cpp stores them: load a GGUF file as our model.

The file has the same tensors as a Hugging Face folder, with shorter names and mostly quantized
(`gpt.weights.gguf_file`). One difference is easy to miss, because all shapes fit. Rotary positions in llama.cpp rotate
the pairs (2i, 2i + 1) of a head; Hugging Face and we rotate (i, i + D/2). So the rows of a Llama's query and key
matrices were reordered when the file was written, and we undo that here. (The rows of Qwen were not reordered.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigrad import nn
from minigrad.backend import Array

from ..files import integer_setting, number_setting, shortened
from ..model.config import GPTConfig, LlamaConfig, RopeScaling
from ..model.positions import slowed
from .gguf_file import KINDS, GGUFError, GGUFFile, dequantize
from .llama_huggingface import MODEL_TYPES, model_type_of, rows
from .safetensors_file import Entry
from .tensor_table import Row, fill

M = TypeVar("M", bound=nn.Module)

ARCHITECTURE = "llama"
ARCHITECTURES = (ARCHITECTURE, "qwen2", "qwen3")
HEAD_THERE = "output.weight"  # absent where it is tied
ROPE_FREQS = "rope_freqs.weight"  # by what each pair of the rotary positions is slowed down, in Llama 3.1 and later
# fmt: off
# The parts of our names, and what they are called there.
NAMES = {
    "model.embed_tokens": "token_embd",  "self_attn.q_proj": "attn_q",       "mlp.gate_proj": "ffn_gate",
    "model.layers": "blk",               "self_attn.k_proj": "attn_k",       "mlp.up_proj": "ffn_up",
    "model.norm": "output_norm",         "self_attn.v_proj": "attn_v",       "mlp.down_proj": "ffn_down",
    "lm_head": "output",                 "self_attn.o_proj": "attn_output",  "self_attn.q_norm": "attn_q_norm",
    "input_layernorm": "attn_norm",      "post_attention_layernorm": "ffn_norm", "self_attn.k_norm": "attn_k_norm",
}
# Settings that change nothing for us, or that are looked at below. Any other might make another model of it.
KNOWN = {
    "block_count",           "attention.head_count",               "rope.freq_base",
    "context_length",        "attention.head_count_kv",            "rope.dimension_count",
    "embedding_length",      "attention.key_length",               "rope.scaling.type",
    "feed_forward_length",   "attention.value_length",             "rope.scaling.factor",
    "vocab_size",            "attention.layer_norm_rms_epsilon",   "expert_count",
    "tensor_data_layout",                                          "expert_used_count",
}
# fmt: on


def name_there(name: str) -> str:
    """The name of one of our parameters in a GGUF file.

    >>> name_there("model.layers.3.mlp.up_proj.weight")
    'blk.3.ffn_up.weight'
    """
    for ours, theirs in NAMES.items():
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


def heads_permuted(name: str, config: LlamaConfig | GPTConfig) -> int:
    """The number of heads whose rows are reordered in the tensor with this name in the file; 0 for most tensors."""
    heads = {"attn_q": config.n_head, "attn_k": config.n_kv_head}.get(name.split(".")[-2], 0)
    return heads if heads and isinstance(config, LlamaConfig) and model_type_of(config) == ARCHITECTURE else 0


# --- settings ---------------------------------------------------------------------------------------------------------


def config_from_gguf(metadata: Mapping[str, Any], where: str = "the GGUF file", tied: bool = True) -> LlamaConfig:
    """Our configuration from the metadata of a GGUF file. `where` names the file in errors. tied: whether the file has
    no tensor HEAD_THERE.

    Raises GGUFError, naming the setting, for another architecture or an unsupported setting.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        given, known = shortened(architecture), ", ".join(ARCHITECTURES)
        raise GGUFError(f"{where} holds a model of the architecture {given}; known are {known}")
    prefix = f"{architecture}."
    values = {name: value for name, value in metadata.items() if name.startswith(prefix)}
    try:
        _check_followed(values, prefix)
        config = _config(values, metadata.get("tokenizer.ggml.tokens"), prefix, where, tied)
        for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
            if values.get(prefix + name, config.head_size) != config.head_size:
                given = shortened(values[prefix + name])
                raise ValueError(f"{prefix}{name} is {given}, but a head has {config.head_size} numbers")
    except ValueError as error:
        raise GGUFError(f"{where}: {str(error).removeprefix(where + ': ')}") from None
    return config


def settings(config: LlamaConfig) -> dict[str, Any]:
    """The settings of the model for a GGUF file, the inverse of `config_from_gguf`. Raises ValueError for a model that
    the format cannot describe.
    """
    numbers: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.block_size,
        "block_count": config.n_layer,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_kv_head,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.n_inner,
        "rope.freq_base": float(config.rope_theta),
        "rope.dimension_count": config.head_size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_epsilon),
    }
    if config.head_size * config.n_head != config.n_embd:
        numbers |= {"attention.key_length": config.head_size, "attention.value_length": config.head_size}
    if config.rope_scaling is not None:
        if config.rope_scaling.original_context is not None:
            raise ValueError("rotary positions that are slowed down as in Llama 3.1 are not written to GGUF files here")
        numbers |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config.rope_scaling.factor)}
    return {f"{model_type_of(config)}.{name}": number for name, number in numbers.items()}


def config_of(file: GGUFFile) -> LlamaConfig:
    """The configuration of the Llama in a GGUF file. Raises what `config_from_gguf` raises."""
    config = config_from_gguf(file.metadata, str(file.path), tied=HEAD_THERE not in file.tensors)
    if ROPE_FREQS not in file.tensors:
        return config
    # The file has the result of Llama 3.1's formula. Its numbers are those of all models so far, but for the factor.
    slower = dequantize(file.tensors[ROPE_FREQS]).reshape(-1)
    speeds = config.rope_theta ** (-np.arange(0, config.head_size, 2) / config.head_size)
    try:
        scaling = RopeScaling(round(float(slower.max()), 3), 1.0, 4.0, 8192)
        if config.rope_scaling or not np.allclose(speeds / slowed(speeds, scaling), slower, rtol=1e-4, atol=0):
            raise ValueError("not Llama 3.1's")
    except ValueError:
        raise GGUFError(f"{file.path}: {ROPE_FREQS} is not the scaling of Llama 3.1, and no other is known") from None
    return dataclasses.replace(config, rope_scaling=scaling)


def _config(values: dict[str, Any], tokens: Any, prefix: str, where: str, tied: bool) -> LlamaConfig:
    def integer(name: str, default: int = 0) -> int:
        return integer_setting(values, prefix + name, default, where)

    def number(name: str, default: float) -> float:
        return _float32(number_setting(values, prefix + name, default, where))

    n_head, n_embd = integer("attention.head_count"), integer("embedding_length")
    has_size = f"{prefix}attention.key_length" in values
    is_linear = values.get(f"{prefix}rope.scaling.type") == "linear"
    return LlamaConfig(
        vocab_size=integer("vocab_size", len(tokens) if isinstance(tokens, list) else 0),
        block_size=integer("context_length"),
        n_layer=integer("block_count"),
        n_head=n_head,
        n_kv_head=integer("attention.head_count_kv", n_head),
        n_embd=n_embd,
        n_inner=integer("feed_forward_length"),
        rope_theta=number("rope.freq_base", 10000.0),
        rms_norm_epsilon=number("attention.layer_norm_rms_epsilon", 1e-5),
        tied=tied,
        head_size=integer("attention.key_length") if has_size else None,  # type: ignore[arg-type]
        rope_scaling=RopeScaling(number("rope.scaling.factor", 0.0)) if is_linear else None,
        **MODEL_TYPES[prefix[:-1]],
    )


def _float32(value: float) -> float:
    """The shortest decimal number with this float32 value, such as 1e-5. The file stores float32.

    >>> _float32(9.999999747378752e-06)
    1e-05
    """
    return float(str(np.float32(value)))


def _check_followed(values: dict[str, Any], prefix: str) -> None:
    """Raise ValueError for a setting that would change what the model computes."""
    if f"{prefix}attention.layer_norm_rms_epsilon" not in values:
        name = f"{prefix}attention.layer_norm_rms_epsilon"
        raise ValueError(f"{name} is missing; only norms by RMSNorm are supported here")
    scaling = values.get(f"{prefix}rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        given = shortened(scaling)
        raise ValueError(f"{prefix}rope.scaling.type is {given}; only none and linear are supported here")
    if values.get(f"{prefix}expert_count", 0) != 0:
        given = shortened(values[f"{prefix}expert_count"])
        raise ValueError(f"{prefix}expert_count is {given}; only 0 is supported here")
    if unknown := sorted(name for name in values if name.removeprefix(prefix) not in KNOWN):
        name = shortened(unknown[0])
        raise ValueError(f"the setting {name} is not known here, and may change what the model computes")


# --- weights ----------------------------------------------------------------------------------------------------------


def gguf_rows(config: LlamaConfig) -> Iterator[Row]:
    """The table of a Llama's tensors and their names in the file."""
    return (row._replace(theirs=name_there(row.ours)) for row in rows(config))


class GGUFWeights:
    """The tensors of a GGUF file as a `tensor_table.Source`, read as float32 with their rows in our order."""

    described_in = "its own metadata"
    kinds: tuple[str, ...] = KINDS

    def __init__(self, file: GGUFFile, config: LlamaConfig | GPTConfig):
        self.place = file.path
        self.entries = {
            name: Entry(tensor.kind, tensor.shape, 0, 0) for name, tensor in file.tensors.items() if name != ROPE_FREQS
        }
        self._file, self._config = file, config

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        array = dequantize(self._file.tensors[name], out)
        n_head = heads_permuted(name, self._config)
        return unpermute(array, n_head) if n_head else array

    def path(self, name: str) -> Path:
        return self.place


def load(file: GGUFFile, build: Callable[[LlamaConfig], M]) -> M:
    """Load the Llama in a GGUF file, in float32 and in evaluation mode. build: makes a model from a configuration.

    Raises GGUFError for a file with another model, and ValueError, naming the tensor, if it is missing, unexpected, of
    a wrong shape, not finite, or of an unsupported kind.
    """
    config = config_of(file)
    return fill(lambda: build(config), GGUFWeights(file, config), gguf_rows(config)).eval()
