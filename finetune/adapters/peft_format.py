"""How PEFT writes down a LoRA adapter: the settings in adapter_config.json, and the names and layouts of its tensors.

    base_model.model.transformer.h.0.attn.c_attn.lora_A.weight     (r, in)
    base_model.model.transformer.h.0.attn.c_attn.lora_B.weight     (out, r)
    base_model.model.score.weight                                  a module that was trained as a whole

PEFT wraps a model twice, hence the prefix; what follows are the model's own names, here GPT-2's. In PEFT's GPT-2 the
layers of the blocks are `Conv1D`, with weights (in, out): to A and B it makes no difference, but a layer of the blocks
that was trained as a whole is transposed.

What changes the arithmetic and is not supported is refused by name: DoRA, trained biases, initializations that
change the base model, and every setting that is on and unknown here.

https://huggingface.co/docs/peft, "PEFT checkpoint format" and "LoRA".
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gpt.files import errors_at, shortened
from gpt.settings import from_json

from .lora import LoRAConfig
from .targets import ends_with

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
CONV1D = ("c_attn", "c_proj", "c_fc")

# PEFT's names for our settings.
_SETTINGS = {
    "r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "use_rslora",
    "modules_to_save": "modules_to_save",
}  # fmt: skip
_PATTERNS: dict[str, tuple[type, ...]] = {"rank_pattern": (int,), "alpha_pattern": (int, float)}
# What changes no number: notes, the layout of a Conv1D, where adapters are (the tensors' names say it), and details of
# methods that have a switch of their own.
_HARMLESS = set(_SETTINGS) | set(_PATTERNS) | {
    "peft_type", "bias", "init_lora_weights", "target_modules", "layers_to_transform", "layers_pattern",
    "exclude_modules", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version",
    "auto_mapping", "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
_INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva")  # these leave the base model as it is


class AdapterError(ValueError):
    """An adapter that is damaged, not supported, or of another base model."""


def to_peft(
    config: LoRAConfig, rank: int, targets: tuple[str, ...], base_name: str, task: str, conv1d: bool = True
) -> dict[str, Any]:
    """The content of adapter_config.json. `rank` may be above config.r (see adapter_files.py): alpha grows with it.
    conv1d: are the weights beside the adapters (in, out) there, as in GPT-2?
    """
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base_name or None,
        "r": rank,
        "lora_alpha": peft_alpha(config, rank),
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "target_modules": list(targets),
        "modules_to_save": list(config.modules_to_save) or None,
        "fan_in_fan_out": conv1d,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def peft_alpha(config: LoRAConfig, rank: int) -> float:
    """The alpha with which adapters of this rank are scaled as `config` says; a whole number where it is one."""
    alpha = config.scaling * (rank**0.5 if config.use_rslora else rank)
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha


def from_peft(settings: dict[str, Any], path: str) -> LoRAConfig:
    """The settings in an adapter_config.json, but for the target modules. Raises AdapterError."""
    if settings.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {shortened(settings.get('peft_type'))}; only 'LORA' is supported")
    if settings.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias is {shortened(settings['bias'])}; only 'none' is supported")
    rule = settings.get("init_lora_weights")
    if not isinstance(rule, str | bool | None) or rule not in _INITIALIZATIONS:
        changes = f"init_lora_weights {shortened(rule)} changes the base model"
        raise AdapterError(f"{path}: {changes}, which is not supported")
    for name, value in settings.items():
        if value and name not in _HARMLESS:
            raise AdapterError(f"{path}: {name[:50]} is {shortened(value)}, which is not supported")
    given = {ours: value for theirs, ours in _SETTINGS.items() if (value := settings.get(theirs)) is not None}
    for name, types in _PATTERNS.items():
        given[name] = pattern = settings.get(name) or {}
        # In PEFT the names may be regular expressions; a stranger's are not run here.
        if not isinstance(pattern, dict) or not all(
            re.fullmatch(r"\w+(\.\w+)*", layer) and type(value) in types and 0 < value < 2**31
            for layer, value in pattern.items()
        ):
            fits = "an object with plain names of layers and numbers > 0"
            raise AdapterError(f"{path}: {name} must be {fits}, got {shortened(pattern)}")
    with errors_at(path, AdapterError):
        return from_json(LoRAConfig, {"alpha": 8, **given})  # PEFT's default


def as_stored(name: str, array: np.ndarray) -> np.ndarray:
    """A parameter of ours in PEFT's layout, or the reverse: the weights of Conv1D are transposed.

    >>> as_stored("transformer.h.0.mlp.c_fc.weight", np.zeros((3, 2))).shape
    (2, 3)
    """
    layer, _, attribute = name.rpartition(".")
    return array.T if attribute == "weight" and any(ends_with(layer, conv1d) for conv1d in CONV1D) else array
