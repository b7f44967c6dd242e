"""Load a GGUF file and keep its 4-bit and 8-bit weights in memory: the packed form of `gpt.weights.pretrained.load`.

Each tensor that the file stores in blocks becomes a `QuantizedLinear` or a `QuantizedEmbedding` with exactly the same
codes. Norms and other tensors stored as floats are loaded as in the float model. A tied output layer uses the array of
the embedding.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from gpt import Tokenizer
from gpt.files import StrPath
from gpt.model.llama import Llama
from gpt.weights import hub
from gpt.weights.gguf_file import BLOCKS, K_QUANTS, GGUFError, GGUFFile, GGUFTensor, is_gguf, unpack
from gpt.weights.llama_gguf import config_of, gguf_rows, heads_permuted, unpermute, weights_of
from gpt.weights.tensor_table import fill, matched

from .blocks import BlockArray
from .quantized_layers import put_quantized


def load_packed(source: StrPath) -> tuple[Llama, Tokenizer]:
    """The Llama in a GGUF file, given by its path or name, in evaluation mode, and its tokenizer.

    Raises ValueError for anything else, and what `gpt.training.loading.load_model` raises.
    """
    path = hub.find(source)
    if not is_gguf(path):
        raise ValueError(f"{source} is not a GGUF file (as smollm2 is), so there are no packed weights to keep")
    file = GGUFFile(path)
    if file.metadata.get("general.architecture") == "gpt2":
        raise GGUFError(f"{file.path} holds a GPT-2, whose weights cannot be kept packed: leave out --packed")
    config = config_of(file)
    weights = weights_of(file, config)
    rows = matched(weights, gguf_rows(config))
    kinds = {row.theirs: file.tensors[row.theirs].kind for row in rows}
    for name, kind in kinds.items():
        if kind in K_QUANTS:
            raise GGUFError(f"{file.path}: {name} is {kind}; packed, only {', '.join(BLOCKS)} can be kept")

    def build() -> Llama:
        model = Llama(config)  # its float weights take no memory until something is written to them
        for row in rows:
            if kinds[row.theirs] in BLOCKS:
                array = _array(file.tensors[row.theirs], heads_permuted(row.theirs, config), file.path)
                put_quantized(model, row.ours.removesuffix(".weight"), array)
        return model

    floats = [row for row in rows if kinds[row.theirs] not in BLOCKS]
    entries = {row.theirs: weights.entries[row.theirs] for row in floats}
    model = fill(build, dataclasses.replace(weights, entries=entries), floats).eval()
    return model, Tokenizer.from_gguf(file.metadata, str(path))


def _array(tensor: GGUFTensor, n_head: int, path: Path) -> BlockArray:
    """The blocks of a tensor, with its rows in our order. Raises GGUFError, naming `path`, for scales that are not
    finite.
    """
    codes, scales, minimums = unpack(tensor)
    for numbers in (scales, minimums):
        if numbers is not None and not np.isfinite(numbers).all():
            raise GGUFError(f"{path}: {tensor.name} holds numbers that are not finite (nan or inf)")
    if n_head:
        codes, scales = unpermute(codes, n_head), unpermute(scales, n_head)
        minimums = None if minimums is None else unpermute(minimums, n_head)
    if tensor.kind == "Q8_0":
        return BlockArray(codes, scales)
    zero = 8 if tensor.kind == "Q4_0" else 0  # Q4_0 has codes from -8 to 7; we store them as 0 to 15
    return BlockArray((codes + zero).astype(np.uint8), scales, minimums, bits=4, zero=zero)
