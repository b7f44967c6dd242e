"""Matrix products on a GPU by cuBLAS, NVIDIA's own library, and how to call it.

    multiply(x, y):  out = scale · x @ y  (+ out)

One function of cuBLAS serves every product of a transformer. A batch of matrices at equal distances in memory needs one
call ("strided batched"), so there is no loop over attention heads. A transposed view costs nothing, because cuBLAS can
read a matrix either way. Operands may be bfloat16, which tensor cores multiply many times faster, with float32 sums.

cuBLAS comes from Fortran and stores matrices column by column, so it sees our row-by-row `out` as outᵀ. Because outᵀ =
yᵀ xᵀ, we pass y and x in this order. cuBLAS sees both of them transposed as well, and no number has to move.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ... import switches
from ...autograd import Function
from ...backend import Array, module_of
from ...functional.linalg import as_rows
from .launch import name_of, real_of, supports

# What cuBLAS calls the types of numbers (library_types.h), and how to multiply and add them (cublas_api.h).
DATA_TYPES = {"float32": 0, "float64": 1, "bfloat16": 14}
COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70
AS_IT_IS, TRANSPOSED = 0, 1
DEFAULT_ALGORITHM = -1


def multiply(x: Array, y: Array, out: Array | None = None, scale: float = 1.0, add: bool = False) -> Array:
    """scale · x @ y for x (..., M, K) and y (..., K, N), with at most one leading axis. `add`: add the result to `out`.

    Both operands are float32, float64 or bfloat16. The result is float64 for float64, and float32 otherwise.
    """
    xp, result = module_of(x), real_of(x)
    if out is None:
        out = xp.empty((*x.shape[:-1], y.shape[-1]), result)
    if out.size == 0:
        return out
    *_, M, K = x.shape
    if K == 0:  # a sum of nothing
        if not add:
            out[...] = 0
        return out
    x, x_operation, x_line, x_stride = _as_cublas_reads(x)
    y, y_operation, y_line, y_stride = _as_cublas_reads(y)
    _, out_operation, out_line, out_stride = _as_cublas_reads(out)
    if out_operation != AS_IT_IS or out.dtype != result or x.dtype != y.dtype:
        raise TypeError(f"multiply: {x.dtype} @ {y.dtype} cannot be written to {out.dtype} with strides {out.strides}")
    operand_type = DATA_TYPES.get(name_of(x.dtype))
    if operand_type is None:
        raise TypeError(f"products on a GPU are of {', '.join(DATA_TYPES)}, not {x.dtype}")
    alpha, beta = _in_memory(scale, result), _in_memory(float(add), result)
    # fmt: off
    xp.cuda.cublas.gemmStridedBatchedEx(
        xp.cuda.get_cublas_handle(), y_operation, x_operation,
        y.shape[-1], M, K,
        alpha[0],
        _address(y), operand_type, y_line, y_stride,
        _address(x), operand_type, x_line, x_stride,
        beta[0],
        _address(out), DATA_TYPES[name_of(out.dtype)], out_line, out_stride,
        math.prod(out.shape[:-2]), _arithmetic(x.dtype), DEFAULT_ALGORITHM,
    )
    # fmt: on
    return out


@functools.lru_cache(maxsize=64)
def _in_memory(number: float, kind: type) -> tuple[int, np.ndarray]:
    """The address of a factor, which cuBLAS expects, and the object that must stay alive while cuBLAS reads it."""
    factor: np.ndarray = np.array(number, kind)
    return factor.ctypes.data, factor


def _address(x: Any) -> int:
    return x.data.ptr


def _as_cublas_reads(x: Array) -> tuple[Array, int, int, int]:
    """x, whether it is stored transposed, and the distances in memory from line to line and from matrix to matrix.

    A matrix that is stored in neither way, such as every second column of another, is copied.
    """
    size, shape, strides = x.itemsize, x.shape, x.strides
    rows, columns = shape[-2:]
    to_next_row, to_next_column = strides[-2] // size, strides[-1] // size
    matrix = strides[0] // size if len(shape) == 3 else 0
    if (to_next_column == 1 or columns == 1) and (to_next_row >= columns or rows == 1):
        return x, AS_IT_IS, max(to_next_row, columns), matrix
    if (to_next_row == 1 or rows == 1) and (to_next_column >= rows or columns == 1):
        return x, TRANSPOSED, max(to_next_column, rows), matrix
    return _as_cublas_reads(module_of(x).ascontiguousarray(x))


def _arithmetic(dtype: np.dtype) -> int:
    if dtype.char == "d":
        return COMPUTE_64F
    return COMPUTE_32F_FAST_TF32 if switches.tf32.get() and dtype.char == "f" else COMPUTE_32F


class CudaLinear(Function):
    """out = x @ weightᵀ + bias. See functional.linalg.Linear. bfloat16 products are summed in float32."""

    takes_bfloat16 = True

    @staticmethod
    def suits(needs_grad, x, weight, bias):
        return supports(weight, bfloat16=True)

    @staticmethod
    def forward(ctx, x, weight, bias):  # x (..., I), weight (O, I), bias (O) or None
        ctx.x_shape = x.shape
        x = as_rows(x).astype(weight.dtype, copy=False)
        if ctx.needs_grad[0]:
            ctx.weight = weight
        if ctx.needs_grad[1]:
            ctx.x = x
        ctx.operand_dtype = weight.dtype
        out = multiply(x, weight.T)
        if bias is not None:
            out += bias
        return out.reshape(*ctx.x_shape[:-1], len(weight))  # (..., O)

    @staticmethod
    def backward(ctx, dout):
        dout = as_rows(dout).astype(ctx.operand_dtype, copy=False)  # (N, O)
        dx = dweight = dbias = None
        # out = x @ weight.T + bias
        if ctx.needs_grad[0]:
            dx = multiply(dout, ctx.weight).reshape(ctx.x_shape)
        if ctx.needs_grad[1]:
            dweight = multiply(dout.T, ctx.x)
        if ctx.needs_grad[2]:
            dbias = dout.sum(axis=0, dtype=real_of(dout))
        return dx, dweight, dbias
