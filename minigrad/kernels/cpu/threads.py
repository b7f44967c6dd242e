"""One pool of threads for all kernels, and a memory policy. Importing this starts nothing; `start()` does.

NumPy releases Python's global lock inside its loops and matrix products, so two threads really compute at the same
time. Three rules make this worthwhile:

1. *One level of threads.* The matrix library has its own threads. If two of our threads called it, four threads would
   compete for two cores, and idle workers of the library burn time by spinning. Therefore threadpoolctl limits the
   library to one thread, and we split the products ourselves. Products with few rows are the exception, as in
   generation: waking one of our threads takes longer than the product. For these the library gets its threads back,
   because its threads wait awake, and keeps them until there is work for ours.
2. *Pieces that fit in the cache.* A piece has about BLOCK numbers: large enough to hide Python's microsecond per call,
   small enough that the next operation still finds it in the cache. An array of less than SMALL numbers is one piece,
   because waking a thread takes longer (about 0.1 ms).
3. *Results in a fixed order.* Pieces write to separate places, and partial sums are added in order. Every run gives
   the same bits.

Where no thread can be started, as in a browser, everything runs on one. Without threadpoolctl the matrix library keeps
its threads, and we split no products.

The memory policy: freed memory stays with the process. By default the C library returns large arrays to the operating
system and requests them again in the next step, and the system clears every page each time. That alone can take half of
a training step. And the first 256 MB come in pages of 2 MB instead of 4 KB, so the processor looks up fewer addresses:
the demo's step takes 2 % less time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from ...backend import Array, usable_cores

BLOCK = 256 * 1024  # numbers
SMALL = 2**16  # numbers; with fewer, the work takes less time than waking a thread
SMALL_PRODUCT = 2**22  # multiplications; with fewer, the same
_BUILD: Any = np.show_config(mode="dicts")
HAS_BLAS = _BUILD["Build Dependencies"]["blas"].get("found", False)  # NumPy has a matrix library, unless in a browser
FEW_ROWS = 64  # products with at most this many rows are faster on the matrix library's own threads
ROW_BY_ROW = 6  # up to this many rows are faster as products of one row each
ONE_THREAD = 460_800  # numbers; the matrix library multiplies a vector by a smaller matrix on one thread
OUTPUT_LAYER = 2**23  # numbers; a vector times a larger matrix takes long enough for our threads
Piece = TypeVar("Piece")

_pool: SimpleQueue[Callable[[], None] | None] | None = None  # of tasks: a thread takes one and runs it; None ends it
pool_threads: list[threading.Thread] = []
_this_thread = threading.local()  # is_busy: whether this thread works on a piece
_workers = 1
_blas_limit: Any = None  # threadpoolctl's limit while it is in force
_blas_libraries: list[Any] = []
_blas_threads = 1  # the number of threads that the matrix library may use now


def start() -> None:
    """Start the pool with one thread per usable core, give the matrix library one thread, and keep freed memory."""
    global _pool, _blas_limit, _blas_libraries, _blas_threads
    if _pool is None:
        _pool = SimpleQueue()
        use_workers(usable_cores())
        _keep_freed_memory()
    if _blas_limit is None:
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            return
        controller = ThreadpoolController().select(user_api="blas")
        _blas_limit = controller.limit(limits=1)
        _blas_libraries = controller.lib_controllers
        _blas_threads = 1


def use_workers(count: int) -> None:
    """From now on, let `count` threads share the work: the caller's and, after `start()`, those of the pool.

    Not Python's ThreadPoolExecutor: Ctrl-C at the wrong moment leaves one of its locks locked.
    """
    global _workers
    if _pool is None:
        return
    with contextlib.suppress(RuntimeError):  # no thread can be started
        while len(pool_threads) < count - 1:
            thread = threading.Thread(target=_run_tasks, args=(_pool,), name="minigrad", daemon=True)
            thread.start()
            pool_threads.append(thread)
    _workers = min(count, len(pool_threads) + 1)
    _give_blas(1)  # which with one worker nobody else would do


def _run_tasks(pool: SimpleQueue[Callable[[], None] | None]) -> None:
    while task := pool.get():
        task()
        del task  # what it refers to would stay in memory until the next one


def end_threads() -> None:
    """End the threads of the pool: only a process without threads can be forked safely. See `use_workers`."""
    if _pool is not None:
        for _ in pool_threads:
            _pool.put(None)
        while pool_threads:
            pool_threads.pop().join()
        use_workers(1)


def _after_fork() -> None:
    """A forked process has no threads but the one that forked, and would wait for the pool's for ever: a new pool."""
    global _pool
    if _pool is not None:
        _pool = SimpleQueue()
        pool_threads.clear()
        use_workers(_workers)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


