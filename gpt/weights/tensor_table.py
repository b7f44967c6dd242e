"""Load and save weights with a table: which tensor of the file is which of ours, and is it transposed?

gpt2_huggingface.py, llama_huggingface.py and llama_gguf.py have such tables, with one row per tensor. Matching shapes
verify the architecture, component by component, before a single number is computed.

The files may come from anybody. Names and shapes are compared before memory is allocated, tensors are read one at a
time, each must be finite, and an error names the tensor that does not fit.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minigrad import nn
from minigrad.backend import Array
from minigrad.kernels.cpu import threads

from ..memory_check import check_memory
from .safetensors_file import Entry

M = TypeVar("M", bound=nn.Module)
Shape = tuple[int, ...]

HEAD = "lm_head.weight"  # if tied, it is stored with the embedding's numbers, or not at all


class Row(NamedTuple):
    """A tensor: its name in the file, its name and shape in our model, and whether the file has it transposed."""

    theirs: str
    ours: str
    our_shape: Shape
    transposed: bool = False

    @property
    def their_shape(self) -> Shape:
        return self.our_shape[::-1] if self.transposed else self.our_shape


# A name, with * for a block's number; our shape, in letters; is it stored transposed?
Line = tuple[str, tuple[str, ...], bool]


def lines_of(table: str) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """The lines of a table: a name, the letters of a shape, and the notes after it.

    >>> list(lines_of("h.*.attn.c_attn.weight  3C,C  transposed"))
    [('h.*.attn.c_attn.weight', ('3C', 'C'), ['transposed'])]
    """
    for line in table.strip().splitlines():
        name, letters, *notes = line.split()
        yield name, tuple(letters.split(",")), notes


def pairs_of(table: str) -> dict[str, str]:
    """The lines of a table with two columns."""
    return dict(line.split() for line in table.strip().splitlines())


def rows_of(table: Iterable[Line], sizes: Mapping[str, int], prefix: str, config: Any) -> Iterator[Row]:
    """The rows of a table for a model: lines with a * once for each block, and the head if it is not tied.

    sizes: the numbers for the letters. prefix: what our names have before theirs.
    """
    for in_blocks, lines in itertools.groupby(table, key=lambda line: "*" in line[0]):
        kept = list(lines)
        for number in range(config.n_layer if in_blocks else 1):
            for name, letters, transposed in kept:
                theirs = name.replace("*", str(number))
                yield Row(theirs, prefix + theirs, tuple(sizes[letter] for letter in letters), transposed)
    if not config.tied:
        yield Row(HEAD, HEAD, (config.vocab_size, config.n_embd))


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors of a folder or a file.

    place: the folder or file. described_in: the file that says which tensors there should be. Both are used in errors.
    kinds: the dtypes that can be read. read(name, rows) reads some rows of a tensor, as floats. path(name): the file
    that a tensor is in.
    """

    place: Path
    described_in: str
    kinds: tuple[str, ...]
    entries: dict[str, Entry]
    read: Callable[[str, slice], np.ndarray]
    path: Callable[[str], Path]


