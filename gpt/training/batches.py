"""From text to batches: token files on disk, mapped into memory, and windows of them as inputs and targets.

A language model is trained to predict the next token at every position, so the targets are the inputs shifted by one
(Radford et al. 2019, section 2). The text is its own label. Token files have the format of nanoGPT's `train.bin` and
`val.bin`, so both programs can use each other's files.

Simplified: windows may start anywhere and cross the borders of documents.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..console import progress_bar
from ..files import StrPath, atomic_write, errors_at, read_json, write_text
from ..tokenizer.pre_tokenization import independent_chunks
from ..tokenizer.tokenizer import Tokenizer

Tokens = NDArray[Any]  # of any integer dtype: an array, or a file mapped into memory
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs and targets, each (B, T)

# ---------------------------------------------------------------------------------------------------------------------
# Token files.


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest dtype for ids below `vocab_size`: uint16, or uint32 above 65,536. Little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_tokens(path: StrPath, ids: ArrayLike, vocab_size: int) -> None:
    """Write token ids as raw integers, as nanoGPT does, and a description in `PATH.json`: count, type and range.

    Each file is written as a whole or not at all. Raises ValueError for ids outside the vocabulary.
    """
    dtype = token_dtype(vocab_size)
    array = validate_ids(ids, vocab_size).astype(dtype)
    # First the description: with an older token file it would not fit, and open_tokens says so.
    write_text(f"{path}.json", json.dumps({"dtype": dtype.name, "vocab_size": vocab_size, "tokens": array.size}))
    with atomic_write(path) as file:
        file.write(array.tobytes())


def open_tokens(path: StrPath) -> Tokens:
    """Map a token file into memory: an array (N,) that is read where it is used.

    A file without a description is nanoGPT's, of uint16. Raises FileNotFoundError, or ValueError for a file that is
    empty, truncated or does not fit its description.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no token file {path}; write it with prepare or write_tokens")
    size = path.stat().st_size
    dtype = np.dtype("<u2")
    expected = None
    description = Path(f"{path}.json")
    if description.exists():
        with errors_at(f"{description} is damaged, prepare the data again", caught=(ValueError, KeyError, TypeError)):
            content = read_json(description)
            dtype, expected = token_dtype(content["vocab_size"]), int(content["tokens"])
    if size == 0 or size % dtype.itemsize or expected not in (None, size // dtype.itemsize):
        wanted = "whole tokens" if expected is None else f"{expected:,} tokens"
        raise ValueError(f"{path} has {size:,} bytes, not {wanted} of {dtype.itemsize} bytes; prepare the data again")
    return np.memmap(path, dtype=dtype, mode="r")


def prepare(
    text: str, tokenizer: Tokenizer, folder: StrPath, validation_fraction: float = 0.1
) -> tuple[Tokens, Tokens]:
    """Write `train.bin` and `val.bin` into a folder and return them, mapped into memory. See `encode_parts`."""
    for name, ids in encode_parts(text, tokenizer, validation_fraction).items():
        write_tokens(Path(folder) / f"{name}.bin", ids, len(tokenizer))
    return open_tokens(Path(folder) / "train.bin"), open_tokens(Path(folder) / "val.bin")


def encode_parts(text: str, tokenizer: Tokenizer, validation_fraction: float = 0.1) -> dict[str, Tokens]:
    """The tokens of a text, "train" and "val". The text is first split and then encoded.

    The last `validation_fraction` of its characters is for validation. Raises ValueError for an empty text, and for a
    fraction that leaves one of the two parts empty.
    """
    if not text:
        raise ValueError("the text is empty: there is nothing to train on; give some text")
    split = round(len(text) * (1 - validation_fraction))
    if not 0 < split < len(text):
        given = f"validation_fraction {validation_fraction} of {len(text):,} characters"
        raise ValueError(f"{given} leaves none for training or for validation; give a longer text")
    encoded = {}
    for name, part in {"train": text[:split], "val": text[split:]}.items():
        chunks = []
        with progress_bar(len(part), f"encoding {name}.bin", "char") as bar:
            for chunk in independent_chunks([part], tokenizer.special_tokens):
                ids = tokenizer.encode(chunk, add_special_tokens=False)
                chunks.append(np.array(ids, dtype=token_dtype(len(tokenizer))))
                bar.update(len(chunk))
        encoded[name] = np.concatenate(chunks)
    return encoded


# ---------------------------------------------------------------------------------------------------------------------
# Batches.


def validate_ids(ids: ArrayLike, vocab_size: int) -> NDArray[np.int64]:
    """Token ids as int64, in the same shape. Raises ValueError, naming the first id outside 0..vocab_size-1.

    Batches are checked when they are made. Otherwise a negative id would read the embedding of another token, and a
    large id would fail deep inside the model. Raises TypeError for anything but integers.

    >>> validate_ids([3, 1, 4], vocab_size=4)
    Traceback (most recent call last):
    ValueError: token id 4 at position 2 is not in the vocabulary: ids are 0 to 3
    """
    array = np.asarray(ids)
    if array.size > 0 and array.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {array.dtype}")
    wrong = np.argwhere((array < 0) | (array >= vocab_size))
    if len(wrong) > 0:
        place = tuple(wrong[0].tolist())
        at = f"at position {place[0] if len(place) == 1 else place}"
        raise ValueError(f"token id {array[place]} {at} is not in the vocabulary: ids are 0 to {vocab_size - 1}")
    return array.astype(np.int64)


def get_batch(
    tokens: Tokens, batch_size: int, block_size: int, rng: np.random.Generator, vocab_size: int | None = None
) -> Batch:
    """Draw random windows of the tokens: inputs (B, T) and targets (B, T), shifted by one, both int64.

    Each of the len(tokens) - T windows is equally likely and may be drawn twice. With a `vocab_size` the ids are
    checked. Raises ValueError if there are fewer tokens than one window and its last target.

    >>> inputs, targets = get_batch(np.arange(6), batch_size=1, block_size=5, rng=np.random.default_rng(0))
    >>> inputs, targets
    (array([[0, 1, 2, 3, 4]]), array([[1, 2, 3, 4, 5]]))
    """
    check_length(tokens, block_size)
    starts = rng.integers(0, len(tokens) - block_size, size=batch_size)
    return _shifted(tokens[starts[:, None] + np.arange(block_size + 1)], vocab_size)


def check_length(tokens: Tokens, block_size: int) -> None:
    """Raise ValueError for fewer tokens than a window of `block_size` and its last target."""
    if len(tokens) < block_size + 1:
        shorter = f", or a --block-size of at most {len(tokens) - 1:,}" if len(tokens) > 1 else ""
        needed = f"block_size {block_size:,}, which needs {block_size + 1:,}"
        raise ValueError(f"{len(tokens):,} tokens are too few for {needed}: give more text{shorter}")


def _shifted(windows: Tokens, vocab_size: int | None) -> Batch:
    """Split (B, T+1) tokens into inputs and targets."""
    ids = windows.astype(np.int64) if vocab_size is None else validate_ids(windows, vocab_size)
    return ids[:, :-1], ids[:, 1:]


@dataclasses.dataclass(eq=False, repr=False)
class RandomBatches(Iterator[Batch]):
    """An endless, seeded stream of `get_batch`, which can continue exactly where a checkpoint stopped it.

    >>> batches = RandomBatches(np.arange(100), batch_size=2, block_size=8, seed=1)
    >>> state = batches.state_dict()
    >>> first, _ = next(batches)
    >>> batches.load_state_dict(json.loads(json.dumps(state)))
    >>> bool((next(batches)[0] == first).all())
    True
    """

    tokens: Tokens
    batch_size: int
    block_size: int
    seed: int = 0
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def __next__(self) -> Batch:
        return get_batch(self.tokens, self.batch_size, self.block_size, self.rng, self.vocab_size)

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream, JSON-able."""
        return {"generator": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()`."""
        self.rng.bit_generator.state = state["generator"]


class EpochBatches(RandomBatches):
    """A stream like RandomBatches that goes through the whole text before any of it comes again.

    An epoch cuts the text into windows, beginning at a random token, and takes them in random order. It leaves out less
    than two windows, at the two ends. Independent draws, as in RandomBatches, leave out 1/e = 37 % of the text in the
    time of an epoch, and repeat other parts instead.

    >>> batches = EpochBatches(np.arange(105), batch_size=6, block_size=8, seed=1)
    >>> first, second = next(batches)[0], next(batches)[0]
    >>> len(np.unique([first, second]))  # 12 windows of 8 tokens are an epoch: no token comes twice
    96
    """

    def __post_init__(self) -> None:
        check_length(self.tokens, self.block_size)
        self.taken = 0  # windows so far
        self.per_epoch = max(1, (len(self.tokens) - 1) // self.block_size - 1)  # one less than fit, to begin anywhere
        self.epoch = -1
        self.starts = np.empty(0, np.int64)

    def __next__(self) -> Batch:
        places = range(self.taken, self.taken + self.batch_size)
        starts = np.array([self._start(*divmod(place, self.per_epoch)) for place in places])
        self.taken += self.batch_size
        return _shifted(self.tokens[starts[:, None] + np.arange(self.block_size + 1)], self.vocab_size)

    def _start(self, epoch: int, place: int) -> int:
        """The first token of an epoch's window."""
        if epoch != self.epoch:
            rng = np.random.default_rng([self.seed, epoch])
            shift = rng.integers(len(self.tokens) - self.per_epoch * self.block_size)
            self.epoch = epoch
            self.starts = shift + self.block_size * rng.permutation(self.per_epoch)
        return int(self.starts[place])

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream, JSON-able."""
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()`."""
        self.taken = state["taken"]


def sequential_batches(
    tokens: Tokens, batch_size: int, block_size: int, vocab_size: int | None = None, sample: int | None = None
) -> Iterator[Batch]:
    """Go through the tokens once in consecutive windows. Every token but the first is a target exactly once.

    Batches are (B, T). The last ones may be (b, T) with b < B, and (1, t) with t < T for the remaining tokens. sample:
    use only this number of full windows, drawn at random and always the same ones. Raises ValueError for fewer than two
    tokens.

    >>> [targets.tolist() for _, targets in sequential_batches(np.arange(10), batch_size=2, block_size=2)]
    [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9]]]
    """
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} tokens are too few: a target needs a token before it; give more text")
    whole = (len(tokens) - 1) // block_size  # windows of full length
    windows = np.arange(whole)
    if sample is not None:
        windows = np.random.default_rng(0).choice(windows, sample, replace=False)
    for i in range(0, len(windows), batch_size):
        starts = windows[i : i + batch_size, None] * block_size
        yield _shifted(tokens[starts + np.arange(block_size + 1)], vocab_size)
    rest = tokens[whole * block_size :]
    if len(rest) > 1 and sample is None:
        yield _shifted(rest[None, :], vocab_size)
