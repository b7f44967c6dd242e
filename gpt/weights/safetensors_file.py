"""The safetensors format: a file of named arrays that can be read one at a time and cannot run code.

    8 bytes    N, the length of the header, little-endian
    N bytes    the header: {"wte.weight": {"dtype": "F32", "shape": [50257, 768], "data_offsets": [0, 154389504]}, ...}
    the rest   the numbers; offsets count from here, rows come one after the other (C order)

A reader is a dozen lines:

>>> def load(path: Path) -> dict[str, Array]:
...     content = path.read_bytes()
...     n = int.from_bytes(content[:8], "little")
...     header, numbers = json.loads(content[8 : 8 + n]), content[8 + n :]
...     header.pop("__metadata__", None)  # notes of whoever wrote the file
...     arrays = {}
...     for name, entry in header.items():
...         start, end = entry["data_offsets"]
...         array = np.frombuffer(numbers[start:end], DTYPES[entry["dtype"]])
...         arrays[name] = array.reshape(entry["shape"])
...     return arrays

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     path = Path(folder) / "model.safetensors"
...     write_safetensors(path, {"weight": np.array([[1.0, 2.0, 3.0]])})
...     load(path)
{'weight': array([[1., 2., 3.]])}

A file from a stranger may lie, so the header is checked completely: the bytes of every tensor must fit its shape and
dtype, and all tensors together must cover the file without gaps, overlaps or surplus bytes. A file that passes can be
read without further checks and needs no more memory than its length (BF16, which NumPy does not have, becomes float32:
twice the memory, and while a tensor is read, it briefly needs both copies).

https://huggingface.co/docs/safetensors, section "Format". Types smaller than a byte are not supported.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minigrad.backend import Array, to_numpy

from ..file_checks import check_places, check_tensor_name
from ..files import StrPath, atomic_write, errors_at, open_regular, parse_json, shortened

# Room for 80,000 tensors. The reference implementation accepts ten times that, but a header made to be slow (a hundred
# megabytes of empty lists) would keep Python's JSON reader busy for minutes, in gigabytes.
MAX_HEADER_BYTES = 10_000_000
# What NumPy calls them. BF16, the upper half of a float32, is read as just those 16 bits.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(code).name: name for name, code in DTYPES.items() if name != "BF16"}
_NAMES["bfloat16"] = "BF16"  # arrays of it are those of the package ml_dtypes


class SafetensorsError(ValueError):
    """The file is not a valid safetensors file."""


class Entry(NamedTuple):
    """The header's entry for a tensor, whose bytes are [start, end) of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


# --- reading ----------------------------------------------------------------------------------------------------------


class SafetensorsFile(contextlib.AbstractContextManager["SafetensorsFile"]):
    """An open file: `entries` by name, in the file's order, `metadata`, and `read(name)`. Close it, or use `with`.

    Raises what `open_regular` raises, and SafetensorsError naming the file, the tensor and what is wrong with it.
    """

    def __init__(self, path: StrPath):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._file: BinaryIO = open_regular(path)
        try:
            with errors_at(str(path), SafetensorsError):
                self.entries, self.metadata = _read_header(self._file)
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Read a tensor, or some rows of it, which follow each other. BF16 becomes float32 without loss. Several
        threads may read. Raises SafetensorsError if the file has shrunk.
        """
        dtype, shape, place, end = self.entries[name]
        if rows is not None:
            first, stop, _ = rows.indices(shape[0])
            bytes_of_row = (end - place) // shape[0]
            place += first * bytes_of_row
            shape = (stop - first, *shape[1:])
        array = np.empty(math.prod(shape), DTYPES[dtype])
        with self._lock:
            self._file.seek(place)
            length = self._file.readinto(array.view(np.uint8).data)  # type: ignore[attr-defined]
        if length < array.nbytes:
            raise SafetensorsError(f"{self.path}: the file became shorter while {name} was read from it")
        if dtype == "BOOL" and (array.view(np.uint8) > 1).any():
            raise SafetensorsError(f"{self.path}: {name} is BOOL and holds bytes that are neither 0 nor 1")
        if dtype == "BF16":
            return float32_of(array).reshape(shape)
        return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(shape)


def float32_of(bfloat16: np.ndarray) -> np.ndarray:
    """The numbers whose upper 16 bits are given, as uint16: the other 16 are 0."""
    return np.left_shift(bfloat16, 16, dtype=np.uint32).view(np.float32)


def _read_header(file: BinaryIO) -> tuple[dict[str, Entry], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"truncated, or not a safetensors file: its {size:,} bytes end within the header")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes is more than {MAX_HEADER_BYTES:,}")
    with errors_at("not a safetensors file, or damaged"):
        header = parse_json(file.read(length).decode("utf-8"), "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ in the header must map names to texts")
    entries = {name: _entry(value, name, 8 + length) for name, value in header.items()}
    check_places({name: (entry.start, entry.end) for name, entry in entries.items()}, 8 + length, size)
    return entries, metadata


def _entry(value: Any, name: str, data: int) -> Entry:
    """One tensor of the header, whose numbers start `data` bytes into the file."""
    # The name, and the keys of the entry.
    check_tensor_name(name)
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the header must say dtype, shape and data_offsets of {name}, and no more")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    # The dtype is one that we know.
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} has the dtype {shortened(dtype)}; known are {', '.join(DTYPES)}")
    # Shape and offsets are lists of integers.
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{what} of {name} must be a list of integers >= 0, got {shortened(numbers)}")
    # NumPy can make an array of this shape.
    itemsize = np.dtype(DTYPES[dtype]).itemsize
    if len(shape) > 32 or math.prod(max(n, 1) for n in shape) * itemsize >= 2**63:
        raise ValueError(f"{name} has the shape {shortened(shape)}, which no array can have")
    # The offsets span exactly the bytes that shape and dtype need.
    needed = math.prod(shape) * itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != needed:
        described = f"{name} is {dtype} of shape {tuple(shape)}, which is {needed:,} bytes"
        raise ValueError(f"{described}, but its data_offsets are {shortened(offsets)}")
    return Entry(dtype, tuple(shape), data + offsets[0], data + offsets[1])


# Why not the library `safetensors`? It does not load in the browser: Pyodide has no package of it. Reading 471 MB into
# a model takes 0.2 s and no other memory; the library takes 1.2 s and 630 MB more, and if a file shrinks while it has
# mapped it, the process dies.


# --- writing ----------------------------------------------------------------------------------------------------------


def write_safetensors(path: StrPath, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays to a file atomically. Raises TypeError for a dtype that the format does not have, OSError."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # The widest numbers first, so that each tensor starts at a multiple of its numbers' size; otherwise as given.
    ordered = sorted(tensors.items(), key=lambda item: -np.dtype(item[1].dtype).itemsize)
    end = 0
    for name, array in ordered:
        dtype = np.dtype(array.dtype).name
        if dtype not in _NAMES:
            raise TypeError(f"{name} is {dtype}, which safetensors does not have")
        start = end  # behind the tensor before
        end = start + array.nbytes
        header[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")  # as compact as the library writes it
    text += b" " * (-len(text) % 8)  # so that the numbers start at a multiple of 8
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            host = np.ascontiguousarray(to_numpy(array))  # a model is copied from a GPU a tensor at a time
            # Its bytes, little-endian, uncopied if they are so already.
            file.write(host.astype(host.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data)
