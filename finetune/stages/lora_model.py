"""The model of a fine-tuning run: the base model, what is trained of it, and what a checkpoint holds.

A run of the method "full" stores the whole model. A run of adapters stores only what is trained, and the SHA-256 of the
frozen base weights: to continue the run, or to use its model, the base model must still be in its place.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from gpt import Tokenizer
from gpt.model.language_model import LanguageModel
from gpt.settings import Checked, nested, setting
from gpt.training.checkpoint import ModelFormat, Shapes
from gpt.training.loading import NotTrainableError, load_model
from gpt.training.training_config import TrainingConfig

from ..adapters.adapter_files import base_fingerprint
from ..adapters.applying import apply_lora, lora_layers
from ..adapters.lora import LoRAConfig
from ..adapters.qlora import apply_qlora
from ..data.chat_template import resize_token_embeddings
from ..quantization.packed import load_packed

METHODS = ("full", "lora", "qlora")
ADAPTER_TYPES = ("minigrad-lora", "minigrad-qlora")  # the "model_type" of runs that hold adapters: see `adapter_format`


@dataclasses.dataclass(frozen=True)
class LoRARunConfig(Checked):
    """The settings of a fine-tuning run.

    init_from: the base model. data: see lora_data.py. lora: the settings of the adapters, if there are any. Raises
    ValueError for a method that would change packed weights.
    """

    stage = "adaptation"

    init_from: str = "runs/demo"
    data: str = setting("python", "english, python (code), a text, tasks (questions), or conversations (.jsonl, .json)")
    out_dir: str = "runs/lora"
    batch_size: int = setting(12, "sequences per batch", "in [1, 65536]")
    seed: int = 1337
    training: TrainingConfig = nested(
        TrainingConfig, max_iters=300, learning_rate=1e-2, warmup_iters=20, weight_decay=0.0, eval_interval=50
    )
    method: str = setting("lora", "full trains all weights, lora adapters, qlora adapters on 4 bits", choices=METHODS)
    packed: bool = setting(False, "keep the base weights of a GGUF file (smollm2) in 4 and 8 bits")
    lora: LoRAConfig = nested(LoRAConfig, target_modules="all-linear")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.packed and self.method != "lora":
            raise ValueError(f"packed weights stay as they are: adapt them with lora, not with {self.method}")

    @property
    def beside_quantized(self) -> bool:
        """Whether the adapters are trained beside 4-bit or packed weights, which `load_model` can give as floats."""
        return self.method == "qlora" or self.packed


def base_model(config: LoRARunConfig) -> tuple[LanguageModel, Tokenizer]:
    """The base model, before it is quantized or adapted, and its tokenizer."""
    if config.packed:
        return load_packed(config.init_from)
    # "full" and "qlora" need float weights: trainable=True refuses quantized ones. LoRA can be trained beside these,
    # but not beside other adapters.
    model, tokenizer = load_model(config.init_from, trainable=config.method != "lora")
    if lora_layers(model):
        raise NotTrainableError(config.init_from)
    return model, tokenizer


def adapt(model: LanguageModel, config: LoRARunConfig, vocab_size: int) -> None:
    """Change a base model into the one to train: embedding rows for new tokens, 4 bits (qlora), adapters."""
    resize_token_embeddings(model, vocab_size)
    if config.method == "lora":  # all weights but those of the adapters are frozen
        apply_lora(model, config.lora)
    elif config.method == "qlora":
        apply_qlora(model, config.lora)


def adapter_format(config: LoRARunConfig) -> ModelFormat | None:
    """What a checkpoint stores: the whole model (None), or the trained parameters and the others' fingerprint."""
    if config.method == "full":
        return None

    def describe(model: LanguageModel) -> dict[str, Any]:
        """What config.json says: which base model must be in its place, and how many tokens it knows by now."""
        fingerprint = base_fingerprint(model, config.lora.modules_to_save)
        return {"base": config.init_from, "base_sha256": fingerprint, "vocab_size": model.config.vocab_size}

    def build(description: dict[str, Any], shapes: Shapes) -> LanguageModel:
        """The base model with new adapters, whose numbers are then read. Raises ValueError for another base model."""
        model, tokenizer = base_model(config)
        adapt(model, config, description.get("vocab_size", len(tokenizer)))
        if base_fingerprint(model, config.lora.modules_to_save) != description.get("base_sha256"):
            changed = f"the model in {config.init_from} is not the one beside which the adapters were trained"
            raise ValueError(f"{changed}: put that one back, or train new adapters")
        return model

    return ModelFormat(f"minigrad-{config.method}", describe, build, _trained)


def _trained(model: LanguageModel) -> dict[str, Any]:
    """The arrays to store: those of the adapters, and of the modules that are trained whole."""
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
