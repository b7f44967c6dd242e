"""GPT-2 as llama.cpp stores it: the same tensors and layout as ours, with shorter names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from minigrad import nn

from ..files import integer_setting, number_setting
from ..model.config import GPTConfig
from .gguf_file import GGUFError, GGUFFile
from .gpt2_huggingface import rows
from .llama_gguf import HEAD_THERE, GGUFWeights
from .tensor_table import Row, fill

M = TypeVar("M", bound=nn.Module)

ARCHITECTURE = "gpt2"
# fmt: off
# The parts of our names, and what they are called there.
NAMES = {
    "transformer.wte": "token_embd",     "transformer.h": "blk",       "attn.c_attn": "attn_qkv",
    "transformer.wpe": "position_embd",  "ln_1": "attn_norm",          "attn.c_proj": "attn_output",
    "transformer.ln_f": "output_norm",   "ln_2": "ffn_norm",           "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",            "lm_head": "output",
}
# fmt: on
# The settings there, and ours.
SIZES = {
    "gpt2.context_length": "block_size",
    "gpt2.block_count": "n_layer",
    "gpt2.attention.head_count": "n_head",
    "gpt2.embedding_length": "n_embd",
}
EPSILON, INNER, VOCABULARY = "gpt2.attention.layer_norm_epsilon", "gpt2.feed_forward_length", "tokenizer.ggml.tokens"


def name_there(name: str) -> str:
    """The name of one of our parameters in a GGUF file.

    >>> name_there("transformer.h.3.attn.c_attn.bias")
    'blk.3.attn_qkv.bias'
    """
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def gguf_rows(config: GPTConfig) -> Iterator[Row]:
    """The table of a GPT-2's tensors and their names in the file. Nothing is transposed."""
    return (Row(name_there(row.ours), row.our_shape, row.ours, row.our_shape, False) for row in rows(config))


def settings(config: GPTConfig) -> dict[str, Any]:
    """The settings of a model for the file. Raises ValueError for a GPT that is not a GPT-2."""
    if config.activation != "gelu_tanh":
        raise ValueError(f"GGUF knows GPT-2 with gelu_tanh only, not with {config.activation}")
    if (config.norm, config.positions) != ("pre", "learned"):
        raise ValueError(f"GGUF knows GPT-2 only, not norm {config.norm} and {config.positions} positions")
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    return {**sizes, INNER: config.n_inner, EPSILON: config.layer_norm_epsilon}


def config_of(metadata: Mapping[str, Any], where: str, tied: bool = True) -> GPTConfig:
    """Our configuration, from a GGUF file's metadata; tied: does it lack HEAD_THERE?

    Raises GGUFError naming the setting that is wrong or unknown.
    """
    values = {name: value for name, value in metadata.items() if name.startswith("gpt2.")}
    try:
        if unknown := sorted(values.keys() - {*SIZES, INNER, EPSILON}):
            raise ValueError(f"{where}: the setting {unknown[0][:60]!r} may change what the model computes")
        sizes: dict[str, Any] = {ours: integer_setting(values, name, 0, where) for name, ours in SIZES.items()}
        tokens = metadata.get(VOCABULARY)
        epsilon = float(f"{number_setting(values, EPSILON, 1e-5, where):.7g}")  # from float32: the 1e-5 that was meant
        vocab_size = len(tokens) if isinstance(tokens, list) else 0
        inner = integer_setting(values, INNER, 4 * sizes["n_embd"], where)
        config = GPTConfig(vocab_size=vocab_size, layer_norm_epsilon=epsilon, n_inner=inner, tied=tied, **sizes)
    except ValueError as error:
        raise GGUFError(str(error)) from None
    return config


def load(file: GGUFFile, build: Callable[[GPTConfig], M]) -> M:
    """The GPT-2 in a GGUF file, as `build` makes one of a configuration; raises what `llama_gguf.load` raises."""
    config = config_of(file.metadata, str(file.path), HEAD_THERE not in file.tensors)
    return fill(lambda: build(config), GGUFWeights(file, config), gguf_rows(config), "").eval()
