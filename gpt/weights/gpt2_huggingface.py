"""GPT-2 as Hugging Face keeps it, in and out: a folder with config.json and model.safetensors.

Names are the same, since ours were chosen so. Layout differs in one point: OpenAI wrote GPT-2's linear layers as
convolutions of width 1 (Conv1D), whose weights are stored (in, out); those of our `nn.Linear` are (out, in), so each is
transposed. That every shape matches (`gpt.weights.tensor_table`) verifies much, but not all: attn.c_proj is square, and
fits untransposed as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from minigrad import nn

from ..model.config import GPTConfig
from ..tokenizer.tokenizer import Tokenizer
from .huggingface_config import CONFIG, from_gpt_config, read_config, to_gpt_config
from .huggingface_folder import Weights, write_folder
from .tensor_table import HEAD, Match, Row, fill, matches, their_tensors

M = TypeVar("M", bound=nn.Module)

# fmt: off
# Name there; our shape; is it a Conv1D, that is, stored transposed? Ours have "transformer." before them, theirs may.
# V vocabulary, T block size, C channels.
EMBEDDINGS = (
    ("wte.weight",         ("V", "C"),  False),
    ("wpe.weight",         ("T", "C"),  False),
)
BLOCK = (  # behind "h.0.", "h.1.", ...
    ("ln_1.weight",        ("C",),      False),
    ("ln_1.bias",          ("C",),      False),
    ("attn.c_attn.weight", ("3C", "C"), True),
    ("attn.c_attn.bias",   ("3C",),     False),
    ("attn.c_proj.weight", ("C", "C"),  True),
    ("attn.c_proj.bias",   ("C",),      False),
    ("ln_2.weight",        ("C",),      False),
    ("ln_2.bias",          ("C",),      False),
    ("mlp.c_fc.weight",    ("4C", "C"), True),
    ("mlp.c_fc.bias",      ("4C",),     False),
    ("mlp.c_proj.weight",  ("C", "4C"), True),
    ("mlp.c_proj.bias",    ("C",),      False),
)
LAST = (
    ("ln_f.weight",        ("C",),      False),
    ("ln_f.bias",          ("C",),      False),
)
# fmt: on
EMBEDDING = "wte.weight"


def rows(config: GPTConfig) -> Iterator[Row]:
    """The table, with numbers for letters, for each tensor of a GPT-2.

    >>> tiny = GPTConfig(vocab_size=100, block_size=32, n_layer=1, n_head=2, n_embd=8)
    >>> list(rows(tiny))[4]  # doctest: +NORMALIZE_WHITESPACE
    Row(theirs='h.0.attn.c_attn.weight', their_shape=(8, 24),
        ours='transformer.h.0.attn.c_attn.weight', our_shape=(24, 8), transposed=True)
    """
    C = config.n_embd
    sizes = {"V": config.vocab_size, "T": config.block_size, "C": C, "3C": 3 * C, "4C": 4 * C}

    def row(prefix: str, name: str, letters: tuple[str, ...], transposed: bool) -> Row:
        shape = tuple(sizes[letter] for letter in letters)
        their_shape = shape[::-1] if transposed else shape
        return Row(prefix + name, their_shape, f"transformer.{prefix}{name}", shape, transposed)

    yield from (row("", *line) for line in EMBEDDINGS)
    for layer in range(config.n_layer):
        yield from (row(f"h.{layer}.", *line) for line in BLOCK)
    yield from (row("", *line) for line in LAST)


def report(folder: str | os.PathLike[str]) -> Iterator[Match]:
    """Compare a folder with our model, tensor by tensor, without reading a number of it; `print` each match.

    Raises what `load` raises for files that are damaged or no GPT-2; what does not fit is in the matches.
    """
    config = to_gpt_config(read_config(folder), str(Path(folder) / CONFIG))
    with Weights(folder) as weights:
        if config.n_layer > len(weights.entries):  # it would be a long report
            raise ValueError(f"{Path(folder) / CONFIG} asks for {config.n_layer} layers, but there are fewer tensors")
        yield from matches(weights, rows(config), EMBEDDING)


def load(folder: str | os.PathLike[str], build: Callable[[GPTConfig], M]) -> M:
    """The GPT-2 in `folder`, as `build` makes one of a configuration; float32, in evaluation mode.

    Raises FileNotFoundError, or ValueError naming the file, the setting or the tensor that is missing, surplus,
    misshapen, not finite, or damaged.
    """
    values = read_config(folder)
    config = to_gpt_config(values, str(Path(folder) / CONFIG))
    with Weights(folder) as weights:
        if HEAD not in weights.entries and values.get("tie_word_embeddings", True) is not True:
            tied = values["tie_word_embeddings"]
            raise ValueError(f"{weights.place / CONFIG} says tie_word_embeddings {tied}, but {HEAD} is missing")
        return fill(lambda: build(config), weights, rows(config), EMBEDDING).eval()


def save(model: Any, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
    """Write a GPT, and its tokenizer, as a folder that transformers loads.

    Raises ValueError for a model that is no plain GPT-2, such as one with adapters, FileExistsError where the folder
    holds a training run, OSError.
    """
    config = from_gpt_config(model.config, end=None if tokenizer is None else tokenizer.eos_token_id)
    write_folder(folder, config, their_tensors(model, rows(model.config)), tokenizer)
