"""QLoRA: LoRA with frozen weights in four bits. Fine-tuning then needs little more memory than using the model.

    h = dequantize(W) x + scaling * B A x

The base model is frozen anyway, so its weights can be stored coarsely: the matrices in NF4, with quantized scales, and
the token embedding, which is also the output layer, in 8 bits. The adapters stay float32 and compensate for the
rounding errors. Forward and backward dequantize W a tile at a time, never as a whole. The gradient flows through W to
the layer's input; W itself does not get one.

There is no third kind of layer: QLoRA is a `LoRALinear` around a `QuantizedLinear`. Dettmers et al. 2023, "QLoRA:
efficient finetuning of quantized LLMs", section 3. Left out: moving Adam's moments out of a GPU memory that is full.
"""

from __future__ import annotations

import dataclasses

from gpt.model.language_model import LanguageModel

from ..quantization import QuantizationConfig, fitting, quantize
from .applying import apply_lora, new_layers
from .lora import LoRAConfig, LoRALinear
from .targets import OUTPUT_LAYERS, full_names, is_inside, is_linear

NF4 = QuantizationConfig("nf4", double_quant=True)


def apply_qlora(
    model: LanguageModel, config: LoRAConfig, quantization: QuantizationConfig | None = None
) -> dict[str, LoRALinear]:
    """Quantize a model in place, then add adapters to its layers as `apply_lora` does; returns these by name.

    quantization: None for `NF4`, in groups that fit. An embedding in `config.modules_to_save` stays float32, because it
    is trained. Raises ValueError, and leaves the model as it was, if a name fits no layer or a weight cannot be
    quantized.
    """
    new_layers(model, config)  # raises before anything is changed
    quantization = quantization or fitting(NF4, model)
    whole = full_names(model, config.modules_to_save)
    for name, module in model.named_modules():
        if is_linear(module) and is_inside(name, whole) and name not in OUTPUT_LAYERS:  # output layers stay floats
            raise ValueError(f"{name} is in modules_to_save, and a quantized layer cannot be trained: adapt it instead")
    if is_inside(model.names.embedding, whole):
        quantization = dataclasses.replace(quantization, embedding=False)
    quantize(model, quantization)
    return apply_lora(model, config)
