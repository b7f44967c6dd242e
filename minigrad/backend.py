"""Arrays and devices: the only file that imports CuPy beside NumPy.

The array decides. An op asks `xp = module_of(x)` and calls `xp.exp(x)`, so the same source works with NumPy on the CPU
and with CuPy on CUDA. Nothing is converted silently: arrays move with `to_device` and come back with `to_numpy`.

The file also holds `scatter_add` and the random streams, of which there are two kinds:

* `generator()`, one seeded stream on the host, for what happens in a fixed order: initial weights, batches, sampling;
* `uniform(key, ...)`, a counter-based stream [1] that is a pure function of its key. Dropout uses it, so every
  order of evaluation (forward or backward, one thread or many, whole matrix or tiles) sees the same mask.

[1] Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray  # or cupy.ndarray, which has the same methods

DEFAULT_DTYPE = np.dtype(np.float32)
NUMBERS = "biufc"  # NumPy's kinds of dtypes: booleans, integers, floats, complex numbers

_modules: dict[type, Any] = {np.ndarray: np}  # the type of an array -> the module that computes with it


# --- which library, which device -------------------------------------------------------------------------------------


def module_of(array: Any) -> Any:
    """The module (`numpy` or `cupy`) whose functions take `array`."""
    module = _modules.get(type(array))
    if module is not None:
        return module
    if isinstance(array, np.ndarray | np.generic):  # subclasses such as np.memmap
        return np
    if type(array).__module__.split(".")[0] == "cupy":
        return _load_cupy()
    raise TypeError(f"{type(array).__name__} is not an array; expected a NumPy or CuPy array")


def is_array(value: Any) -> bool:
    """Is `value` a NumPy or CuPy array? (NumPy's scalars are not.)"""
    return type(value) in _modules or isinstance(value, np.ndarray) or type(value).__module__.split(".")[0] == "cupy"


def array_of(x: Any) -> Any:
    """The array of a Tensor; anything else as it is."""
    return x.data if hasattr(x, "requires_grad") else x


# NumPy's dtypes of Python's numbers, and ours. In a browser NumPy's integers have 32 bits.
_PYTHONS: dict[Any, Any] = {np.dtype(np.float64): DEFAULT_DTYPE, np.dtype(np.intp): np.dtype(np.int64)}


def as_array(data: Any, dtype: Any = None, device: str | None = None) -> Array:
    """A number or a nested list as an array. An array, or that of a tensor, is shared unless it must be converted.

    The result is a plain array of numbers in the machine's byte order. Without a dtype, Python floats become float32,
    and Python integers int64.
    Raises ValueError for a list whose rows differ in length, TypeError for anything else that does not consist of
    numbers.
    """
    is_converted = dtype is not None or device is not None
    if type(data) is np.ndarray and data.dtype.isnative and data.dtype.kind in NUMBERS and not is_converted:
        return data  # nearly always
    data = array_of(data)
    what = f"cannot make a tensor of {type(data).__name__}"
    try:
        array = data if is_array(data) else np.asarray(data)
    except ValueError:
        raise ValueError(f"{what}: its rows differ in length") from None
    if isinstance(array, np.matrix):
        raise TypeError(f"{what}, whose * is a matrix product: pass np.asarray(matrix)")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{what}, because its mask would be lost: pass array.filled(value)")
    if array.dtype.kind not in NUMBERS and array.dtype.isbuiltin != 2:  # 2: a dtype of a package, such as bfloat16
        raise TypeError(f"{what}: its elements are not numbers, but of dtype {array.dtype}")
    if dtype is not None:
        array = array.astype(dtype, copy=False)
    elif not (is_array(data) or isinstance(data, np.generic)) and array.dtype in _PYTHONS:
        array = array.astype(_PYTHONS[array.dtype], copy=False)
    if is_unusual(array):
        array = np.asarray(array, array.dtype.newbyteorder("="))
    return array if device is None else to_device(array, device)


def is_unusual(value: Any) -> bool:
    """Is `value` an array of a subclass, whose operators may do something else, or in the other byte order?"""
    return isinstance(value, np.ndarray) and (type(value) is not np.ndarray or not value.dtype.isnative)


def buffer_of(array: Array) -> Array:
    """The array that owns the memory of `array`: `array` itself, or the one that it is a view of."""
    base: Any = array.base
    return buffer_of(base) if is_array(base) else array


def named_arrays(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Array]]:
    """The arrays among the values, with their names, also inside tuples, lists, dictionaries and plain objects."""
    pending, seen = list(named), set()
    while pending:
        name, value = pending.pop(0)
        if is_array(value):
            yield name, value
        elif isinstance(value, tuple | list):
            pending += [(f"{name}[{i}]", entry) for i, entry in enumerate(value)]
        elif isinstance(value, dict):
            pending += [(f"{name}[{key!r}]", entry) for key, entry in value.items()]
        elif _is_plain_object(value) and id(value) not in seen:  # an object may refer to itself
            seen.add(id(value))
            pending += [(f"{name}.{key}", entry) for key, entry in vars(value).items()]


