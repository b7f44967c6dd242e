"""QLoRA: LoRA beside weights of four bits, so that fine-tuning needs little more memory than using the model.

    h = dequantize(W) x + scaling * B A x

The base model is frozen anyway, so it may as well be stored coarsely: its matrices in NF4, with scales that are
quantized, too, and its token embedding, which is the output layer, in 8 bits. The adapters stay float32, and learn
around the rounding errors. Forward and backward make floats of W where they need them, a tile at a time and never all
at once; the gradient flows through W to its input, not into it.

There is no third kind of layer: it is a `LoRALinear` around a `QuantizedLinear`. Dettmers et al. 2023, "QLoRA:
efficient finetuning of quantized LLMs", section 3. Left out: paging Adam's moments out of a memory that is full.
"""

from __future__ import annotations

import dataclasses

from gpt.model.language_model import LanguageModel

from .. import architectures
from ..quantization import QuantizationConfig, quantize
from .lora import LoRAConfig, LoRALinear, apply_lora, new_layers
from .targets import full_names, is_inside, is_linear

NF4 = QuantizationConfig("nf4", double_quant=True)


def apply_qlora(
    model: LanguageModel, config: LoRAConfig, quantization: QuantizationConfig = NF4
) -> dict[str, LoRALinear]:
    """Quantize a model in place, then put adapters beside its layers as `apply_lora` does; returns these by name.

    An embedding that is in `config.modules_to_save` stays float32, as it is trained. Raises ValueError, with the model
    as it was, where adapters have no place or a weight cannot be quantized.
    """
    new_layers(model, config)  # raises before anything is changed
    whole = full_names(model, config.modules_to_save)
    for name, module in model.named_modules():
        if is_linear(module) and is_inside(name, whole) and name != "lm_head":
            raise ValueError(f"{name} is in modules_to_save, and a quantized layer cannot be trained: adapt it instead")
    if is_inside(architectures.of(model).embedding_name, whole):
        quantization = dataclasses.replace(quantization, embedding=False)
    quantize(model, quantization)
    return apply_lora(model, config)