def stop() -> None:
    """Give the matrix library its threads back. The threads of the pool sleep until they are needed again."""
    global _blas_limit
    if _blas_limit is not None:
        _blas_limit.restore_original_limits()
        _blas_limit = None


def _keep_freed_memory() -> None:
    """Tell glibc not to map large arrays one by one and not to shrink the heap. Other C libraries are left alone."""
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_max = -1, -4  # the numbers of these options in malloc.h
    with contextlib.suppress(OSError, AttributeError, MemoryError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        np.empty(2**28, np.uint8)  # later arrays lie in this memory, for which NumPy asked for large pages


def parallel(function: Callable[[Piece], Any], pieces: Iterable[Piece], uses_blas: bool = True) -> list[Any]:
    """[function(piece) for piece in pieces], split among the threads, with the results in order.

    After an exception, or Ctrl-C, no thread begins another piece; the first exception is raised when all have finished
    theirs. A call from inside a piece is not split again: it runs in the thread of that piece.
    """
    # The function is part of the queue, so that a thread that wakes up late finds nothing that would keep arrays alive.
    queue = deque((function, index, piece) for index, piece in enumerate(pieces))
    results: list[Any] = [None] * len(queue)
    alone = _workers == 1 or len(queue) < 2 or (uses_blas and _blas_limit is None)
    if _pool is None or alone or getattr(_this_thread, "is_busy", False):
        _work_off(queue, results)
        return results
    _give_blas(1)
    errors: list[BaseException] = []

    def give_up(error: BaseException) -> None:
        errors.append(error)
        queue.clear()

    def take_part(busy: threading.Lock) -> None:
        with busy:
            try:
                _this_thread.is_busy = True
                _work_off(queue, results)
            except BaseException as error:
                give_up(error)
            finally:
                _this_thread.is_busy = False

    locks = [threading.Lock() for _ in range(min(_workers, len(queue)) - 1)]
    try:
        for lock in locks:
            _pool.put(functools.partial(take_part, lock))
        take_part(threading.Lock())
    except BaseException as error:  # Ctrl-C before or after the pieces
        give_up(error)
    while locks:  # wait for the other threads, also if Ctrl-C is pressed again
        try:
            with locks[-1]:  # free if its thread has finished, or has not begun and so will find no pieces
                locks.pop()
        except BaseException as error:
            give_up(error)
    if errors:
        raise errors.pop(0)
    return results


def _work_off(queue: deque[tuple[Any, ...]], results: list[Any]) -> None:
    """Take pieces from the queue until it is empty. Several threads may do so: a deque gives each piece to one."""
    while True:
        try:
            function, index, piece = queue.popleft()
        except IndexError:
            return
        results[index] = function(piece)


def row_blocks(rows: int, columns: int, numbers: int = BLOCK) -> Iterator[slice]:
    """Slices of rows with about `numbers` numbers each, the same count of slices for every thread; one if small."""
    blocks = 1 if rows * columns < SMALL else math.ceil(rows * columns / numbers / _workers) * _workers
    step = max(1, math.ceil(rows / blocks))
    for row in range(0, rows, step):
        yield slice(row, min(row + step, rows))


def divide_evenly(n: int, most: int, times: int) -> int:
    """Choose the size of pieces, at most `most`. `times` times n items then give every thread equally many pieces."""
    for size in range(min(n, most), 0, -1):
        pieces = math.ceil(n / size)
        if pieces * times % _workers == 0:
            return math.ceil(n / pieces)  # 12 items in two pieces: 6 and 6, and not 8 and 4
    return max(1, min(n, most))


def slices_per_thread(n: int) -> Iterator[slice]:
    """0..n cut into one slice per thread, for products that are fastest in one call."""
    step = max(1, math.ceil(n / _workers / 16) * 16)  # whole vectors
    for row in range(0, n, step):
        yield slice(row, min(row + step, n))


def product(a: Array, b: Array, out: Array) -> None:
    """out = a @ b for matrices, on this thread. Without a matrix library, as in a browser, einsum's loops over rows are
    about twice as fast as matmul's.
    """
    if HAS_BLAS:
        np.matmul(a, b, out=out)
    else:
        np.einsum("ij,jk->ik", a, b, out=out)


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b for matrices, split among the threads."""
    if out is None:
        out = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    if HAS_BLAS and len(a) <= FEW_ROWS and b.size >= SMALL and _blas_limit is not None:
        _matmul_of_few_rows(a, b, out)
    else:
        products([(a, b, out)])
    return out


def products(work: Iterable[tuple[Array, Array, Array]]) -> None:
    """out = a @ b for several independent (a, b, out), all split among the threads together."""
    large: list[Any] = []
    small: list[Any] = []
    for a, b, out in work:
        if a.size * out.shape[1] < SMALL_PRODUCT:
            small.append((a, b, out))
        else:
            large += [(a[rows], b[:, columns], out[rows, columns]) for rows, columns in _slices_of(out)]
    if large:  # the threads are awake, so they also share the small ones
        parallel(lambda piece: product(*piece), large + small)
    else:
        for piece in small:
            product(*piece)


def product_then(a: Array, b: Array, out: Array, then: Callable[[slice], Any]) -> None:
    """out = a @ b, and then(rows) for each block of rows, on the thread that has just computed it."""
    if len(a) < 256 or a.size * out.shape[1] < SMALL_PRODUCT or _blas_limit is None:
        matmul(a, b, out)
        parallel(then, row_blocks(*out.shape), uses_blas=False)
        return

    def compute(rows: slice) -> None:
        product(a[rows], b, out[rows])
        for block in row_blocks(rows.stop - rows.start, out.shape[1]):
            then(slice(rows.start + block.start, rows.start + block.stop))

    parallel(compute, slices_per_thread(len(a)))


def _slices_of(out: Array) -> list[tuple[slice, slice]]:
    """The rows and columns of a product that each thread computes. Columns are cut unless there are at least twice as
    many rows, so the threads mostly read different parts of the larger factor.
    """
    m, n = out.shape
    if m >= 2 * n:
        return [(rows, slice(0, n)) for rows in slices_per_thread(m)]
    return [(slice(0, m), columns) for columns in slices_per_thread(n)]


def _matmul_of_few_rows(a: Array, b: Array, out: Array) -> None:
    """out = a @ b on the matrix library's own threads. They keep spinning for a while, which slows down ours.

    A vector and a matrix of less than ONE_THREAD numbers the library gives to one thread, and dot products are faster.
    They are also faster, split among our threads, from OUTPUT_LAYER numbers on.

    For a product of several rows, the library first copies b into another order, which takes longer than reading it.
    With one row it reads b as it lies. So a handful of rows are multiplied one by one, with one block of b after the
    other: all rows but the first find it in the cache. (A block of columns lies together if b is a transposed weight.)
    Of more rows, outᵀ = bᵀ @ aᵀ takes less time with AVX-512, and as much with AVX2.
    """
    is_transposed = b.flags.f_contiguous
    if len(a) == 1 and is_transposed and not ONE_THREAD <= b.size < OUTPUT_LAYER:
        vector = a[0].conj()  # vecdot conjugates its first factor, if it is complex
        parts = [slice(None)] if b.size < ONE_THREAD else slices_per_thread(b.shape[1])
        parallel(lambda part: np.vecdot(vector, b.T[part], out=out[0, part]), parts)
        return
    _give_blas(_workers)
    if len(a) == 1 or not is_transposed:
        np.matmul(a, b, out=out)
    elif len(a) <= ROW_BY_ROW:
        step = math.ceil(4 * BLOCK / len(b))  # columns
        for start in range(0, b.shape[1], step):
            columns = slice(start, start + step)
            for row in range(len(a)):
                np.matmul(a[row], b[:, columns], out=out[row, columns])
    else:
        out[...] = np.matmul(b.T, a.T).T


def _give_blas(count: int) -> None:
    """Set the matrix library's number of threads. The call takes microseconds, so it is made only on a change."""
    global _blas_threads
    if count != _blas_threads and _blas_limit is not None:
        for library in _blas_libraries:
            library.set_num_threads(count)
        _blas_threads = count


def column_sums(x: Array) -> Array:
    """x.sum(axis=0) of a matrix, as a product with a row of ones, which is three times as fast."""
    return np.ones(x.shape[0], x.dtype) @ x


def total(parts: Iterable[Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """The sum of the pieces' column sums, in order, as an array of `shape`."""
    out = np.zeros(math.prod(shape), dtype)
    for part in parts:
        out += part
    return out.reshape(shape)
