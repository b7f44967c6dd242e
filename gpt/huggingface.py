"""GPT-2 as Hugging Face keeps it, in and out: a folder with config.json and model.safetensors.

Loading weights is translation: which tensor there is which of ours, and how are its numbers laid out? The answer is the
table below. Names are the same, since ours were chosen so. Layout differs in one point: OpenAI wrote GPT-2's linear
layers as convolutions of width 1 (Conv1D), whose weights are stored (in, out); those of our `nn.Linear` are (out, in),
so each is transposed. That every shape then matches verifies the architecture, component by component, before a single
number is computed. It does not verify all: attn.c_proj is square, and fits untransposed as well.

The files may come from anybody. Names and shapes are compared before memory is asked for, tensors are read one at a
time, each has to be finite, and what does not fit is an error that names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minigrad import nn
from minigrad.backend import Array, module_of

from .config import GPTConfig
from .files import write_text
from .huggingface_config import CONFIG, from_gpt_config, read_config, to_gpt_config
from .huggingface_weights import WEIGHTS, Weights
from .safetensors_file import Entry, write_safetensors
from .tokenizer import Tokenizer

M = TypeVar("M", bound=nn.Module)
Shape = tuple[int, ...]

FLOATS = ("F32", "F16", "BF16", "F64")

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
HEAD = "lm_head.weight"  # tied: the same numbers as wte.weight, where it is stored at all


class Row(NamedTuple):
    """A tensor there and here."""

    theirs: str
    their_shape: Shape
    ours: str
    our_shape: Shape
    transposed: bool


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


# --- comparing --------------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """A row of the report: the tensor expected, what the folder has for it, and what is wrong, "" if nothing is.

    expected: None for a tensor that is surplus. found: None for one that is missing.
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


def report(folder: str | os.PathLike[str]) -> Iterator[Match]:
    """Compare a folder with our model, tensor by tensor, without reading a number of it; `print` each match.

    Raises what `load` raises for files that are damaged or no GPT-2; what does not fit is in the matches.
    """
    config = to_gpt_config(read_config(folder), str(Path(folder) / CONFIG))
    with Weights(folder) as weights:
        if config.n_layer > len(weights.entries):  # it would be a long report
            raise ValueError(f"{Path(folder) / CONFIG} asks for {config.n_layer} layers, but there are fewer tensors")
        yield from _matches(weights, rows(config))


def _matches(weights: Weights, expected: Iterable[Row]) -> Iterator[Match]:
    """Every tensor expected, in order, and then those that nobody expects."""
    left = dict(weights.entries)
    for row in expected:
        found = left.pop(row.theirs, None)
        yield Match(row.theirs, row, found, _problem(row, found))
        if row.theirs == "wte.weight" and HEAD in left:
            head = row._replace(theirs=HEAD)
            found = left.pop(HEAD)
            yield Match(HEAD, head, found, _problem(head, found))
    for name, found in left.items():
        yield Match(name, None, found, _surplus(name, found))


def _problem(row: Row, found: Entry | None) -> str:
    if found is None:
        return f"is missing; its shape should be {row.their_shape}"
    if found.dtype not in FLOATS:
        return f"is {found.dtype}, perhaps quantized; the weights of a plain GPT-2 are {', '.join(FLOATS)}"
    if found.shape != row.their_shape:
        swapped = row.transposed and found.shape == row.our_shape
        why = ": it is stored (out, in), and should be (in, out)" if swapped else ""
        return f"has the shape {found.shape} instead of {row.their_shape}{why}"
    return ""


def _surplus(name: str, found: Entry) -> str:
    hint = ""
    if "lora_" in name:
        hint = "; it is part of an adapter, which has to be merged into the base model first"
    elif name.startswith("score."):
        hint = "; it is the head of a classifier"
    return f"of shape {found.shape} is surplus: the model has no such tensor{hint}"


# --- loading ----------------------------------------------------------------------------------------------------------