def _is_plain_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType)


def device_of(array: Any) -> str:
    """The device that holds `array`: "cpu" or "cuda:0"."""
    return "cpu" if module_of(array) is np else f"cuda:{array.device.id}"


@functools.cache
def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, in one sentence, or None if it can.

    This is found out by trying: CuPy can be imported without a GPU, and its libraries may be missing although there is
    one.
    """
    try:
        xp = _load_cupy()
        if not xp.cuda.is_available():
            return "CuPy is installed, but finds no NVIDIA GPU or driver"
        ones = xp.ones((2, 2), dtype=np.float32)
        (ones @ ones + xp.random.random((2, 2))).sum().item()  # cuBLAS, NVRTC and cuRAND, or an exception
        return None
    except Exception as error:  # whatever it is, CUDA cannot be used, and the error says why
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return "CuPy is not installed (pip install -e '.[cuda12]' or '.[cuda13]')"
        return f"CuPy is installed, but a first computation failed: {type(error).__name__}: {error}"


def resolve_device(device: str) -> str:
    """Turn what a user asked for ("auto", "cpu", "cuda", "cuda:1") into a device that works.

    Raises ValueError for an unknown name, RuntimeError with the reason if CUDA cannot be used.
    """
    if device == "cpu" or (device == "auto" and cuda_problem() is not None):
        return "cpu"
    if device == "auto":
        return "cuda:0"
    name, _, index = str(device).partition(":")
    if name != "cuda" or not (index.isdecimal() or device == "cuda"):
        raise ValueError(f"unknown device {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    problem = cuda_problem()
    if problem is None:
        count = _load_cupy().cuda.runtime.getDeviceCount()
        if int(index or 0) >= count:
            problem = f"this machine has {count} GPU{'s' if count > 1 else ''}, counted from 0"
    if problem is not None:
        raise RuntimeError(f"device {device!r} cannot be used: {problem}")
    return f"cuda:{int(index or 0)}"


def device_and_dtype(targets: tuple[Any, ...], device: str | None, dtype: Any) -> tuple[str | None, np.dtype | None]:
    """The device and the dtype that `x.to(*targets, device=..., dtype=...)` asks for; each target is one of the two.

    >>> device_and_dtype(("cpu", np.float64), None, None)
    ('cpu', dtype('float64'))
    """
    for target in targets:
        if isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda", "auto"):
            device = target
        else:
            dtype = target
    try:
        dtype = None if dtype is None else np.dtype(dtype).newbyteorder("=")
    except TypeError:
        raise TypeError(f"{dtype!r} is neither a device ('cpu', 'cuda', 'cuda:N', 'auto') nor a dtype") from None
    return None if device is None else resolve_device(device), dtype


def to_device(array: Array, device: str) -> Array:
    """`array` on `device`: the same array if it is there already, else a copy.

    The GPU of the last copy becomes the current one: CUDA makes new arrays and runs kernels there.
    """
    device = resolve_device(device)
    if device_of(array) == device:
        return array
    if device == "cpu":
        return to_numpy(array)
    xp = _load_cupy()
    xp.cuda.Device(int(device.split(":")[1])).use()
    return xp.asarray(array)


def to_numpy(array: Any) -> np.ndarray:
    """`array` on the host; for a NumPy array, itself. On a GPU this waits until the array has been computed."""
    return array if isinstance(array, np.ndarray) else array.get()


@functools.cache
def _load_cupy() -> Any:
    import cupy  # until somebody has a GPU, only tests/standin has taken its place

    _modules[cupy.ndarray] = cupy
    return cupy


# --- sums -------------------------------------------------------------------------------------------------------------


def sum_over(x: Array, axes: int | tuple[int, ...] | None, keepdims: bool = False, divisor: Any = None) -> Array:
    """x.sum(axes), divided by `divisor` if there is one. Computed in a `wider` dtype, returned in that of x."""
    if isinstance(axes, int):
        axes = (axes,)
    terms = x.size if axes is None else math.prod([x.shape[axis] for axis in axes])
    computed, result = wider(x.dtype, terms)
    total = x.sum(axis=axes, keepdims=keepdims, dtype=computed)
    return (total if divisor is None else total / divisor).astype(result, copy=False)


def wider(dtype: np.dtype, n: int) -> tuple[Any, Any]:
    """The dtype in which n numbers of `dtype` are added up, and that of their sum.

    Booleans and integers give int64. Many numbers of float32 are added up in float64: along all axes but the last NumPy
    adds one after the other, and a large sum has no digits left for a small number (the mean of a million times 0.1
    would be 0.101). For float16 a few thousand numbers would be too many, so it is always added up in float32.
    (bfloat16, the other float of two bytes, has still fewer digits.) Where not only a sum needs them, see `in_float32`.
    """
    if dtype.kind in "biu":
        return np.int64, np.int64
    if dtype.itemsize == 2:
        return np.float32, dtype
    return (np.float64 if dtype == np.float32 and n >= 4096 else dtype), dtype


def scatter_add(shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """zeros(shape) with `values` added at `index`. One that occurs twice is added twice, which `+=` does not do."""
    computed, result = wider(values.dtype, 1)
    total = module_of(values).zeros(shape, computed)
    module_of(values).add.at(total, index, values.astype(computed, copy=False))
    return total.astype(result, copy=False)


# --- random streams --------------------------------------------------------------------------------------------------


class _RandomState:
    """The seed, the host generator that started from it, and the number of keyed streams that were handed out."""

    def __init__(self, seed: int):
        self.seed = seed
        self.streams_used = 0

    @functools.cached_property
    def host(self) -> np.random.Generator:  # made when it is needed, because importing numpy.random takes 15 ms
        return np.random.default_rng(self.seed)


_random = _RandomState(0)


def manual_seed(seed: int) -> None:
    """Start all random numbers of minigrad (initial weights, dropout, sampling) from `seed`, an integer >= 0."""
    global _random
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
    _random = _RandomState(int(seed))


def generator() -> np.random.Generator:
    """The seeded host generator, for everything that is drawn in a fixed order."""
    return _random.host


def next_stream() -> tuple[int, int]:
    """A fresh key (seed, number) for `uniform`: the n-th call after `manual_seed` always gives the same one."""
    _random.streams_used += 1
    return _random.seed, _random.streams_used


def uniform(
    xp: Any, stream: tuple[int, int], shape: tuple[int, ...], head: int = 0, block: int = 0, start: int = 0
) -> Array:
    """float32 numbers in [0, 1) of `shape`, a pure function of (stream, head, block); without the first `start`."""
    if xp is np:
        key = np.array([part % 2**64 for part in stream], np.uint64)
        bits = np.random.Philox(key=key, counter=[start // 8, 0, block, head])  # a count gives 8 numbers
        numbers = np.random.Generator(bits).random(start % 8 + math.prod(shape), dtype=np.float32)
        return numbers[start % 8 :].reshape(shape)
    place = [start] if start else []  # CuPy cannot skip numbers: others, but also keyed by their place
    (key,) = np.random.SeedSequence([*stream, head, block, *place]).generate_state(1, np.uint64)
    return xp.random.Generator(xp.random.Philox4x3210(int(key))).random(shape, dtype=np.float32)


_rows: tuple[int, int, int] | None = None  # the first row, number of rows, and rows of the whole batch


def share_rows(rows: slice | None, whole: int = 0) -> None:
    """Say which rows of each batch of `whole` rows this process has, so that its random numbers are those of the same
    rows of the whole batch. None: it has all of them.

    An array may have several times as many rows, as where a batch of pairs is read as all first ones, then all second.
    """
    global _rows
    _rows = None if rows is None else (rows.start, rows.stop - rows.start, whole)


def place_in_batch(index: int, per_row: int) -> int:
    """The place in the whole batch of this process's number `index`, where each row has `per_row` numbers.

    >>> share_rows(slice(3, 5), whole=6)  # rows 3 and 4 of 6, and of an array with 12 rows, also 9 and 10
    >>> [place_in_batch(index, per_row=1) for index in range(4)]
    [3, 4, 9, 10]
    >>> share_rows(None)
    """
    if _rows is None or per_row == 0:
        return index
    first, count, whole = _rows
    row, rest = divmod(index, per_row)
    part, row = divmod(row, count)
    return (part * whole + first + row) * per_row + rest


def uniform_rows(xp: Any, stream: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """`uniform` for an array whose first axis are the rows of a batch, of which this process may have a share."""
    n = (shape or (1,))[0]
    per_row = math.prod(shape[1:])
    adjacent = _rows[1] if _rows and n % _rows[1] == 0 else n
    starts = [place_in_batch(row * per_row, per_row) for row in range(0, n or 1, adjacent or 1)]
    parts = [uniform(xp, stream, (adjacent, *shape[1:]), start=start) for start in starts]
    return parts[0].reshape(shape) if len(parts) == 1 else xp.concatenate(parts)


def random_state() -> dict[str, Any]:
    """The state of all random numbers as a dictionary that JSON can hold, for checkpoints."""
    return {"seed": _random.seed, "streams_used": _random.streams_used, "host": _random.host.bit_generator.state}


def set_random_state(state: dict[str, Any]) -> None:
    """Continue from what `random_state` returned. For anything else, an error, and nothing changes."""
    restored = _RandomState(state["seed"])
    restored.streams_used = int(state["streams_used"])
    restored.host.bit_generator.state = state["host"]
    # If all of it was right: somebody may hold the generator, so it stays the same object.
    _random.host.bit_generator.state = state["host"]
    _random.seed, _random.streams_used = restored.seed, restored.streams_used


# --- threads ---------------------------------------------------------------------------------------------------------


def usable_cores() -> int:
    """The processor cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
