"""Quantized weights on a GPU: their arrays are passed to the kernels of minigrad/kernels/cuda/quantized.py.

minigrad does not know quantizers, so it gets a weight as plain arrays. Cases that the kernels do not support (float64,
rows whose length is not a multiple of 4) are computed as on the CPU, and so is everything with textbook kernels.
"""

from __future__ import annotations

import functools

import numpy as np

from minigrad import switches
from minigrad.backend import Array, device_of, module_of, to_device
from minigrad.kernels.cuda.products import multiply
from minigrad.kernels.cuda.quantized import MOST_ROWS, BlockMatrix, QuantizedMatrix, dequantize, times_quantized

from .array import QuantizedArray
from .blocks import BlockArray
from .nf4 import DYNAMIC_LEVELS, QuantizedScales

Weight = QuantizedArray | BlockArray


def times(x: Array, weight: Weight) -> Array | None:
    """x (N, K), columns in the stored order, @ the weight, transposed: (N, R), or None if no kernel supports it."""
    matrix = _for_kernels(x, weight)
    if matrix is None:
        return None
    if len(x) <= MOST_ROWS:
        return times_quantized(x, matrix)
    return multiply(x, _floats(matrix, weight).T)


def times_transposed(x: Array, weight: Weight) -> Array | None:
    """x (N, R) @ the weight: (N, K), or None if no kernel supports it."""
    matrix = _for_kernels(x, weight)
    if matrix is None:
        return None
    return weight.reordered(multiply(x, _floats(matrix, weight)))


def _for_kernels(x: Array, weight: Weight) -> QuantizedMatrix | BlockMatrix | None:
    if module_of(x) is np or not switches.cuda_kernels() or x.dtype != np.float32 or len(x) == 0:
        return None
    matrix = _arrays_of(weight)
    return matrix if matrix.fits() else None


def _arrays_of(weight: Weight) -> QuantizedMatrix | BlockMatrix:
    if isinstance(weight, BlockArray):
        return BlockMatrix(weight.codes, weight.scales, weight.minimums, weight.zero)
    codebook = weight.codebook if weight.bits == 4 else None
    scales = weight.scales
    if not isinstance(scales, QuantizedScales):
        return QuantizedMatrix(weight.codes, scales, weight.zeros, codebook)
    double = (scales.codes, _levels(device_of(scales.codes)), scales.offset)
    return QuantizedMatrix(weight.codes, scales.absmax, weight.zeros, codebook, double)


@functools.cache
def _levels(device: str) -> Array:
    """The table of the 256 levels of quantized scales, copied to each GPU once."""
    return to_device(DYNAMIC_LEVELS, device)


def _floats(matrix: QuantizedMatrix | BlockMatrix, weight: Weight) -> Array:
    """The weight (R, K) as floats in the stored order, for this product only."""
    return dequantize(matrix) if isinstance(matrix, QuantizedMatrix) else weight.dequantize()
