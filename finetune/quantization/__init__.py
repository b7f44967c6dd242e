"""Quantization: a model's weights in 8 or 4 bits.

Read in this order: array.py (what a quantized matrix is), rounding.py (absmax and zero-point), nf4.py and scales.py
(QLoRA's), outliers.py (why inputs are harder), layers.py (computing with it), calibration.py, gptq.py, awq.py (looking
at the inputs), convert.py (a whole model), folder.py (saving it). blocks.py and packed.py use the blocks of GGUF files.
"""

from .array import QuantizedArray
from .awq import search_scales
from .blocks import BlockArray
from .config import QuantizationConfig
from .convert import LayerReport, QuantizationReport, memory, quantize
from .gptq import output_error
from .layers import QuantizedEmbedding, QuantizedLinear
from .nf4 import nf4_levels
from .outliers import int8_product, outlier_columns
from .rounding import absmax, zero_point

__all__ = [
    "BlockArray",
    "LayerReport",
    "QuantizationConfig",
    "QuantizationReport",
    "QuantizedArray",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "absmax",
    "int8_product",
    "memory",
    "nf4_levels",
    "outlier_columns",
    "output_error",
    "quantize",
    "search_scales",
    "zero_point",
]
