"""Fast twins for an NVIDIA GPU: hand-written CUDA, compiled at first use.

`minigrad.kernels.use_kernels("fast")` selects `CUDA` and `CUDA_OPTIM` for CuPy arrays. Other ops run in their textbook
form. The files, in reading order:

    launch.py           CUDA in ten lines; how a string becomes a running kernel
    gelu.py, swiglu.py  elementwise: each number separately
    rotary.py           read an array in place, by its strides
    layer_norm.py       sums over a row by the lanes of a warp; sums over rows by blocks
    cross_entropy.py    a row too long for a warp: online softmax
    embedding.py        sums in a fixed order, without atomics
    many_arrays.py      one launch for all parameters: adam.py
    products.py         matrix products by cuBLAS
    attention.py, one_query.py, dropout.py, quantized.py
"""

from __future__ import annotations

from ... import optim
from ...autograd import Function
from .adam import scale, sum_of_squares, update_all
from .attention import CudaAttention
from .cross_entropy import CudaCrossEntropy, CudaLinearCrossEntropy
from .dropout import CudaDropout
from .embedding import CudaEmbedding
from .gelu import CudaGelu, CudaLinearGelu
from .layer_norm import CudaLayerNorm, CudaRmsNorm
from .products import CudaLinear
from .rotary import CudaRotaryEmbedding
from .swiglu import CudaSwiglu

CUDA: dict[str, type[Function]] = {
    "cross_entropy": CudaCrossEntropy,
    "dropout": CudaDropout,
    "embedding": CudaEmbedding,
    "gelu": CudaGelu,
    "layer_norm": CudaLayerNorm,
    "linear": CudaLinear,
    "linear_cross_entropy": CudaLinearCrossEntropy,
    "linear_gelu": CudaLinearGelu,
    "rms_norm": CudaRmsNorm,
    "rotary_embedding": CudaRotaryEmbedding,
    "scaled_dot_product_attention": CudaAttention,
    "swiglu": CudaSwiglu,
}

CUDA_OPTIM = {optim.Adam: update_all, optim.AdamW: update_all, optim.sum_of_squares: sum_of_squares, optim.scale: scale}
