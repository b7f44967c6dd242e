"""How do a model's weights fit into 8 or 4 bits?

array.py              QuantizedArray: small integers, and the scales that turn them back into numbers
rounding.py           absmax and zero-point: round to nearest; LLM.int8(): 8-bit inputs
nf4.py                QLoRA's 4-bit number and its double quantization
quantized_layers.py   QuantizedLinear and QuantizedEmbedding: compute with quantized weights
calibration.py        measure the inputs of each layer on some text
gptq.py               GPTQ: correct the columns that are not yet rounded for the error
awq.py                AWQ: scale up the weights that have large inputs
convert.py            quantize(model, config): a whole model, in place
folder.py             save and load a quantized model
blocks.py             compute with the 32-number blocks of GGUF files as they are
packed.py             load a GGUF file and keep its 4 and 8 bits
"""

from .array import QuantizedArray
from .awq import search_scales
from .blocks import BlockArray
from .convert import LayerReport, QuantizationConfig, QuantizationReport, fitting, memory, quantize
from .gptq import output_error
from .nf4 import nf4_levels
from .quantized_layers import QuantizedEmbedding, QuantizedLinear
from .rounding import absmax, int8_product, outlier_columns, zero_point

__all__ = [
    "BlockArray", "LayerReport", "QuantizationConfig", "QuantizationReport", "QuantizedArray", "QuantizedEmbedding",
    "QuantizedLinear", "absmax", "fitting", "int8_product", "memory", "nf4_levels", "outlier_columns", "output_error",
    "quantize", "search_scales", "zero_point",
]  # fmt: skip
