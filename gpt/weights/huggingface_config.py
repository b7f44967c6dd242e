"""config.json of a Hugging Face GPT-2 folder, and our GPTConfig: the same numbers under two sets of names.

transformers knows variations of GPT-2 that we do not. A setting that would change what the model computes is refused by
name: a model that runs and is slightly wrong would be the worst of answers. What changes nothing is passed over.

Simplified: GPT-2 has three dropout probabilities, for embeddings, attention and residuals, which were equal (0.1) in
training; we have one.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from ..files import read_json
from ..model.config import GPT2_VOCAB_SIZE, GPTConfig

MODEL_TYPE = "gpt2"
CONFIG = "config.json"

# Their name, ours, and what transformers takes where config.json does not say it.
SIZES = (
    ("vocab_size", "vocab_size", GPT2_VOCAB_SIZE),
    ("n_positions", "block_size", 1024),
    ("n_layer", "n_layer", 12),
    ("n_head", "n_head", 12),
    ("n_embd", "n_embd", 768),
)
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
# Names for one formula: GELU by way of tanh (Hendrycks and Gimpel 2016). "gelu" would be another, by way of erf.
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
# What our model does, and cannot do otherwise.
FIXED = {
    "scale_attn_weights": True,  # by 1 / sqrt(D)
    "scale_attn_by_inverse_layer_idx": False,  # and not by 1 / (layer + 1)
    "add_cross_attention": False,
    "is_encoder_decoder": False,
}


def read_config(folder: str | os.PathLike[str], *model_types: str) -> dict[str, Any]:
    """What config.json in `folder` says of a model of one of these types (a GPT-2, where none is given).

    Raises FileNotFoundError; ValueError if it is damaged or of another model.
    """
    known = model_types or (MODEL_TYPE,)
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder, as a model of the type {' or '.join(known)} is")
    if (folder / "adapter_config.json").exists() and not path.exists():
        raise ValueError(f"{folder} holds an adapter (adapter_config.json), for a base model that comes first")
    if not path.is_file():
        raise FileNotFoundError(f"there is no model in {folder}: {CONFIG} is missing")
    values = read_json(path)
    kind = values.get("model_type", MODEL_TYPE)  # old folders do not say it
    if kind not in known:
        raise ValueError(f"{path} describes a model of the type {short(kind)}, not {' or '.join(map(repr, known))}")
    if values.get("quantization_config") is not None:
        raise ValueError(f"{path} describes quantized weights (quantization_config), which are no plain {kind}")
    return values


def to_gpt_config(values: dict[str, Any], where: str = CONFIG) -> GPTConfig:
    """Our configuration, from what `read_config` returns; `where` stands in errors.

    Raises ValueError, naming the setting, for one that is damaged or that our model cannot follow. Warns where the
    three dropouts differ, and takes the largest.
    """
    sizes: dict[str, Any] = {ours: size(values, theirs, default, where) for theirs, ours, default in SIZES}
    _check_followed(values, 4 * sizes["n_embd"], where)
    dropouts = {name: number(values, name, 0.1, where) for name in DROPOUTS}
    dropout = max(dropouts.values())
    if len(set(dropouts.values())) > 1:
        given = ", ".join(f"{name} {value}" for name, value in dropouts.items())
        warnings.warn(f"{where}: {given}: our model has one dropout, which is now {dropout}", stacklevel=2)
    epsilon = number(values, "layer_norm_epsilon", 1e-5, where)
    try:
        return GPTConfig(**sizes, dropout=dropout, layer_norm_epsilon=epsilon)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_followed(values: dict[str, Any], inner: int, where: str) -> None:
    """Raise ValueError for a setting that would make another model of it."""
    check_fixed(values, FIXED, where)
    activation = values.get("activation_function", TANH_GELU[0])
    if activation not in TANH_GELU:
        supported = ", ".join(TANH_GELU)
        raise ValueError(f"{where}: activation_function is {short(activation)}; only {supported} are supported here")
    if values.get("n_inner") not in (None, inner):
        raise ValueError(f"{where}: n_inner is {short(values['n_inner'])}; only 4 n_embd = {inner} is supported here")


def check_fixed(values: dict[str, Any], fixed: dict[str, bool], where: str) -> None:
    """Raise ValueError, naming the setting, unless each is as our model has it, or is not given."""
    for name, expected in fixed.items():
        if values.get(name, expected) is not expected:
            raise ValueError(f"{where}: {name} is {short(values[name])}; only {expected} is supported here")


def size(values: dict[str, Any], name: str, default: int, where: str) -> int:
    """The setting `name`, a number of things. Raises ValueError."""
    value = values.get(name, default)
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(f"{where}: {name} must be an integer >= 1 (and below 2**31), got {short(value)}")
    return value


def number(values: dict[str, Any], name: str, default: float, where: str) -> float:
    """The setting `name`, a number. Raises ValueError."""
    value = values.get(name, default)
    if type(value) not in (int, float) or not abs(value) < 2**31:
        raise ValueError(f"{where}: {name} must be a number, got {short(value)}")
    return value


def short(value: Any) -> str:
    """A value from a file, for an error: not too long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def from_gpt_config(
    config: GPTConfig, architecture: str = "GPT2LMHeadModel", end: int | None = None, **more: Any
) -> dict[str, Any]:
    """What config.json says of our model. `end` is the id of the token that begins and ends a text.

    Raises ValueError for a model that is no GPT-2.
    """
    if (config.norm, config.positions) != ("pre", "learned"):
        raise ValueError(
            f"GPT-2 has pre-norm and learned positions; a model with norm {config.norm!r} and positions "
            f"{config.positions!r} cannot be saved as one"
        )
    return {
        "model_type": MODEL_TYPE,
        "architectures": [architecture],
        **{theirs: getattr(config, ours) for theirs, ours, _ in SIZES},
        "n_ctx": config.block_size,
        "n_inner": None,
        "activation_function": TANH_GELU[0],
        "layer_norm_epsilon": config.layer_norm_epsilon,
        **dict.fromkeys(DROPOUTS, config.dropout),
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
        **more,
    }
