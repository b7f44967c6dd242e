"""Mixed precision: matrix products of bfloat16 numbers; sums and weights in float32.

bfloat16 is the upper half of a float32. It has the same sign bit and 8 bits of exponent, so the same range (no loss
scaling is needed), but 7 bits of mantissa instead of 23. Hardware that supports it moves half as many bytes. NumPy does
not support it. So on the CPU, float32 arrays hold *exactly* the numbers of bfloat16: you see what the precision does to
training, not what it does to speed. On a GPU, the fast kernels get real bfloat16 arrays. Its tensor cores multiply them
many times faster and add up in float32.

TF32 is a way in which a GPU multiplies float32 arrays: with 10 bits of mantissa, and sums in float32.

Weights stay in float32 ("master weights"): next to 1, bfloat16's next larger number is 1.0078, and steps of 1e-4 would
all be rounded away. Micikevicius et al. 2018, "Mixed precision training"; Kalamkar et al. 2019, "A study of bfloat16
for deep learning training".
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import switches
from .backend import Array, is_array, module_of
from .dtypes import twin


def round_bfloat16(x: Array) -> Array:
    """float32 rounded to the nearest bfloat16, ties to even, as a float32 array. Raises TypeError for another dtype.

    The bits of a float32, read as an integer, grow with its magnitude. So to round, add a little less than half of what
    the last kept bit is worth (exactly half if that bit is 1, so that ties go to even), and clear the bits below it.

    >>> round_bfloat16(np.array([1.0, 1.00390625, 1.01171875, 3.14159265], np.float32))
    array([1.      , 1.      , 1.015625, 3.140625], dtype=float32)
    """
    if x.dtype != np.float32:
        raise TypeError(f"round_bfloat16 takes float32, not {x.dtype}")
    xp = module_of(x)
    bits = xp.ascontiguousarray(x).view(xp.uint32)
    last_kept = (bits >> 16) & 1
    rounded = ((bits + 0x7FFF + last_kept) & 0xFFFF0000).view(xp.float32).reshape(x.shape)
    return xp.where(xp.isnan(x), xp.float32(math.nan), rounded)  # a nan's bits could carry into infinity


@contextlib.contextmanager
def autocast(dtype: str = "bfloat16", enabled: bool = True) -> Iterator[None]:
    """Compute the matrix products of the block, and later their gradients, from bfloat16 numbers.

    Inputs and outputs of matmul, linear, einsum and attention are rounded, and so are the gradients that pass through
    them. Sums and everything else (normalization, softmax, loss, optimizer) stay in float32.

    "tf32": the fast kernels on a GPU use TF32 while the block runs, backward included. The CPU has no TF32 and computes
    in float32. It holds for the thread that enters the block, as in PyTorch. Raises ValueError for another dtype.
    """
    if dtype not in ("bfloat16", "tf32"):
        raise ValueError(f"autocast knows 'bfloat16' and 'tf32', not {dtype!r}")
    rounding = switches.autocast.set(_in_bfloat16 if enabled and dtype == "bfloat16" else None)
    tf32 = switches.tf32.set(enabled and dtype == "tf32")
    try:
        yield
    finally:
        switches.autocast.reset(rounding)
        switches.tf32.reset(tf32)


def _in_bfloat16(textbook: Any, chosen: Any) -> Any:
    """Return the Function that runs in place of `chosen`: step 5 of how an op finds its kernel, in switches.py.

    A fused op runs as the ops that it consists of, so that the results in between are rounded. A kernel that takes
    bfloat16 arrays runs as it is.
    """
    if getattr(chosen, "takes_bfloat16", False):
        return twin(chosen, _narrow, _unchanged)
    if hasattr(textbook, "compose"):
        return textbook
    return twin(chosen, _round, _round) if textbook.autocast else chosen


def _round(array: Any) -> Any:
    return round_bfloat16(array) if is_array(array) and array.dtype == np.float32 else array


def _narrow(array: Any) -> Any:
    """A float32 matrix as bfloat16. A vector (a bias, losses of rows) is added, not multiplied, and stays as it is."""
    is_narrowed = is_array(array) and array.dtype == np.float32 and array.ndim > 1
    return array.astype(bfloat16(), order="C") if is_narrowed else array


def _unchanged(array: Any) -> Any:
    return array


@functools.cache
def bfloat16() -> np.dtype:
    """The dtype of real bfloat16 arrays; CuPy gets it from the package ml_dtypes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
