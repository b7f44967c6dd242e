"""The stand-in's `cuda.cublas`: the one function that minigrad calls, done by NumPy on the memory behind the addresses.

Everything is taken literally: column-major matrices, leading dimensions, strides between the matrices of a batch, the
numbers that stand for types. A wrong argument gives a wrong product here as it would on a GPU.
"""

import ctypes

import numpy as np

from minigrad.precision import bfloat16

TYPES = {0: "float32", 1: "float64", 14: "bfloat16"}
COMPUTE = {68: np.float32, 77: np.float32, 70: np.float64}  # 32F, 32F_FAST_TF32, 64F
ALLOWED = {  # (A and B, C) -> compute types that cublasGemmStridedBatchedEx supports for them
    ("float32", "float32"): {68, 77},
    ("float64", "float64"): {70},
    ("bfloat16", "float32"): {68},
    ("bfloat16", "bfloat16"): {68},
}
calls = []  # (m, n, k, batch, compute type) of each product so far; a test may clear it and look


# fmt: off
def gemmStridedBatchedEx(  # noqa: N802
    handle, transa, transb, m, n, k, alpha,
    a, a_type, lda, a_stride, b, b_type, ldb, b_stride, beta,
    c, c_type, ldc, c_stride, batch, compute, algorithm,
):
    # fmt: on
    """C = alpha op(A) op(B) + beta C, for each matrix of the batch, all column-major."""
    whole = (transa, transb, m, n, k, lda, a_stride, ldb, b_stride, ldc, c_stride, batch, compute, algorithm)
    if handle != HANDLE or not all(type(number) is int for number in (*whole, a, b, c, alpha, beta)):
        raise TypeError("cuBLAS takes its own handle and Python integers")
    if a_type != b_type or compute not in ALLOWED.get((TYPES[a_type], TYPES[c_type]), ()):
        raise ValueError(f"cuBLAS has no product of types {a_type}, {b_type} -> {c_type} with compute type {compute}")
    if min(m, n, k, batch) < 1 or algorithm != -1:
        raise ValueError("CUBLAS_STATUS_INVALID_VALUE: sizes or algorithm")
    if lda < (k if transa else m) or ldb < (n if transb else k) or ldc < m:
        raise ValueError("CUBLAS_STATUS_INVALID_VALUE: a leading dimension is less than its matrix has rows")
    calls.append((m, n, k, batch, compute))
    first = _columns(a, a_type, (k, m) if transa else (m, k), lda, a_stride, batch)
    second = _columns(b, b_type, (n, k) if transb else (k, n), ldb, b_stride, batch)
    out = _columns(c, c_type, (m, n), ldc, c_stride, batch)
    first, second = (x.swapaxes(1, 2) if flip else x for x, flip in ((first, transa), (second, transb)))
    real = COMPUTE[compute]
    scale, keep = (ctypes.cast(p, ctypes.POINTER(_C[real]))[0] for p in (alpha, beta))
    product = real(scale) * np.matmul(_exact(first, compute), _exact(second, compute))
    out[...] = product if keep == 0 else product + real(keep) * out.astype(real)


HANDLE = 1
_C = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}


def _columns(address, type_number, shape, leading, stride, batch):
    """The batch of column-major matrices at an address, (batch, rows, columns), writable."""
    rows, columns = shape
    dtype = bfloat16() if type_number == 14 else np.dtype(TYPES[type_number])
    length = ((batch - 1) * stride + (columns - 1) * leading + rows) * dtype.itemsize
    memory = np.frombuffer((ctypes.c_byte * length).from_address(address), dtype=dtype)
    strides = (stride * dtype.itemsize, dtype.itemsize, leading * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(memory, (batch, rows, columns), strides)


def _exact(x, compute):
    """The numbers as the GPU's multipliers see them: TF32 keeps 10 bits of a float32's mantissa."""
    x = np.ascontiguousarray(x, COMPUTE[compute])
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32) if compute == 77 else x
