"""Read GGUF, the file format of llama.cpp: settings, vocabulary and weights, usually with 4 or 8 bits.

    "GGUF", version, the number of tensors and of settings
    the settings   {"llama.block_count": 30, "tokenizer.ggml.tokens": ["<|endoftext|>", ...], ...}, each with its type
    the tensors    name, sizes (innermost first), kind, offset of its numbers
    the numbers    of each tensor, row by row

Quantized rows are stored in blocks of 32 numbers. A block has one scale and, in one kind, a minimum (float16 each), and
an integer code for each number:

    Q8_0   number = scale * code              -128 <= code <= 127    34 bytes, 8.5 bits a number
    Q4_0   number = scale * (code - 8)           0 <= code <= 15     18 bytes, 4.5 bits
    Q4_1   number = scale * code + minimum       0 <= code <= 15     20 bytes, 5 bits

The library gguf understands the header. The file may come from anybody, and the library trusts every length in it, so
we keep the library from reading outside the file. It also maps the file, and if a mapped file shrinks, the process
dies. So we read all bytes ourselves: the numbers where they are used.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The library also dequantizes Q4_K, Q5_K and Q6_K. Other kinds
of blocks, and big-endian files, are not supported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..file_checks import check_places, check_tensor_name
from ..files import StrPath, errors_at, open_regular, shortened
from .safetensors_file import float32_of

BLOCK = 32  # numbers
# How a block lies in the file. A byte holds the codes of number i (its lower half) and number i + 16 (its upper half).
BLOCKS = {
    "Q8_0": np.dtype([("scale", "<f2"), ("codes", "i1", 32)]),
    "Q4_0": np.dtype([("scale", "<f2"), ("codes", "u1", 16)]),
    "Q4_1": np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", 16)]),
}
# Larger blocks, of 256 numbers with scales of scales: the library dequantizes them.
K_QUANTS = ("Q4_K", "Q5_K", "Q6_K")
KINDS = ("F32", "F16", "BF16", *BLOCKS, *K_QUANTS)  # what `dequantize` reads
MAX_ENTRIES = 1_500_000  # in a header. Room for vocabularies of 500,000 tokens and their merges


class GGUFError(ValueError):
    """The file is damaged, or is a kind of GGUF file that we do not support."""


def is_gguf(path: StrPath) -> bool:
    """Whether `path` is a GGUF file, by its name."""
    return Path(path).suffix.lower() == ".gguf" and not Path(path).is_dir()


class GGUFTensor(NamedTuple):
    """A tensor of the file: its shape in NumPy's order (rows first), its kind, and its bytes, (rows, bytes per row).

    `raw` is an array or, in a file, a `Stored`: `raw[rows]` is an array. For F32 and F16 it holds numbers instead of
    bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    raw: Any


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in a file, whose rows are read where they are used: stored[2:5]. Several threads may read.

    Raises GGUFError if the file has shrunk.
    """

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: Any

    def __getitem__(self, rows: Any) -> np.ndarray:
        first, stop, _ = rows.indices(self.shape[0])
        row = np.dtype((self.dtype, self.shape[1:]))
        found = np.fromfile(self.path, row, stop - first, offset=self.start + first * row.itemsize)
        if len(found) < stop - first:
            raise GGUFError(f"{self.path}: the file became shorter while it was read")
        return found


class GGUFFile:
    """A GGUF file: `metadata` (settings by name: numbers, texts, lists of them) and `tensors` by name.

    Raises FileNotFoundError, and GGUFError naming the file and what is wrong with it.
    """

    def __init__(self, path: StrPath):
        self.path = Path(path)
        open_regular(path).close()
        try:
            reader = _open(self.path)
            fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
            self.metadata = {name: _value(field) for name, field in fields.items()}
        except (GGUFError, OSError):
            raise
        except Exception as error:  # the reader has no error of its own for damaged files
            raise GGUFError(f"{path} is truncated, damaged, or not a GGUF file: {error!r:.200}") from None
        with errors_at(str(path), GGUFError):
            self.tensors = {tensor.name: _tensor(tensor, self.path) for tensor in reader.tensors}
            places = {each.name: (each.data_offset, each.data_offset + each.n_bytes) for each in reader.tensors}
            size = reader.data.size
            check_places(places, min(reader.data_offset, size), size, int(reader.alignment))


# --- reading the header -----------------------------------------------------------------------------------------------


def gguf_library(path: StrPath = "a GGUF file") -> Any:
    """The library gguf, for a file. Raises GGUFError if it is missing."""
    try:
        import gguf
    except ImportError:
        raise GGUFError(f"{path} needs the library gguf, which is missing: pip install gguf") from None
    return gguf


def _open(path: Path) -> Any:
    """The library's reader with the file's header read."""
    gguf = gguf_library(path)
    Base: Any = gguf.GGUFReader

    class Reader(Base):
        """A reader that stays inside the file. Otherwise it would follow a wrong length for hours, and fill the memory
        with empty arrays."""

        data: Any  # the mapped file, whose bytes are never looked at
        header = np.zeros(0, np.uint8)  # the bytes of the file that have been read, from its start
        entries = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, **_: Any) -> Any:
            if self.byte_order == "S":
                raise GGUFError(f"{path} is big-endian; only files for ordinary (little-endian) machines are read")
            self._count(1)
            return self._read(int(offset), int(offset) + np.dtype(dtype).itemsize * int(count)).view(dtype)

        def _read(self, start: int, end: int) -> np.ndarray:
            """Bytes of the header; after it, only the places of tensors are needed."""
            if end > self.header.size:
                if end > self.data.size:
                    raise GGUFError(f"{path} is truncated or damaged: its header describes more than there is")
                if hasattr(self, "data_offset"):
                    return self.data[start:end]
                self.header = np.fromfile(path, np.uint8, 2 * end)
            return self.header[start:end]

        def _get_field_parts(self, offset: int, kind: int) -> tuple[int, list[Any], list[int], list[Any]]:
            """A list in one piece: its size, its parts, which of them holds the values, and its type. The library would
            make an array of each word of the vocabulary, and take seconds."""
            if kind != gguf.GGUFValueType.ARRAY:
                return super()._get_field_parts(offset, kind)
            items, count = gguf.GGUFValueType(self._get(offset, np.uint32)[0]), int(self._get(offset + 4, np.uint64)[0])
            self._count(count)
            start = end = int(offset) + 12  # after the type (4 bytes) and the count (8 bytes)
            if items == gguf.GGUFValueType.STRING:
                values = []
                for _ in range(count):
                    length = self._read(end, end + 8).view("<u8").item()
                    values.append(str(self._read(end + 8, end + 8 + length).tobytes(), "utf-8"))
                    end += 8 + length
            elif items in self.gguf_scalar_to_np:
                numbers = self._get(start, self.gguf_scalar_to_np[items], count)
                values = numbers.tolist()
                end = start + numbers.nbytes
            else:
                raise ValueError("a setting is a list of lists")
            return 12 + end - start, [values], [0], [gguf.GGUFValueType.ARRAY, items]

        def _count(self, entries: int) -> None:
            self.entries += entries
            if self.entries > MAX_ENTRIES:
                raise GGUFError(f"{path}: a header of more than {MAX_ENTRIES:,} entries is not read")

    with np.errstate(over="raise"):  # places near 2^64
        return Reader(path)


def _value(field: Any) -> Any:
    """A setting as a number, a text, or a list."""
    values = field.parts[field.data[0]]
    kind = field.types[0].name
    if kind == "STRING":
        return str(bytes(values), "utf-8")
    return values if kind == "ARRAY" else values.item()


def _tensor(found: Any, path: Path) -> GGUFTensor:
    shape = tuple(int(size) for size in reversed(found.shape))
    check_tensor_name(found.name)
    if not shape or 0 in shape:
        raise ValueError(f"{found.name} has the shape {shortened(shape)}, which no tensor has")
    return GGUFTensor(
        found.name, shape, found.tensor_type.name, Stored(path, found.data_offset, found.data.shape, found.data.dtype)
    )


# --- the numbers ------------------------------------------------------------------------------------------------------


def dequantize(tensor: GGUFTensor) -> np.ndarray:
    """A tensor as float32, with as many rows as `raw` has. Raises GGUFError for a kind that is not in KINDS."""
    if tensor.kind in ("F32", "F16"):
        numbers = tensor.raw[:]
    elif tensor.kind == "BF16":  # the upper half of a float32
        numbers = float32_of(tensor.raw[:].view("<u2"))
    elif tensor.kind in K_QUANTS:
        gguf = gguf_library()
        numbers = gguf.quants.dequantize(tensor.raw[:], gguf.GGMLQuantizationType[tensor.kind])
    else:
        codes, scales, minimums = unpack(tensor)
        numbers = codes.reshape(*scales.shape, BLOCK) * scales[..., None]  # (rows, blocks, 32)
        if minimums is not None:
            numbers += minimums[..., None]
    return numbers.astype(np.float32, copy=False).reshape(-1, *tensor.shape[1:])


def unpack(tensor: GGUFTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The parts of a quantized tensor (rows, columns): codes (rows, columns), and float32 scales and, for Q4_1,
    minimums (rows, columns / 32).

    number = scale * code + minimum. Codes are int8, or uint8 for Q4_1. Raises GGUFError for a kind that is not in
    BLOCKS.

    >>> block = np.zeros((1, 1), BLOCKS["Q4_1"])  # a row of 32 numbers
    >>> block["scale"], block["minimum"], block["codes"][..., 0] = 0.5, -1.0, 0x2F
    >>> codes, scales, minimums = unpack(GGUFTensor("w", (1, 32), "Q4_1", block.view(np.uint8)))
    >>> int(codes[0, 0]), int(codes[0, 16]), scales.item(), minimums.item()
    (15, 2, 0.5, -1.0)
    """
    if tensor.kind not in BLOCKS:
        raise GGUFError(f"{tensor.name} is {tensor.kind}; the kinds of blocks unpacked here are {', '.join(BLOCKS)}")
    blocks = tensor.raw[:].view(BLOCKS[tensor.kind])  # (rows, columns / 32)
    codes = blocks["codes"]  # (rows, columns / 32, 32 or 16)
    if tensor.kind != "Q8_0":
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1)  # numbers 0 to 15, then 16 to 31
    if tensor.kind == "Q4_0":
        codes = codes.astype(np.int8) - np.int8(8)
    minimums = blocks["minimum"].astype(np.float32) if tensor.kind == "Q4_1" else None
    return codes.reshape(*tensor.raw.shape[:-1], -1), blocks["scale"].astype(np.float32), minimums
