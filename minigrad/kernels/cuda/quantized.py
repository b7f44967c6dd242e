"""Products with a weight in 4 or 8 bits on a GPU, where the floats exist only in registers.

    out = x @ Wᵀ,   W[row, column] = scale · (level - zero)  or  scale · code + minimum, a scale per group of columns

Generation multiplies each weight by one vector per token, and the time is that of reading the weights from memory. In 4
bits they arrive 8 times sooner than in float32, provided that no floats are written back. Neighbors in a warp must read
neighbors in memory, so the work is divided according to the layout of the codes:

* `QuantizedMatrix` stores codes row by row: a warp takes a row, and each lane four columns at a time (one load for
their
  codes, one for four numbers of x). At the end the sums of the lanes are added.
* `BlockMatrix` stores codes column by column, as we keep those of GGUF files: each lane takes a row, and the warps of a
  block take every WARPS-th block of 32 columns. At the end the sums of the warps are added.

With 9 or more rows of x the weight would be read again and again. Then it is faster to compute the floats once, with
`dequantize`, and to call cuBLAS.

finetune/quantization decides which numbers the codes represent; here a weight is a few plain arrays. The 4-bit numbers
and their quantized scales are those of Dettmers et al. 2023, "QLoRA".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...backend import Array, module_of
from .launch import THREADS, WARP, ceil_div, defines, launch

MOST_ROWS = 8  # of x, for which reading the codes again costs less than writing floats
WARPS = 4  # of a block
BLOCK_WARPS = 8  # the same where a block has 32 rows of the weight
SCALES_PER_BLOCK = 256  # quantized scales that share an `absmax`

SOURCE = r"""
// What a group of columns has in common. Where there are no zeros, the pointer leads somewhere else.
struct Groups {
    const float* scales;
    const signed char* zeros;
    const unsigned char* scale_codes;  // if DOUBLE_QUANT, a scale is offset + absmax of its block · level of its code,
    const float* scale_levels;         // and `scales` are the absmax
    const float* scale_offset;
};

// The value that the code of one of four columns stands for.
__device__ float value_of(four_codes codes, int which, const float* codebook, long long group, const Groups& groups) {
    float level;
    if (BITS == 4) {
        int pair = codes >> (which / 2 * 8) & 255;  // two codes in a byte, the first in the upper half
        level = codebook[which % 2 ? pair & 15 : pair >> 4];
    } else {
        level = (signed char)(codes >> (which * 8) & 255);
    }
    float scale = groups.scales[DOUBLE_QUANT ? group / SCALES_PER_BLOCK : group];
    if (DOUBLE_QUANT) scale = groups.scale_levels[groups.scale_codes[group]] * scale + *groups.scale_offset;
    return scale * (HAS_ZEROS ? level - groups.zeros[group] : level);
}

// out (BATCH, rows) = x (BATCH, columns) @ Wᵀ; a warp for each row of W. `row_groups`: groups in a row; 0 if all rows
// share one.
extern "C" __global__ void times_quantized(const float* x, float* out, const four_codes* codes, const float* codebook,
                                           const float* scales, const signed char* zeros,
                                           const unsigned char* scale_codes, const float* scale_levels,
                                           const float* scale_offset, int rows, int columns, int row_groups) {
    __shared__ float levels[16];
    if (BITS == 4 && threadIdx.x < 16) levels[threadIdx.x] = codebook[threadIdx.x];
    __syncthreads();
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;  // a whole warp
    Groups groups = {scales, zeros, scale_codes, scale_levels, scale_offset};
    int fours = columns / 4;
    codes += (long long)row * fours;

    float sums[BATCH];
    for (int n = 0; n < BATCH; n++) sums[n] = 0;
    for (int four = lane; four < fours; four += 32) {
        four_codes word = codes[four];
        float w[4];
        for (int i = 0; i < 4; i++)
            w[i] = value_of(word, i, levels, (long long)row * row_groups + (4 * four + i) / GROUP_SIZE, groups);
        for (int n = 0; n < BATCH; n++) {
            float4 numbers = ((const float4*)x)[n * fours + four];
            sums[n] += w[0] * numbers.x + w[1] * numbers.y + w[2] * numbers.z + w[3] * numbers.w;
        }
    }
    for (int n = 0; n < BATCH; n++) {
        float sum = warp_sum(sums[n]);
        if (lane == 0) out[(long long)n * rows + row] = sum;
    }
}