def load(folder: str | os.PathLike[str], build: Callable[[GPTConfig], M]) -> M:
    """The GPT-2 in `folder`, as `build` makes one of a configuration; float32, in evaluation mode.

    Raises FileNotFoundError, or ValueError naming the file, the setting or the tensor that is missing, surplus,
    misshapen, not finite, or damaged.
    """
    values = read_config(folder)
    config = to_gpt_config(values, str(Path(folder) / CONFIG))
    with Weights(folder) as weights:
        model = fill(lambda: build(config), weights, rows(config))
        _check_tied(weights, model, values.get("tie_word_embeddings", True))
    return model.eval()


def fill(build: Callable[[], M], weights: Weights, expected: Iterable[Row]) -> M:
    """Build a model, and read each of its parameters from `weights`, where `expected` says."""
    table = []
    for match in _matches(weights, expected):
        if match.problem:
            path = weights.path(match.name) if match.found else weights.folder
            raise ValueError(f"{path} does not fit {CONFIG}: {match.name} {match.problem}")
        if match.expected is not None and match.name != HEAD:
            table.append(match.expected)
    with nn.init.skipped():
        model = build()
    parameters = dict(model.named_parameters())
    if unknown := parameters.keys() ^ {row.ours for row in table}:
        raise ValueError(f"no row of the table fills {min(unknown)}, or the model does not have it")
    for row in table:
        parameter = parameters[row.ours].data
        array = weights.read(row.theirs, out=None if row.transposed else parameter)
        if array is not parameter:
            with np.errstate(over="ignore", invalid="ignore"):  # a float64 may be too large: refused, as it is inf then
                parameter[...] = array.T if row.transposed else array
        del array  # so that there is never more than one beside the model
        if not all(np.isfinite(part).all() for part in np.array_split(parameter, 64)):
            raise ValueError(f"{weights.path(row.theirs)}: {row.theirs} holds numbers that are not finite (nan or inf)")
    return model


def _check_tied(weights: Weights, model: Any, tied: Any) -> None:
    """Raise ValueError unless the head has the numbers of the embedding, as in our model."""
    if HEAD not in weights.entries:
        if tied is not True:
            raise ValueError(f"{weights.folder / CONFIG} says tie_word_embeddings {tied}, but {HEAD} is missing")
    elif not np.array_equal(weights.read(HEAD), model.transformer.wte.weight.data):
        raise ValueError(
            f"{weights.path(HEAD)}: {HEAD} and wte.weight differ; in our model, and with tie_word_embeddings, "
            "they are one"
        )


# --- saving -----------------------------------------------------------------------------------------------------------


def save(model: Any, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
    """Write a GPT, and its tokenizer, as a folder that transformers loads.

    Raises ValueError for a model that is no plain GPT-2, such as one with adapters, FileExistsError where the folder
    holds a training run, OSError.
    """
    config = from_gpt_config(model.config, end=None if tokenizer is None else tokenizer.eos_token_id)
    write_folder(folder, config, their_tensors(model, rows(model.config)), tokenizer)


def their_tensors(model: nn.Module, expected: Iterable[Row]) -> dict[str, Array]:
    """Our parameters under their names and in their layout (as views, not copies). Raises ValueError."""
    parameters = model.state_dict()
    table = {row.ours: row for row in expected}
    if unknown := parameters.keys() ^ table.keys():
        raise ValueError(
            f"only a plain GPT-2 can be saved as one: {min(unknown)} is missing, or is none of its tensors; "
            "merge adapters and undo quantization first"
        )
    return {name: array.T if table[name].transposed else array for name, array in parameters.items()}


def write_folder(
    folder: str | os.PathLike[str],
    config: dict[str, Any],
    tensors: Mapping[str, Array],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer; each file whole or not at all."""
    folder = Path(folder)
    if any(folder.glob("trainer_state.json*")):
        raise FileExistsError(f"{folder} holds a training run, which would be overwritten: choose another folder")
    for name, array in tensors.items():
        if not module_of(array).isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite (nan or inf); nothing was saved")
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})  # transformers wants to be told "pt"
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / "generation_config.json", json.dumps({"_from_model_config": True, **ends}, indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save(folder)
