"""GPT-2 as Hugging Face stores it: a table from the settings in config.json and the tensors to ours.

The tensors have the same names, because we chose theirs. Their layout differs in one point. OpenAI wrote GPT-2's linear
layers as convolutions of width 1 (Conv1D) and stored the weights as (in, out). The weights of our `nn.Linear` are (out,
in), so each is transposed. Checking every shape (`gpt.weights.tensor_table`) finds most mistakes, but not all:
attn.c_proj is square and also fits without the transposition.

This naive loader shows all of it. pretrained.py does the same with checks, and without a second copy in memory:

>>> import json, tempfile
>>> from pathlib import Path
>>> from safetensors.numpy import load_file
>>> from gpt import GPT
>>> conv1d = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
>>> def load_gpt2(folder):
...     settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
...     sizes = [settings[name] for name in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")]
...     state = {}
...     for name, array in load_file(folder / "model.safetensors").items():
...         ours = "transformer." + name.removeprefix("transformer.")  # OpenAI's own files leave the prefix out
...         state[ours] = array.T if name.endswith(conv1d) else array  # (in, out) -> (out, in)
...     model = GPT(GPTConfig(*sizes))
...     model.load_state_dict(state)  # raises if a name or a shape does not fit
...     return model.eval()

It computes what the real one does, on a tiny GPT-2 with random weights:

>>> with tempfile.TemporaryDirectory() as folder:
...     GPT(GPTConfig(vocab_size=100, block_size=16, n_layer=2, n_head=2, n_embd=8)).save_pretrained(folder)
...     naive, real = load_gpt2(Path(folder)), GPT.from_pretrained(folder)
>>> bool((naive([[3, 1, 4]]).data == real([[3, 1, 4]]).data).all())
True

transformers has variations of GPT-2 that we do not support. A setting that would change what the model computes is
refused by name, because a model that runs and is slightly wrong is worse than an error. Settings that change nothing
are ignored.

Simplified: GPT-2 has three dropout probabilities, for embeddings, attention and residuals, which were equal (0.1) in
training. We have one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from ..file_checks import check_settings, number_setting
from ..model_config import GPT2_VOCAB_SIZE, GPTConfig
from .tensor_table import Row, lines_of, pairs_of, rows_of

NAME = "GPT-2"

# --- tensors ----------------------------------------------------------------------------------------------------------

PREFIX = "transformer."  # before our names; theirs may have it
# Causal masks, which old versions of transformers stored beside the weights. (attn.c_attn.bias is not one of them.)
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
EMBEDDING = "wte.weight"
# A line for each tensor: its name, with h.* in each block, from h.0 on; our shape; and whether it is a Conv1D, that is,
# stored transposed. V vocabulary, T block size, C channels, I inner channels, 4C but for exceptions.
TENSORS = """
wte.weight              V,C
wpe.weight              T,C
h.*.ln_1.weight         C
h.*.ln_1.bias           C
h.*.attn.c_attn.weight  3C,C   transposed
h.*.attn.c_attn.bias    3C
h.*.attn.c_proj.weight  C,C    transposed
h.*.attn.c_proj.bias    C
h.*.ln_2.weight         C
h.*.ln_2.bias           C
h.*.mlp.c_fc.weight     I,C    transposed
h.*.mlp.c_fc.bias       I
h.*.mlp.c_proj.weight   C,I    transposed
h.*.mlp.c_proj.bias     C
ln_f.weight             C
ln_f.bias               C
"""


def rows(config: GPTConfig) -> Iterator[Row]:
    """The table, with numbers for letters, for each tensor of a GPT-2.

    >>> tiny = GPTConfig(vocab_size=100, block_size=32, n_layer=1, n_head=2, n_embd=8)
    >>> row = list(rows(tiny))[4]
    >>> row  # doctest: +NORMALIZE_WHITESPACE
    Row(theirs='h.0.attn.c_attn.weight', ours='transformer.h.0.attn.c_attn.weight', our_shape=(24, 8), transposed=True)
    >>> row.their_shape
    (8, 24)
    """
    C = config.n_embd
    sizes = {"V": config.vocab_size, "T": config.block_size, "C": C, "3C": 3 * C, "I": config.n_inner}
    table = ((name, letters, "transposed" in notes) for name, letters, notes in lines_of(TENSORS))
    return rows_of(table, sizes, PREFIX, config)


# --- config.json ------------------------------------------------------------------------------------------------------

# Their name, ours, and what transformers takes where config.json does not say it.
SIZES = (
    ("vocab_size", "vocab_size", GPT2_VOCAB_SIZE),
    ("n_positions", "block_size", 1024),
    ("n_layer", "n_layer", 12),
    ("n_head", "n_head", 12),
    ("n_embd", "n_embd", 768),
)
# Other names of these settings, which transformers knows too.
ALIASES = pairs_of("""
hidden_size             n_embd
num_attention_heads     n_head
num_hidden_layers       n_layer
max_position_embeddings n_positions
""")
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
# Their activation functions, and ours. Three names for one formula: GELU by way of tanh (Hendrycks and Gimpel 2016).
ACTIVATIONS = pairs_of("""
gelu_new          gelu_tanh
gelu_pytorch_tanh gelu_tanh
gelu_fast         gelu_tanh
gelu              gelu
relu              relu
silu              silu
swish             silu
""")
# Settings of which our model supports these values. A missing one is the first.
KNOWN = {
    "activation_function": tuple(ACTIVATIONS),
    "tie_word_embeddings": (True, False),
    "scale_attn_weights": (True,),  # by 1 / sqrt(D)
    "scale_attn_by_inverse_layer_idx": (False,),  # and not by 1 / (layer + 1)
    "is_causal": (True,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
}


def from_json(values: dict[str, Any]) -> GPTConfig:
    """Our configuration from the settings in config.json.

    Raises ValueError, naming the setting, for a setting that is damaged or not supported. If the three dropouts differ,
    warns and uses the largest.
    """
    values = {**values, **{name: values[alias] for alias, name in ALIASES.items() if alias in values}}
    sizes: dict[str, Any] = {ours: number_setting(values, theirs, default, int) for theirs, ours, default in SIZES}
    check_settings(values, KNOWN)
    if values.get("n_inner") is not None:
        sizes["n_inner"] = number_setting(values, "n_inner", 0, int)
    sizes["activation"] = ACTIVATIONS[values.get("activation_function", "gelu_new")]
    sizes["tied"] = values.get("tie_word_embeddings", True)
    dropouts = {name: number_setting(values, name, 0.1) for name in DROPOUTS}
    dropout = max(dropouts.values())
    if len(set(dropouts.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in dropouts.items())
        warnings.warn(f"{listed}: our model has one dropout, which is now {dropout}", stacklevel=3)
    return GPTConfig(**sizes, dropout=dropout, layer_norm_epsilon=number_setting(values, "layer_norm_epsilon", 1e-5))


def to_json(
    config: GPTConfig, architecture: str = "GPT2LMHeadModel", end: int | None = None, **more: Any
) -> dict[str, Any]:
    """The settings of our model for config.json. `end`: the id of the token that begins and ends a text.

    Raises ValueError for a model that is not a GPT-2.
    """
    if (config.norm, config.positions) != ("pre", "learned"):
        other = f"a model with norm {config.norm!r} and positions {config.positions!r}"
        raise ValueError(f"GPT-2 has pre-norm and learned positions; {other} cannot be saved as one")
    return {
        "model_type": "gpt2",
        "architectures": [architecture],
        **{theirs: getattr(config, ours) for theirs, ours, _ in SIZES},
        "n_ctx": config.block_size,
        "n_inner": None if config.n_inner == 4 * config.n_embd else config.n_inner,
        "activation_function": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": config.layer_norm_epsilon,
        **dict.fromkeys(DROPOUTS, config.dropout),
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": config.tied,
        **more,
    }
