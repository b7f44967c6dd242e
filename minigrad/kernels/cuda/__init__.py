"""What does a GPU need beyond CuPy? Hand-written CUDA, compiled at first use, and products by cuBLAS.

`minigrad.kernels.use_kernels("fast")` selects `CUDA` for CuPy arrays. Other ops run in their textbook form. There are
kernels only where plain CuPy would take far more memory or time: rows that are read once instead of five times, and
scores and logits that never exist as a whole.

None of this has run on a GPU yet. Tests run the kernels in an emulation on the CPU (tests/cuda_emulation), and compile
them for each architecture; scripts/verify_gpu.py checks all of it where there is a GPU. A kernel that cannot be
compiled or launched there gives way to the textbook form, with a warning (`launch.works`).

The files, in reading order:

    launch.py           CUDA in ten lines; how a string becomes a running kernel
    layer_norm.py       sums over a row by the lanes of a warp; sums over rows by blocks
    products.py         matrix products by cuBLAS
    cross_entropy.py    a row too long for a warp: online softmax
    attention.py        scores in tiles, computed again in backward
"""

from __future__ import annotations

from ...autograd import Function
from .attention import CudaAttention
from .cross_entropy import CudaCrossEntropy, CudaLinearCrossEntropy
from .layer_norm import CudaLayerNorm, CudaRmsNorm
from .products import CudaLinear

CUDA: dict[str, type[Function]] = {
    "cross_entropy": CudaCrossEntropy,
    "layer_norm": CudaLayerNorm,
    "linear": CudaLinear,
    "linear_cross_entropy": CudaLinearCrossEntropy,
    "rms_norm": CudaRmsNorm,
    "scaled_dot_product_attention": CudaAttention,
}