# --- comparing --------------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """A row of the report: the expected tensor, the tensor found, and the problem, or "".

    expected: None for an unexpected tensor. found: None for a missing tensor.
    """

    name: str
    expected: Row | None
    found: Entry | None
    problem: str

    def __str__(self) -> str:
        found = f"{self.found.dtype:4} {self.found.shape}" if self.found else "missing"
        ours = f"{self.expected.ours:37}{self.expected.our_shape}" if self.expected else "nothing of ours"
        transposed = "transposed" if self.expected and self.expected.transposed else ""
        return f"{self.name:24} {found:20} -> {ours:52} {transposed:10} {self.problem or 'ok'}"


def matches(source: Source, expected: Iterable[Row], tied_to: str = "") -> Iterator[Match]:
    """Every expected tensor, in order, and then the unexpected ones.

    tied_to: the embedding's name in the file, if the file may hold it a second time as HEAD.
    """
    left = dict(source.entries)
    for row in expected:
        tied = [row._replace(theirs=HEAD)] if row.theirs == tied_to and HEAD in left else []
        for wanted in (row, *tied):
            found = left.pop(wanted.theirs, None)
            yield Match(wanted.theirs, wanted, found, _problem(wanted, found, source.kinds))
    for name, found in left.items():
        hint = next((hint for part, hint in HINTS.items() if part in name), "")
        yield Match(name, None, found, f"of shape {found.shape} is surplus: the model has no such tensor{hint}")


def matched(source: Source, expected: Iterable[Row], tied_to: str = "") -> list[Row]:
    """The rows to read, without a tied HEAD. Raises ValueError, naming the tensor, unless all of `matches` fit."""
    table = []
    for match in matches(source, expected, tied_to):
        if match.problem:
            path = source.path(match.name) if match.found else source.place
            raise ValueError(f"{path} does not fit {source.described_in}: {match.name} {match.problem}")
        if match.expected is not None and not (tied_to and match.name == HEAD):
            table.append(match.expected)
    return table


def _problem(row: Row, found: Entry | None, kinds: tuple[str, ...]) -> str:
    if found is None:
        return f"is missing; its shape should be {row.their_shape}"
    if found.dtype not in kinds:
        return f"is {found.dtype}, perhaps quantized in a way that is not read here; {', '.join(kinds)} are"
    if found.shape != row.their_shape:
        swapped = row.transposed and found.shape == row.our_shape
        why = ": it is stored (out, in), and should be (in, out)" if swapped else ""
        return f"has the shape {found.shape} instead of {row.their_shape}{why}"
    return ""


# What a surplus tensor with such a part in its name may be.
HINTS = {
    "lora_": "; it is part of an adapter, which has to be merged into the base model first",
    "score.": "; it is the head of a classifier",
    ".bias": "; it is a bias, where none is added",
}


# --- reading ----------------------------------------------------------------------------------------------------------


def fill(build: Callable[[], M], source: Source, expected: Iterable[Row], tied_to: str = "") -> M:
    """Build a model and read each of its parameters from `source` with the table `expected`. tied_to: see `matches`.

    Raises ValueError, naming the tensor, if it is missing, unexpected, of a wrong shape or not finite, or if HEAD
    differs from the embedding that it should be tied to; or if the model does not fit into this machine's memory.
    """
    table = matched(source, expected, tied_to)
    check_memory(4 * sum(math.prod(row.our_shape) for row in table), f"the model in {source.place}")
    with nn.init.skipped():
        model = build()
    parameters = dict(model.named_parameters())
    if unknown := parameters.keys() ^ {row.ours for row in table}:
        raise ValueError(f"no row of the table fills {min(unknown)}, or the model does not have it")

    def read_rows(piece: tuple[Array, str, slice]) -> None:  # read, checked and copied within the processor's cache
        out, name, rows = piece
        with np.errstate(over="ignore", invalid="ignore"):  # a float64 may be too large: refused, as it is inf then
            numbers = source.read(name, rows).astype(np.float32, copy=False)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{source.path(name)}: {name} holds numbers that are not finite (nan or inf)")
        part = out[rows]
        for row in range(0, len(part), 16):  # where `out` is transposed, 16 rows are a line of the cache
            part[row : row + 16] = numbers[row : row + 16]

    pieces = []
    for row in table:
        parameter = parameters[row.ours].data
        out = parameter.T if row.transposed else parameter
        blocks = [slice(None)] if out.ndim == 1 else threads.row_blocks(len(out), out.shape[1], 2**17)
        pieces += [(out, row.theirs, rows) for rows in blocks]
    threads.parallel(read_rows, pieces, uses_blas=False)
    if tied_to and HEAD in source.entries:
        (embedding,) = (parameters[row.ours].data for row in table if row.theirs == tied_to)
        if not np.array_equal(source.read(HEAD, slice(None)), embedding):
            ours = "in our model, and with tie_word_embeddings, they are one"
            raise ValueError(f"{source.path(HEAD)}: {HEAD} and {tied_to} differ; {ours}")
    return model


# --- writing ----------------------------------------------------------------------------------------------------------


def their_tensors(model: nn.Module, expected: Iterable[Row], name: str = "GPT-2") -> Mapping[str, Array]:
    """Our parameters by our names, in their layout (as views, not copies).

    Raises ValueError for a model that has adapters or quantized layers, or is not a `name`.
    """
    parameters = model.state_dict()
    table = {row.ours: row for row in expected}
    if unknown := parameters.keys() ^ table.keys():
        why = f"{min(unknown)} is missing, or is none of its tensors; merge adapters and undo quantization first"
        raise ValueError(f"only a plain {name} can be saved as one: {why}")
    return {ours: array.T if table[ours].transposed else array for ours, array in parameters.items()}
