"""QuantizedArray, the result of every quantizer here: small integers, and the scales that turn them into numbers.

    value = scale · (level - zero)

A *level* is a small integer, or for NF4 one of 16 chosen numbers. A *scale* is shared by a group of neighbors in a row,
by a whole row, or by the whole array. A *zero* is the level that represents 0 if the levels are not symmetric (Jacob et
al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 2.1).
8-bit levels are stored as int8. 4-bit levels are stored as codes, two in each byte of memory.

Simplified: there are only 8 and 4 bits, and scales are float32, where libraries for GPUs use float16.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minigrad import nn
from minigrad.backend import Array, module_of

WHOLE_ROW, WHOLE_ARRAY = -1, 0  # group sizes; GPTQ's files also use -1 for a whole row
FEW_ROWS = 16  # a product with more rows of x is faster with dequantized weights, which then serve all rows
INT4 = np.arange(-8, 8, dtype=np.float32)  # the levels of the codes 0..15 if there is no other codebook

Rows = slice | Array  # which rows: a slice of neighbors, or an array of numbers


def pack(codes: np.ndarray) -> np.ndarray:
    """Store two 4-bit codes per byte, the first one in the upper half: (R, K) -> (R, K/2) uint8.

    >>> pack(np.array([[1, 2, 15, 0]]))
    array([[ 18, 240]], dtype=uint8)
    """
    codes = codes.astype(np.uint8, copy=False)
    return codes[:, 0::2] << 4 | codes[:, 1::2]


def unpack(packed: np.ndarray) -> np.ndarray:
    """The reverse of `pack`.

    >>> unpack(np.array([[18, 240]], dtype=np.uint8))
    array([[ 1,  2, 15,  0]], dtype=uint8)
    """
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), 2 * packed.shape[1])


EVERY_BYTE = unpack(np.arange(256, dtype=np.uint8)[:, None])  # (256, 2): the two codes of each byte


class PackedMatrix(nn.Module):
    """A matrix with few bits per number, in whatever layout: a QuantizedArray, or a BlockArray (blocks.py)."""

    scales: Any
    order: Array | None = None

    def reordered(self, stored: Array) -> Array:
        """Columns (..., K) in the stored order, brought into the matrix's."""
        if self.order is None:
            return stored
        values = module_of(stored).empty_like(stored)
        values[:, self.order] = stored
        return values

    def dequantize_rows(self, rows: Rows) -> Array:
        """Some rows as floats (R, K). No larger array is created on the way."""
        raise TypeError(f"{type(self).__name__} must define dequantize_rows")

    def dequantize(self) -> Array:
        """The whole matrix as floats (R, K)."""
        return self.dequantize_rows(slice(None))

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the numbers from `dequantize`. `to(np.float64)` changes it, but not the codes."""
        return self.scales.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in memory: codes, scales, and whatever else is stored."""
        return sum(array.nbytes for _, array in self.named_buffers(persistent_only=True))


