"""Compute with the blocks of a GGUF file as they are: the weights are exactly those of the file and never exist as
floats all at once.

    number = scale · code + minimum      32 neighbors in a row share one scale and one minimum (in Q4_1; 0 otherwise)

Generating text multiplies the weight by one row x, or a few, so each number is used once or a few times. The time
therefore depends on how fast a code becomes a float that the matrix library can multiply. Three ideas, the most
effective first:

1. *Apply the scales afterwards.* For the numbers j of a block b, Σ_j x_j (s_b c_j + m_b) = s_b Σ_j x_j c_j + m_b Σ_j
   x_j. The codes are multiplied as they are, and s and m are applied once per block.
2. *Blocks outside, rows inside.* The codes are stored as (B, 32, R): for each of the 32 places in a block, the codes of
   all R rows of the weight. Then all loops run along contiguous memory, and the sums have the layout of the scales.
3. *No shifts.* A 16-bit number w = a + 16 b + 256 c + 4096 d holds four codes. To shift each one to its place would be
   a step of its own. A single step masks w and makes floats of w mod 16, w mod 256, w mod 4096 and w. Then

       x_a a + x_b b + x_c c + x_d d
           = (w mod 16) (x_a - x_b/16) + (w mod 256) (x_b/16 - x_c/256) + (w mod 4096) (x_c/256 - x_d/4096) + w x_d/4096

   All are integers below 2^16, which floats hold exactly.

The formats are those of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); see
`gpt.weights.gguf_file`.
"""

from __future__ import annotations

import numpy as np

from minigrad.backend import Array, module_of

from .array import FEW_ROWS, PackedMatrix

BLOCK = 32  # numbers that share a scale
QUADS = 8  # 16-bit numbers per block, with four codes each
WEIGHTS = np.array([1, 16, 256, 4096])  # the factors of a, b, c, d in w
MASKS = (16 * WEIGHTS - 1).astype(np.uint16)[:, None, None]  # of w mod 16, w mod 256, w mod 4096, and w


class BlockArray(PackedMatrix):
    """A matrix (R, K) with 4 or 8 bits per number, in B = K / 32 blocks per row. Its arrays are buffers: not trained.

    codes (R, K): int8 for 8 bits, 0..15 for 4 bits. scales, minimums: (R, B). zero: the code that represents 0 if
    codes are stored without a sign (8 in Q4_0).

    >>> codes = np.arange(64, dtype=np.uint8).reshape(2, 32) % 16
    >>> array = BlockArray(codes, np.array([[0.5], [2.0]]), np.array([[-1.0], [0.0]]), bits=4)
    >>> print(array.dequantize()[:, :4], array.nbytes)
    [[-1.  -0.5  0.   0.5]
     [ 0.   2.   4.   6. ]] 48
    """

    codes: Array  # 4 bits: (B, 8, R) uint16, of the codes j, j + 8, j + 16, j + 24 of a block; 8 bits: (B, 32, R) int8
    scales: Array  # (B, R)
    minimums: Array | None = None  # (B, R)
    in_one_piece = 2 * 1024 * 1024  # numbers: a larger matrix is split among threads

    def __init__(
        self, codes: np.ndarray, scales: np.ndarray, minimums: np.ndarray | None = None, bits: int = 8, zero: int = 0
    ):
        rows, columns = codes.shape
        self.bits = bits
        self.shape = (rows, columns)
        self.groups = columns // BLOCK
        self.zero = zero
        self.register_buffer("codes", _pack(codes, bits))
        self.register_buffer("scales", np.ascontiguousarray(scales.T, dtype=np.float32))
        if minimums is not None:
            self.register_buffer("minimums", np.ascontiguousarray(minimums.T, dtype=np.float32))

    def dequantize_rows(self, rows: slice | Array) -> Array:
        codes, scales = self.codes[:, :, rows], self.scales[:, rows]
        values = module_of(codes).empty((self.groups, BLOCK, codes.shape[2]), self.dtype)
        if self.bits == 8:
            values[...] = codes
        else:
            for i in range(4):
                values[:, QUADS * i : QUADS * (i + 1)] = (codes >> 4 * i) & 15
            if self.zero:
                values -= self.zero
        values *= scales[:, None]
        if self.minimums is not None:
            values += self.minimums[:, None, rows]
        return values.reshape(self.shape[1], codes.shape[2]).T

    def times_rows(self, x: Array, rows: slice) -> Array:
        """x (N, K) @ rows of the weight, transposed -> (N, R)."""
        if len(x) > FEW_ROWS or module_of(x) is not np:
            return x @ self.dequantize_rows(rows).T
        blocks = x.reshape(len(x), self.groups, BLOCK).swapaxes(0, 1)  # (B, N, 32)
        codes, scales = self.codes[:, :, rows], self.scales[:, rows]
        sums = _code_sums(blocks, codes, self.bits)  # (B, N, R): of each block, Σ x · code
        sums *= scales[:, None]
        out = sums.sum(axis=0)  # (N, R)
        totals = blocks.sum(axis=2).T  # (N, B): of each block, Σ x
        if self.minimums is not None:
            out += totals @ self.minimums[:, rows]
        if self.zero:
            out -= (self.zero * totals) @ scales
        return out

    def extra_repr(self) -> str:
        return f"{self.bits} bits in blocks of {BLOCK}, {self.shape}, {self.nbytes:,} bytes"


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (R, K) in the stored layout: see `BlockArray`."""
    blocks = codes.T.reshape(-1, BLOCK, len(codes))  # (B, 32, R)
    if bits == 8:
        return np.ascontiguousarray(blocks.astype(np.int8, copy=False))
    quads = blocks.reshape(len(blocks), 4, QUADS, -1)
    packed = np.zeros((len(blocks), QUADS, len(codes)), np.uint16)
    for i in range(4):
        packed |= quads[:, i].astype(np.uint16) << 4 * i
    return packed


def _code_sums(x: np.ndarray, codes: np.ndarray, bits: int) -> np.ndarray:
    """Of each block Σ x · code: x (B, N, 32), codes as they are kept -> (B, N, R)."""
    if bits == 8:
        return np.matmul(x, codes.astype(x.dtype))
    B = len(x)
    N = x.shape[1]
    R = codes.shape[2]
    floats = np.empty((B, 4, QUADS, R), x.dtype)
    # the masks are applied on the way to the floats
    np.bitwise_and(codes[:, None], MASKS, out=floats, dtype=np.uint16, casting="unsafe")
    scaled = x.reshape(B, N, 4, QUADS) / WEIGHTS.astype(x.dtype)[:, None]  # x_a, x_b / 16, ...
    scaled[:, :, :3] -= scaled[:, :, 1:]
    return np.matmul(scaled.reshape(B, N, BLOCK), floats.reshape(B, BLOCK, R))
