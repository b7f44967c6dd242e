"""Llama as llama.cpp keeps it: a GGUF file becomes our model.

The same tensors as in a Hugging Face folder, under shorter names, and mostly quantized (`gpt.weights.gguf_file`). One
point would go unnoticed, as every shape fits: llama.cpp turns neighbours (2i, 2i + 1) of a head by its rotary
positions, Hugging Face and we turn (i, i + D/2). The rows of the query and key matrices were put in the other order
when the file was made; here they are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigrad import nn
from minigrad.backend import Array

from ..files import integer_setting, number_setting, shortened
from ..model.config import GPTConfig, LlamaConfig
from .gguf_file import KINDS, GGUFError, GGUFFile, dequantize
from .llama_huggingface import rows
from .safetensors_file import Entry
from .tensor_table import Row, fill

M = TypeVar("M", bound=nn.Module)

ARCHITECTURE = "llama"
HEAD_THERE = "output.weight"  # absent where it is tied
# fmt: off
# The parts of our names, and what they are called there.
NAMES = {
    "model.embed_tokens": "token_embd",  "self_attn.q_proj": "attn_q",       "mlp.gate_proj": "ffn_gate",
    "model.layers": "blk",               "self_attn.k_proj": "attn_k",       "mlp.up_proj": "ffn_up",
    "model.norm": "output_norm",         "self_attn.v_proj": "attn_v",       "mlp.down_proj": "ffn_down",
    "lm_head": "output",                 "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",      "post_attention_layernorm": "ffn_norm",
}
# Settings that change nothing for us, or that are looked at below. Any other might make another model of it.
KNOWN = {
    "llama.block_count",           "llama.attention.head_count",               "llama.rope.freq_base",
    "llama.context_length",        "llama.attention.head_count_kv",            "llama.rope.dimension_count",
    "llama.embedding_length",      "llama.attention.key_length",               "llama.rope.scaling.type",
    "llama.feed_forward_length",   "llama.attention.value_length",             "llama.expert_count",
    "llama.vocab_size",            "llama.attention.layer_norm_rms_epsilon",   "llama.expert_used_count",
    "llama.tensor_data_layout",
}
# fmt: on


def name_there(name: str) -> str:
    """What a parameter of ours is called in a GGUF file.

    >>> name_there("model.layers.3.mlp.up_proj.weight")
    'blk.3.ffn_up.weight'
    """
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def unpermute(array: Array, n_head: int) -> Array:
    """The rows of a query or key matrix in our order: a head's rows 0, 2, 4, ... come first, then 1, 3, 5, ...

    Any array with one entry per row (rows, ...) will do, such as codes or scales. n_head: of queries, or of keys.

    >>> unpermute(np.arange(8), n_head=2)
    array([0, 2, 1, 3, 4, 6, 5, 7])
    """
    heads = array.reshape(n_head, -1, 2, *array.shape[1:])  # (heads, D/2, 2, ...)
    return heads.swapaxes(1, 2).reshape(array.shape)


def permute(array: Array, n_head: int) -> Array:
    """The reverse of `unpermute`: rows in llama.cpp's order.

    >>> permute(np.arange(8), n_head=2)
    array([0, 2, 1, 3, 4, 6, 5, 7])
    """
    heads = array.reshape(n_head, 2, -1, *array.shape[1:])  # (heads, 2, D/2, ...)
    return heads.swapaxes(1, 2).reshape(array.shape)


def heads_permuted(name: str, config: LlamaConfig | GPTConfig) -> int:
    """How many heads' rows are in the other order in the tensor `name`, by its name there; 0 for most."""
    part = name.split(".")[-2]
    return {"attn_q": config.n_head, "attn_k": config.n_kv_head}.get(part, 0)


# --- settings ---------------------------------------------------------------------------------------------------------


def config_from_gguf(metadata: Mapping[str, Any], where: str = "the GGUF file", tied: bool = True) -> LlamaConfig:
    """Our configuration, from a GGUF file's metadata; `where` stands in errors, `tied`: does it lack HEAD_THERE?

    Raises GGUFError, naming the setting, for another architecture and for what our model cannot follow.
    """
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise GGUFError(f"{where} holds a model of the architecture {shortened(architecture)}; only llama is supported")
    values = {name: value for name, value in metadata.items() if name.startswith("llama.")}
    try:
        _check_followed(values)
        config = _config(values, metadata.get("tokenizer.ggml.tokens"), where, tied)
        for name in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
            if values.get(name, config.head_size) != config.head_size:
                given = shortened(values[name])
                raise ValueError(f"{name} is {given}; only the size of a head, {config.head_size}, is supported here")
    except ValueError as error:
        raise GGUFError(f"{where}: {str(error).removeprefix(where + ': ')}") from None
    return config


