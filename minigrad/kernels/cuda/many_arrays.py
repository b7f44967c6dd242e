"""One launch for all parameters of a model.

GPT-2 has 148 parameter arrays, most of them tiny. A kernel launch takes some microseconds, so 148 launches can take
longer than the arithmetic. Instead, one kernel gets tables: where each array begins, how many numbers it has, and which
piece of which array each block of the grid updates. The tables stay on the GPU and are sent again only if an array has
moved, which is rare, because CuPy's memory pool gives every training step the same memory.

PyTorch calls this multi-tensor apply, or "foreach".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend import Array, module_of
from .launch import ceil_div

CHUNK = 16 * 1024  # numbers that are the work of one block

SOURCE = r"""
// What is this block's: the numbers from start up to stop of one of the arrays. `chunks` is (blocks, 2): which array,
// and which piece of it.
struct Chunk { int array; long long start, stop; };
__device__ Chunk chunk_of_block(const long long* sizes, const int* chunks, int chunk_size) {
    Chunk chunk;
    chunk.array = chunks[2 * blockIdx.x];
    chunk.start = chunks[2 * blockIdx.x + 1] * (long long)chunk_size;
    chunk.stop = min(chunk.start + chunk_size, sizes[chunk.array]);
    return chunk;
}
"""


def tables(*lists: Sequence[Any]) -> tuple[int, list[Any]]:
    """The number of blocks, and the first arguments of a kernel that works on several `lists` of arrays together: a
    table of addresses for each list, then `sizes`, `chunks` and `chunk_size`.

    Arrays at the same place of their lists must have the same size, and all must be contiguous.
    """
    xp, device = module_of(lists[0][0]), lists[0][0].device.id
    addresses = [_on_device(xp, device, tuple([array.data.ptr for array in arrays])) for arrays in lists]
    sizes, chunks = _pieces(xp, device, tuple([array.size for array in lists[0]]))
    return len(chunks), [*addresses, sizes, chunks, CHUNK]


@functools.lru_cache(maxsize=64)
def _on_device(xp: Any, device: int, numbers: tuple[int, ...]) -> Array:
    with xp.cuda.Device(device):
        return xp.asarray(np.array(numbers, np.int64))


@functools.lru_cache(maxsize=64)
def _pieces(xp: Any, device: int, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    pieces = [(index, piece) for index, size in enumerate(sizes) for piece in range(ceil_div(size, CHUNK))]
    with xp.cuda.Device(device):
        return _on_device(xp, device, sizes), xp.asarray(np.array(pieces, np.int32).reshape(-1, 2))
