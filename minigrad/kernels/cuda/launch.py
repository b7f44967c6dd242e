"""From a string of CUDA to a kernel that runs on CuPy arrays: the only place that compiles and launches.

CUDA in ten lines. A *kernel* is a C function that very many threads run at the same time. Threads are grouped into
*blocks* of up to 1024. The threads of a block run on one of the GPU's processors, can wait for each other
(`__syncthreads()`) and share some fast memory (`__shared__`). The blocks of a *grid* are independent of each other.
`threadIdx.x` and `blockIdx.x` tell a thread which part of the work it does. Within a block, 32 neighboring threads form
a *warp*: they run in step and can read each other's variables (`__shfl_xor_sync`) without using memory. Memory is the
bottleneck: in the time to read one number a GPU computes dozens of operations, and reading is fast only if neighbors in
a warp read neighbors in memory. So a kernel reads everything once, does all its work, and writes once, whereas the
textbook form reads and writes for every operation.

Each source is compiled for the type of the arrays, after the PRELUDE: `number` is the type in memory, `real` the type
for computing. They differ for bfloat16, the upper half of a float32, because sums of its products need more digits than
it has.

The language is described in the NVIDIA CUDA C++ Programming Guide. CuPy's RawKernel compiles a kernel at first use
(NVRTC) and caches the result on disk.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend import Array, is_array, module_of

WARP = 32
THREADS = 256  # the usual number of threads in a block

TYPES = {
    "float32": "typedef float number;\ntypedef float real;\n",
    "float64": "typedef double number;\ntypedef double real;\n",
    "bfloat16": "typedef unsigned short number;\ntypedef float real;\n#define BFLOAT16\n",
}

PRELUDE = r"""
#ifdef BFLOAT16
// bfloat16 is the upper half of a float: the same sign and exponent, and 7 of the 23 bits of the fraction.
// Round to nearest, ties to even, as minigrad.precision.round_bfloat16 does. A nan stays nan.
__device__ void store(number* array, long long i, real value) {
    unsigned bits = __float_as_uint(value);
    unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    array[i] = value != value ? 0x7fc0 : rounded;
}
#else
__device__ void store(number* array, long long i, real value) { array[i] = value; }
#endif

__device__ real infinity() { return __int_as_float(0x7f800000); }

// The sum, or the maximum, of the 32 values of a warp, for each lane. After the step with distance d, a lane has the
// result over all lanes whose number differs from its own only in the bits from d up.
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

// Every warp of a block has a value: lane w gets that of warp w, and the lanes left over get `rest`.
__device__ real exchange_between_warps(real value, real rest) {
    __shared__ real of_warp[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();  // no thread still reads the results of the previous call
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    return lane < blockDim.x / 32 ? of_warp[lane] : rest;
}

// The sum, or the maximum, over all threads of a block, for each thread. The order is fixed, so the bits are the same.
__device__ real block_sum(real value) { return warp_sum(exchange_between_warps(warp_sum(value), 0)); }
__device__ real block_max(real value) { return warp_max(exchange_between_warps(warp_max(value), -infinity())); }
"""


def launch(source: str, name: str, like: Array, grid: int | tuple[int, ...], block: int, args: Sequence[Any]) -> None:
    """Run kernel `name` of `source`, compiled for the dtype of `like`, with `grid` blocks of `block` threads.

    A Python bool or int becomes a C `int`, a float becomes a `real`, and NumPy scalars are passed unchanged. The call
    does not wait for the result. An empty grid, which CUDA rejects, does nothing. Raises ValueError for an array that
    is not contiguous.
    """
    grid = (grid,) if isinstance(grid, int) else grid
    if math.prod(grid) == 0:
        return
    real = real_of(like)
    in_c = []
    for arg in args:
        if isinstance(arg, int):
            arg = np.int32(arg)
        elif isinstance(arg, float):
            arg = real(arg)
        elif is_array(arg) and not arg.flags.c_contiguous:
            raise ValueError(f"kernel {name}: an array of shape {arg.shape} is not contiguous")
        in_c.append(arg)
    kernel = compiled(module_of(like), source, name, name_of(like.dtype))
    kernel(grid, (block,), tuple(in_c))


@functools.cache
def name_of(dtype: np.dtype) -> str:
    """The name of a dtype, cached: NumPy builds it for every call, which takes as long as a launch."""
    return dtype.name


@functools.cache
def compiled(xp: Any, source: str, name: str, dtype: str) -> Any:
    """A RawKernel of `xp` (CuPy), which is compiled at its first launch and then kept."""
    return xp.RawKernel(full_source(source, dtype), name)


def full_source(source: str, dtype: str) -> str:
    """The full source to compile: the types of `dtype`, the PRELUDE, and `source`.

    Letters that are not ASCII, as in comments, are removed, because CuPy writes a file in the machine's own encoding.
    """
    return (TYPES[dtype] + PRELUDE + source).encode("ascii", "ignore").decode("ascii")


def supports(*arrays: Any, source: str = "", bfloat16: bool = False) -> bool:
    """Whether all `arrays` are float32, or all float64; with `bfloat16`, also all of that. None is ignored.

    source: kernels that must work here for this dtype. Where they do not, the op runs in its textbook form.
    """
    there = [array for array in arrays if array is not None]
    names = {name_of(array.dtype) for array in there}
    if len(names) != 1 or not names <= {"float32", "float64", *(["bfloat16"] if bfloat16 else [])}:
        return False
    return works(module_of(there[0]), source, *names)


class KernelWarning(UserWarning):
    """A kernel cannot be compiled or launched on this GPU."""


@functools.cache
def works(xp: Any, source: str, dtype: str) -> bool:
    """Whether the kernels of `source` can be compiled for `dtype`, and launched. Warns once if not.

    A launch fails where a block has more threads than the GPU has registers for.
    """
    for name in re.findall(r"__global__ void (\w+)", source):
        try:
            most = compiled(xp, source, name, dtype).max_threads_per_block  # compiles it
            problem = f"blocks of {THREADS} threads need too many registers" if most < THREADS else None
        except Exception as error:  # NVRTC's or the driver's: whatever it is, plain CuPy does not need the kernel
            problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if problem is not None:
            sentence = f"plain CuPy takes the place of the CUDA kernel {name} for {dtype}: {problem}"
            warnings.warn(sentence, KernelWarning, stacklevel=2)
            return False
    return True


def real_of(array: Array) -> type:
    """The type that kernels for `array` compute with."""
    return np.float64 if array.dtype.char == "d" else np.float32


def ceil_div(n: int, size: int) -> int:
    """The number of pieces of `size` that hold n items.

    >>> ceil_div(0, 4), ceil_div(4, 4), ceil_div(5, 4)
    (0, 1, 2)
    """
    return -(-n // size)
