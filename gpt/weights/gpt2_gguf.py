"""GPT-2 as llama.cpp stores it: the same tensors and layout as ours, with shorter names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..file_checks import check_known, number_setting
from ..files import errors_at
from ..model_config import GPTConfig
from .gguf_file import GGUFError, GGUFFile
from .gpt2_huggingface import rows
from .llama_gguf import HEAD_THERE, float32, name_there
from .tensor_table import Row, pairs_of

ARCHITECTURE = "gpt2"
# The parts of our names, and what they are called there.
NAMES = pairs_of("""
transformer.wte  token_embd
transformer.wpe  position_embd
transformer.h    blk
ln_1             attn_norm
attn.c_attn      attn_qkv
attn.c_proj      attn_output
ln_2             ffn_norm
mlp.c_fc         ffn_up
mlp.c_proj       ffn_down
transformer.ln_f output_norm
lm_head          output
""")
# The settings there, and ours.
SIZES = pairs_of("""
gpt2.context_length       block_size
gpt2.attention.head_count n_head
gpt2.block_count          n_layer
gpt2.embedding_length     n_embd
""")
EPSILON, INNER = "gpt2.attention.layer_norm_epsilon", "gpt2.feed_forward_length"


def gguf_rows(config: GPTConfig) -> Iterator[Row]:
    """The table of a GPT-2's tensors and their names in the file. Nothing is transposed."""
    return (row._replace(theirs=name_there(row.ours, NAMES), transposed=False) for row in rows(config))


def settings(config: GPTConfig) -> dict[str, Any]:
    """The settings of a model for the file. Raises ValueError for a GPT that is not a GPT-2."""
    given = config.norm, config.positions, config.activation
    if given != ("pre", "learned", "gelu_tanh"):
        raise ValueError("GGUF knows GPT-2 only, not norm {}, {} positions and {}".format(*given))
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    return {**sizes, INNER: config.n_inner, EPSILON: config.layer_norm_epsilon}


def config_of(file: GGUFFile) -> GPTConfig:
    """The configuration of the GPT-2 in a GGUF file. Raises GGUFError naming the setting that is wrong or unknown."""
    values = {name: value for name, value in file.metadata.items() if name.startswith("gpt2.")}
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    with errors_at(str(file.path), GGUFError):
        check_known(values, (*SIZES, INNER, EPSILON))
        sizes: dict[str, Any] = {ours: number_setting(values, name, 0, int) for name, ours in SIZES.items()}
        return GPTConfig(
            **sizes,
            vocab_size=len(tokens) if isinstance(tokens, list) else 0,
            layer_norm_epsilon=float32(number_setting(values, EPSILON, 1e-5)),
            n_inner=number_setting(values, INNER, 4 * sizes["n_embd"], int),
            tied=HEAD_THERE not in file.tensors,
        )
