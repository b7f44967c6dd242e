"""From a string of CUDA to a kernel that runs on CuPy arrays: the one place that compiles and launches.

CUDA in ten lines. A *kernel* is a C function that very many threads run at once. Threads come in *blocks* of up to
1024, which run on one of the GPU's processors, can wait for each other (`__syncthreads()`) and have some fast memory in
common (`__shared__`); the blocks of a *grid* know nothing of each other. `threadIdx.x` and `blockIdx.x` tell a thread
which part of the work is its own. Within a block, 32 neighbours are a *warp*: they run in step, and can read each
other's variables (`__shfl_xor_sync`) without any memory. Memory is the bottleneck: a GPU computes dozens of operations
in the time in which it reads one number, and it reads fast only where neighbours in a warp read neighbours in memory.
So a kernel reads everything once, does all there is to do, and writes once, where the textbook form reads and writes
for each operation.

Each source is compiled for the type of the arrays, behind the PRELUDE: `number` is what arrays hold, `real` what is
computed with. bfloat16 is the upper half of a float32, and sums of its products need more digits than it has.

The NVIDIA CUDA C++ Programming Guide has the language; CuPy's RawKernel compiles it at first use (NVRTC) and keeps the
result on disk.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend import Array, is_array, module_of

WARP = 32
THREADS = 256  # of a block, where nothing speaks for another number

TYPES = {
    "float32": "typedef float number;\ntypedef float real;\n",
    "float64": "typedef double number;\ntypedef double real;\n",
    "bfloat16": "typedef unsigned short number;\ntypedef float real;\n#define BFLOAT16\n",
}

PRELUDE = r"""
#ifdef BFLOAT16
// bfloat16 is the upper half of a float: the same sign and exponent, 7 of the 23 bits behind the point.
__device__ real load(const number* array, long long i) { return __uint_as_float((unsigned)array[i] << 16); }

// To the nearest, ties to even, as minigrad.precision.round_bfloat16 does; a nan stays one.
__device__ void store(number* array, long long i, real value) {
    unsigned bits = __float_as_uint(value);
    unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    array[i] = value != value ? 0x7fc0 : rounded;
}
#else
__device__ real load(const number* array, long long i) { return array[i]; }
__device__ void store(number* array, long long i, real value) { array[i] = value; }
#endif

__device__ real infinity() { return __int_as_float(0x7f800000); }

// The sum, or the largest, of the 32 values of a warp; each lane gets it. After the step with distance d, a lane has
// the result over the lanes whose numbers differ from its own in the bits from d on.
__device__ real warp_sum(real value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}
__device__ real warp_max(real value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value = max(value, __shfl_xor_sync(0xffffffff, value, distance));
    }
    return value;
}

// The sum, or the largest, over all threads of a block; each thread gets it. Always in the same order: the same bits.
__device__ real block_sum(real value) {
    __shared__ real of_warp[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_sum(value);
    __syncthreads();  // nobody reads the results of the call before any more
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? of_warp[lane] : real(0));
}
__device__ real block_max(real value) {
    __shared__ real of_warp[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    return warp_max(lane < blockDim.x / 32 ? of_warp[lane] : of_warp[0]);
}
"""


def launch(
    source: str,
    name: str,
    like: Array,
    grid: int | tuple[int, ...],
    block: int,
    args: Sequence[Any],
    shared_bytes: int = 0,
    gaps: bool = False,
) -> None:
    """Run kernel `name` of `source`, compiled for the dtype of `like`, with `grid` blocks of `block` threads.

    A Python bool or int becomes a C `int`, a float a `real`; NumPy scalars are passed as they are. Nothing waits for
    the result. An empty grid, which CUDA refuses, does nothing. Raises ValueError for an array that does not lie in
    memory row by row, unless the kernel is told the strides (`gaps`).
    """
    grid = (grid,) if isinstance(grid, int) else grid
    if math.prod(grid) == 0:
        return
    real, in_c = real_of(like), []
    for arg in args:
        if isinstance(arg, int):
            arg = np.int32(arg)
        elif isinstance(arg, float):
            arg = real(arg)
        elif not gaps and is_array(arg) and not arg.flags.c_contiguous:
            raise ValueError(f"kernel {name}: an array of shape {arg.shape} does not lie in memory row by row")
        in_c.append(arg)
    kernel = compiled(module_of(like), source, name, name_of(like.dtype))
    kernel(grid, (block,), tuple(in_c), shared_mem=shared_bytes)


@functools.cache
def name_of(dtype: np.dtype) -> str:
    """Such as "float32". NumPy puts a name together each time that it is asked, which takes as long as a launch."""
    return dtype.name


@functools.cache
def compiled(xp: Any, source: str, name: str, dtype: str) -> Any:
    """The RawKernel of `xp` (CuPy), which compiles it when it is first launched and then keeps it."""
    return xp.RawKernel(full_source(source, dtype), name)


def full_source(source: str, dtype: str) -> str:
    """What is compiled: `source` behind the types of `dtype` and the PRELUDE.

    Without the letters of comments that are not ASCII: CuPy writes it to a file in whatever encoding the machine has.
    """
    return (TYPES[dtype] + PRELUDE + source).encode("ascii", "ignore").decode("ascii")


def takes(*arrays: Any, bfloat16: bool = True) -> bool:
    """Whether all `arrays` (None counts for any) are of one dtype that kernels are compiled for."""
    names = {name_of(array.dtype) for array in arrays if array is not None}
    return len(names) == 1 and (names <= {"float32", "float64"} or (bfloat16 and names == {"bfloat16"}))


def real_of(array: Array) -> type:
    """The type that kernels for `array` compute with."""
    return np.float64 if array.dtype.char == "d" else np.float32


def ceil_div(n: int, size: int) -> int:
    """How many pieces of `size` hold n things.

    >>> ceil_div(0, 4), ceil_div(4, 4), ceil_div(5, 4)
    (0, 1, 2)
    """
    return -(-n // size)