// out (rows, columns) = W; a thread for each four columns.
extern "C" __global__ void dequantize(number* out, const four_codes* codes, const float* codebook,
                                      const float* scales, const signed char* zeros,
                                      const unsigned char* scale_codes, const float* scale_levels,
                                      const float* scale_offset, int rows, int columns, int row_groups) {
    int fours = columns / 4;
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= (long long)rows * fours) return;
    Groups groups = {scales, zeros, scale_codes, scale_levels, scale_offset};
    int row = at / fours, four = at % fours;
    four_codes word = codes[at];
    for (int i = 0; i < 4; i++) {
        long long group = (long long)row * row_groups + (4 * four + i) / GROUP_SIZE;
        store(out, 4 * at + i, value_of(word, i, codebook, group, groups));
    }
}
"""

BLOCKS = r"""
// out (BATCH, rows) = x (BATCH, 32 blocks) @ Wᵀ for codes (blocks, 32 / PACKED, rows): a lane for each row of W.
#define PACKED (BITS == 4 ? 4 : 1)  // codes in one number
extern "C" __global__ void times_blocks(const float* x, float* out, const codes_of_row* codes, const float* scales,
                                        const float* minimums, int rows, int blocks) {
    __shared__ float sums_of_warps[WARPS][BATCH][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * 32 + lane;
    float sums[BATCH];
    for (int n = 0; n < BATCH; n++) sums[n] = 0;
    for (int b = warp; b < blocks && row < rows; b += WARPS) {
        float scale = scales[(long long)b * rows + row];
        float minimum = HAS_MINIMUMS ? minimums[(long long)b * rows + row] : 0;
        for (int j = 0; j < 32 / PACKED; j++) {
            int word = codes[((long long)b * (32 / PACKED) + j) * rows + row];
            for (int i = 0; i < PACKED; i++) {
                float w = scale * ((BITS == 4 ? word >> (4 * i) & 15 : word) - ZERO) + minimum;
                for (int n = 0; n < BATCH; n++) sums[n] += w * x[32 * ((long long)n * blocks + b) + 8 * i + j];
            }
        }
    }
    for (int n = 0; n < BATCH; n++) sums_of_warps[warp][n][lane] = sums[n];
    __syncthreads();
    for (int n = warp; n < BATCH && row < rows; n += WARPS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++) sum += sums_of_warps[w][n][lane];
        out[(long long)n * rows + row] = sum;
    }
}
"""


class QuantizedMatrix(NamedTuple):
    """A weight (R, K) as CuPy arrays, in G groups of K / G columns.

    codes: (R, K) int8, or (R, K / 2) uint8 with two codes per byte, the first in the upper half. codebook: the 16
    float32 numbers that the 4-bit codes represent. scales: (R, G) float32, or (1, 1) for all. zeros: int8, in the shape
    of scales. double: for quantized scales, their codes (R, G) uint8, the 256 levels of these codes, and an offset of
    shape (); then `scales` has one number per 256 codes, row after row.
    """

    codes: Array
    scales: Array
    zeros: Array | None = None
    codebook: Array | None = None
    double: tuple[Array, Array, Array] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        return len(self.codes), self.codes.shape[1] * (1 if self.codebook is None else 2)

    def fits(self) -> bool:
        """Whether the kernels support it: a multiple of 4 columns, and float32 scales."""
        return self.shape[1] % 4 == 0 and self.codes.size > 0 and self.scales.dtype == np.float32


class BlockMatrix(NamedTuple):
    """A weight (R, K) as CuPy arrays, in B = K / 32 blocks of 32 columns.

    codes: (B, 32, R) int8, or (B, 8, R) uint16 with four codes each, those of columns j, j + 8, j + 16 and j + 24 of
    the block, the first in the lowest bits. scales, minimums: (B, R) float32. zero: the code that represents 0.
    """

    codes: Array
    scales: Array
    minimums: Array | None = None
    zero: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        return self.codes.shape[2], len(self.codes) * WARP

    def fits(self) -> bool:
        """Whether the kernel supports it: float32 scales."""
        return self.codes.size > 0 and self.scales.dtype == np.float32


def times_quantized(x: Array, weight: QuantizedMatrix | BlockMatrix) -> Array:
    """x @ Wᵀ for x (N, K) float32 with at most MOST_ROWS rows: (N, R)."""
    rows, batch = weight.shape[0], len(x)
    xp = module_of(x)
    out = xp.empty((batch, rows), np.float32)
    if batch == 0:
        return out
    x, source = xp.ascontiguousarray(x), f"#define BATCH {batch}\n"
    if isinstance(weight, QuantizedMatrix):
        args = [x, out, *_arguments(weight)]
        launch(source + _source(weight), "times_quantized", x, ceil_div(rows, WARPS), WARPS * WARP, args)
        return out
    bits, minimums = (8 if weight.codes.dtype == np.int8 else 4), weight.minimums
    args = [x, out, weight.codes, weight.scales, weight.scales if minimums is None else minimums]
    source += defines(BITS=bits, ZERO=weight.zero, HAS_MINIMUMS=minimums is not None, WARPS=BLOCK_WARPS)
    source += f"typedef {'signed char' if bits == 8 else 'unsigned short'} codes_of_row;\n"
    grid = ceil_div(rows, WARP)
    launch(source + BLOCKS, "times_blocks", x, grid, BLOCK_WARPS * WARP, [*args, rows, len(weight.codes)])
    return out


def dequantize(weight: QuantizedMatrix, dtype: Any = np.float32) -> Array:
    """W (R, K), in float32 or bfloat16."""
    out = module_of(weight.codes).empty(weight.shape, dtype)
    source = "#define BATCH 1\n" + _source(weight)
    launch(source, "dequantize", out, ceil_div(out.size // 4, THREADS), THREADS, [out, *_arguments(weight)])
    return out


def _source(weight: QuantizedMatrix) -> str:
    bits = 8 if weight.codebook is None else 4
    facts = defines(
        BITS=bits,
        GROUP_SIZE=weight.shape[1] // _groups(weight).shape[1],
        HAS_ZEROS=weight.zeros is not None,
        DOUBLE_QUANT=weight.double is not None,
        SCALES_PER_BLOCK=SCALES_PER_BLOCK,
    )
    return f"typedef unsigned {'short' if bits == 4 else 'int'} four_codes;\n" + facts + SOURCE


def _groups(weight: QuantizedMatrix) -> Array:
    """An array with one entry per group: (R, G), or (1, 1) if all groups share it."""
    return weight.scales if weight.double is None else weight.double[0]


def _arguments(weight: QuantizedMatrix) -> list[Any]:
    """The arguments of the kernels. A missing array is replaced by another one, which the kernel does not read."""
    codes, scales = weight.codes, weight.scales
    four_codes = codes.view(np.uint32 if weight.codebook is None else np.uint16)  # (R, K / 4)
    zeros = codes.view(np.int8) if weight.zeros is None else weight.zeros
    codebook = scales if weight.codebook is None else weight.codebook
    double = (codes.view(np.uint8), scales, scales) if weight.double is None else weight.double
    groups = _groups(weight)
    row_groups = groups.shape[1] if len(groups) > 1 else 0
    return [four_codes, codebook, scales, zeros, *double, *weight.shape, row_groups]