class QuantizedArray(PackedMatrix):
    """A matrix (R, K) with 8 or 4 bits per number. It is not trained: its arrays are buffers, which move and are saved.

    levels: integers (R, K) from -2^(bits-1) to 2^(bits-1) - 1, or, with a `codebook`, the codes 0..15. scales: (R, G)
    with G groups of K / G numbers in each row, or (1, 1) for the whole array; an array, or NF4's `QuantizedScales`.
    zeros: the level of 0, in the shape of scales; None if it is 0. codebook: the 16 numbers that the 4-bit codes
    represent. order: stored column j is column `order[j]` of the matrix (GPTQ's act-order); None: no permutation.
    """

    codes: Array
    zeros: Array | None = None
    codebook: Array
    in_one_piece = 256 * 1024  # numbers: a larger matrix is split among threads

    def __init__(
        self,
        levels: np.ndarray,
        scales: Any,
        zeros: np.ndarray | None = None,
        bits: int = 8,
        codebook: np.ndarray | None = None,
        order: np.ndarray | None = None,
    ):
        self.bits = bits
        self.shape = levels.shape
        self.groups = scales.shape[1]
        levels = np.ascontiguousarray(levels)  # row by row, the order in which they will be read
        if bits == 8:
            self.register_buffer("codes", levels.astype(np.int8, copy=False))
        else:
            self.register_buffer("codes", pack(levels + 8 if codebook is None else levels))
            self.register_buffer("codebook", INT4 if codebook is None else codebook, persistent=False)
        self.scales = scales
        if isinstance(scales, np.ndarray):
            self.register_buffer("scales", scales.astype(np.float32, copy=False))
        if zeros is not None:
            self.register_buffer("zeros", zeros.astype(np.int8))
        if order is not None:
            self.register_buffer("order", order.astype(np.int32))

    def levels(self, rows: Rows = slice(None)) -> Array:
        """The levels of some rows as floats (R, K), without scale and zero, with columns in the stored order."""
        codes = self.codes[rows]
        if self.bits == 8:
            return codes.astype(self.dtype)
        if isinstance(codes, np.ndarray) and self.shape[1] % 4 == 0:
            words = np.ascontiguousarray(codes).view(np.uint16)  # (R, K/4)
            return _numbers_of_words(self.codebook.tobytes(), self.dtype.str).take(words).view(self.dtype)
        pairs = self.codebook[module_of(codes).asarray(EVERY_BYTE)]  # (256, 2): the two numbers of each byte
        return pairs.take(codes, axis=0).reshape(len(codes), self.shape[1])  # (R, K/2, 2) -> (R, K)

    def stored_values(self, rows: Rows = slice(None)) -> Array:
        """scale · (level - zero) of some rows (R, K), with columns in the stored order."""
        values = self.levels(rows)
        size = self.shape[1] // self.groups
        grouped = values.reshape(len(values), self.groups, size)  # (R, G, K/G), a view: what changes it changes values
        if self.zeros is not None:
            grouped -= _rows_of(self.zeros, rows)[:, :, None]
        grouped *= self.scale_rows(rows)[:, :, None]
        return values

    def dequantize_rows(self, rows: Rows) -> Array:
        return self.reordered(self.stored_values(rows))

    def times_rows(self, x: Array, rows: slice) -> Array:
        """x (N, K) @ rows of the weight, transposed -> (N, R). The columns of x are in the stored order."""
        if self.groups > 1 and (len(x) > FEW_ROWS or module_of(x) is not np):
            return x @ self.stored_values(rows).T
        # For a few rows of x, and where a row has one scale, apply the scales afterwards: in each group,
        # Σ x · scale · (level - zero) = scale · (Σ x · level - zero · Σ x).
        levels = self.levels(rows)
        size = self.shape[1] // self.groups
        grouped = levels.reshape(len(levels), self.groups, size).transpose(1, 0, 2)  # (G, R, K/G)
        parts = x.reshape(len(x), self.groups, size).transpose(1, 2, 0)  # (G, K/G, N)
        sums = grouped @ parts  # (G, R, N)
        if self.zeros is not None:
            sums -= _rows_of(self.zeros, rows).T[:, :, None].astype(x.dtype) * parts.sum(axis=1)[:, None]
        sums *= self.scale_rows(rows).T[:, :, None]
        return sums.sum(axis=0).T

    def scale_rows(self, rows: Rows = slice(None)) -> Array:
        """The scales of some rows (R, G), or (1, 1) if the whole array has one scale."""
        return self.scales.rows(rows) if hasattr(self.scales, "rows") else _rows_of(self.scales, rows)

    def extra_repr(self) -> str:
        return f"{self.bits} bits, {self.shape}, {self.nbytes:,} bytes"


@functools.lru_cache(maxsize=4)
def _numbers_of_words(codebook: bytes, dtype: str) -> np.ndarray:
    """A table of all pairs of bytes (65536): each item holds the four numbers of a pair.

    `take` copies an item of 16 bytes as fast as one of 4, so this is ten times as fast as one lookup per number.
    """
    words = np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(2**16, 2)  # in this machine's byte order
    numbers = np.frombuffer(codebook, dtype)[unpack(words)]  # (65536, 4)
    return numbers.view(f"V{4 * numbers.itemsize}").reshape(-1)


def _rows_of(per_row: Array, rows: Rows) -> Array:
    return per_row if len(per_row) == 1 else per_row[rows]


def check_bits(bits: int) -> None:
    """Raise ValueError unless `bits` is 8 or 4."""
    if bits not in (4, 8):
        raise ValueError(f"{bits!r} bits are not supported; choose 8 or 4")


def number_of_groups(shape: tuple[int, ...], bits: int, group_size: int) -> int:
    """The number of groups per row: K / group_size, or 1 if a whole row or the whole array has one scale.

    Raises ValueError if `shape` is not that of a matrix, or if the group size does not divide the row.

    >>> number_of_groups((2, 12), bits=4, group_size=4)
    3
    """
    check_bits(bits)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"only matrices with numbers in them are quantized, not shape {shape}")
    columns = shape[1]
    if bits == 4 and columns % 2:
        raise ValueError(f"4-bit codes are stored in pairs, and rows of {columns} cannot be paired; use 8 bits")
    if group_size in (WHOLE_ROW, WHOLE_ARRAY):
        return 1
    if columns % group_size:
        known = f"a divisor, {WHOLE_ROW} (a whole row) or {WHOLE_ARRAY} (the whole array)"
        raise ValueError(f"group_size {group_size} does not divide rows of {columns}; use {known}")
    return columns // group_size


def in_groups(values: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    """Cut the rows of a matrix (R, K) into groups that share a scale: (R, G, K/G), or (1, 1, R K) for one scale in all.

    Raises what `as_matrix` and `number_of_groups` raise.
    """
    values = as_matrix(values)
    groups = number_of_groups(values.shape, bits, group_size)
    return values.reshape((1, 1, -1) if group_size == WHOLE_ARRAY else (len(values), groups, -1))


def as_matrix(values: Any, what: str = "the array to quantize") -> np.ndarray:
    """`values` as a float32 matrix. Raises ValueError unless it is a finite floating-point matrix."""
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ValueError(f"{what} must be a matrix of floats, got {values.dtype} of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} has numbers that are not finite (nan or inf)")
    return values.astype(np.float32, copy=False)