def settings(config: LlamaConfig) -> dict[str, Any]:
    """What a GGUF file says of the model: the reverse of `config_from_gguf`."""
    return {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.block_size,
        "llama.block_count": config.n_layer,
        "llama.attention.head_count": config.n_head,
        "llama.attention.head_count_kv": config.n_kv_head,
        "llama.embedding_length": config.n_embd,
        "llama.feed_forward_length": config.n_inner,
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.rope.dimension_count": config.head_size,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_epsilon),
    }


def config_of(file: GGUFFile) -> LlamaConfig:
    """The configuration of the Llama in a GGUF file; raises GGUFError as `config_from_gguf`."""
    if "rope_freqs.weight" in file.tensors:
        raise GGUFError(f"{file.path}: rope_freqs.weight scales rotary positions; only plain ones are supported here")
    return config_from_gguf(file.metadata, str(file.path), tied=HEAD_THERE not in file.tensors)


def _config(values: dict[str, Any], tokens: Any, where: str, tied: bool) -> LlamaConfig:
    n_head = integer_setting(values, "llama.attention.head_count", 0, where)
    return LlamaConfig(
        vocab_size=integer_setting(values, "llama.vocab_size", len(tokens) if isinstance(tokens, list) else 0, where),
        block_size=integer_setting(values, "llama.context_length", 0, where),
        n_layer=integer_setting(values, "llama.block_count", 0, where),
        n_head=n_head,
        n_kv_head=integer_setting(values, "llama.attention.head_count_kv", n_head, where),
        n_embd=integer_setting(values, "llama.embedding_length", 0, where),
        n_inner=integer_setting(values, "llama.feed_forward_length", 0, where),
        rope_theta=_float32(number_setting(values, "llama.rope.freq_base", 10000.0, where)),
        rms_norm_epsilon=_float32(number_setting(values, "llama.attention.layer_norm_rms_epsilon", 1e-5, where)),
        tied=tied,
    )


def _float32(value: float) -> float:
    """The shortest number that becomes this one as a float32, which the file has: the 1e-5 that was meant.

    >>> _float32(9.999999747378752e-06)
    1e-05
    """
    return float(str(np.float32(value)))


def _check_followed(values: dict[str, Any]) -> None:
    """Raise ValueError for a setting that would make another model of it."""
    if "llama.attention.layer_norm_rms_epsilon" not in values:
        raise ValueError("llama.attention.layer_norm_rms_epsilon is missing; only norms by RMSNorm are supported here")
    scaling = values.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        given = shortened(scaling)
        raise ValueError(f"llama.rope.scaling.type is {given}; only plain rotary positions are supported here")
    if values.get("llama.expert_count", 0) != 0:
        raise ValueError(f"llama.expert_count is {shortened(values['llama.expert_count'])}; only 0 is supported here")
    if unknown := sorted(values.keys() - KNOWN):
        name = shortened(unknown[0])
        raise ValueError(f"the setting {name} is not known here, and may change what the model computes")


# --- weights ----------------------------------------------------------------------------------------------------------


def gguf_rows(config: LlamaConfig) -> Iterator[Row]:
    """The table: each tensor of a Llama by its name there."""
    return (row._replace(theirs=name_there(row.ours)) for row in rows(config))


class GGUFWeights:
    """The tensors of a GGUF file as a `tensor_table.Source`: read as float32, with their rows in our order."""

    described_in = "its own metadata"
    kinds: tuple[str, ...] = KINDS

    def __init__(self, file: GGUFFile, config: LlamaConfig | GPTConfig):
        self.place = file.path
        self.entries = {name: Entry(tensor.kind, tensor.shape, 0, 0) for name, tensor in file.tensors.items()}
        self._file, self._config = file, config

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        array = dequantize(self._file.tensors[name], out)
        n_head = heads_permuted(name, self._config)
        return unpermute(array, n_head) if n_head else array

    def path(self, name: str) -> Path:
        return self.place


def load(file: GGUFFile, build: Callable[[LlamaConfig], M]) -> M:
    """The Llama in a GGUF file, as `build` makes one of a configuration; float32, in evaluation mode.

    Raises GGUFError for a file that holds another model, ValueError naming the tensor that is missing, surplus,
    misshapen, not finite, or of a kind that is not read here.
    """
    config = config_of(file)
    return fill(lambda: build(config), GGUFWeights(file, config), gguf_rows(config)).eval()
