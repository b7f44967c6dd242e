"""Write a model and its tokenizer as a GGUF file, for llama.cpp and programs that are built on it.

The library gguf writes the file. Our part is the names of settings and tensors (gpt2_gguf.py, llama_gguf.py) and the
kind of number for each tensor. Matrices are F32, F16 or Q8_0. Biases and norms are small and stay F32, as llama.cpp
expects.

llama.cpp (in the package cyllama 0.2.18) tokenizes with these files as we do, writes the same greedy text, and stops at
the same tokens. Its logits differ by less than 1e-5 with F32 and 4e-3 with F16, and by 5e-4 for GPT-2, whose GELU it
looks up in a table of half precision. With Q8_0 it also rounds activations to 8 bits: 0.08, and greedy text may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.backend import to_numpy

from ..file_checks import check_value
from ..files import StrPath, replacing
from ..model_config import LlamaConfig
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.tokenizer_json import tokenizer_json
from ..tokenizer.vocabulary_files import GGUF_PATTERNS
from . import gpt2_gguf, llama_gguf
from .gguf_file import BLOCK, gguf_library
from .tensor_table import their_tensors

if TYPE_CHECKING:
    from ..model.language_model import LanguageModel

KINDS = ("F32", "F16", "Q8_0")
ORDINARY, CONTROL, UNUSED = 1, 3, 5  # kinds of tokens


def write_gguf(path: StrPath, model: LanguageModel, tokenizer: Tokenizer, kind: str = "F32") -> None:
    """Write a GPT-2 or a Llama. kind: the kind of number for the matrices, one of KINDS. With Q8_0, a matrix whose rows
    are not whole blocks of 32 numbers is stored as F16.

    Raises GGUFError without the library gguf, ValueError for an adapted or quantized model and for weights that are not
    finite in this kind of number, FileExistsError, OSError.
    """
    gguf = gguf_library(path)
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already: choose another name, or delete it")
    check_value("kind", kind, KINDS)
    described: Any = gpt2_gguf if model.model_type == gpt2_gguf.ARCHITECTURE else llama_gguf
    entries = {**described.settings(model.config), **_vocabulary(tokenizer, model.config.vocab_size)}
    with replacing(path) as unfinished:
        writer: Any = gguf.GGUFWriter(str(unfinished), next(iter(entries)).partition(".")[0])
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
        for name, value in entries.items():
            add.get(type(value), writer.add_array)(name, value)
        for name, array in _tensors(model, described):
            stored = gguf.GGMLQuantizationType[_kind(array, kind)]
            with np.errstate(over="ignore", invalid="ignore"):
                numbers = gguf.quants.quantize(array, stored)
                if not np.isfinite(gguf.quants.dequantize(numbers, stored)).all():
                    raise ValueError(f"{name} holds numbers that are not finite as {stored.name}; nothing was written")
            writer.add_tensor(name, numbers, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _kind(array: np.ndarray, kind: str) -> str:
    """The kind of number that a tensor is stored in."""
    if array.ndim == 1:
        return "F32"
    return "F16" if kind == "Q8_0" and array.shape[-1] % BLOCK else kind


def _tensors(model: LanguageModel, described: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters by their names in the file. A Llama's queries and keys have their rows in llama.cpp's order."""
    config = model.config
    if isinstance(config, LlamaConfig) and config.rope_scaling and config.rope_scaling.original_context is not None:
        yield llama_gguf.ROPE_FREQS, llama_gguf.slower(config)
    rows = list(described.gguf_rows(config))
    arrays = their_tensors(model, rows, "GPT-2 or Llama")
    for row in rows:
        array = to_numpy(arrays[row.ours]).astype(np.float32)
        n_head = llama_gguf.heads_permuted(row.theirs, config)
        yield row.theirs, np.ascontiguousarray(llama_gguf.permute(array, n_head) if n_head else array)


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The tokenizer as settings. If the model has more rows than the tokenizer has tokens, unused tokens are added."""
    special = tokenizer.special_tokens
    model = tokenizer_json(tokenizer.vocabulary)["model"]
    if not model["merges"]:
        raise ValueError("programs that read GGUF files want merges, and a tokenizer of single bytes has none")
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    padding = [f"[PAD{number}]" for number in range(len(tokens), vocab_size)]
    kinds = [CONTROL if token in special else ORDINARY for token in tokens]
    entries: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",  # byte-level BPE
        "tokenizer.ggml.pre": next(name for name, pattern in GGUF_PATTERNS.items() if pattern == tokenizer.pattern),
        "tokenizer.ggml.tokens": tokens + padding,
        "tokenizer.ggml.token_type": kinds + [UNUSED] * len(padding),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
    }
    for role, around in zip(("bos", "eos"), tokenizer.around):
        text = tokenizer.roles.get(f"{role}_token", tokenizer.eos_token)
        if around not in ((), (text,)):
            raise ValueError(f"GGUF files cannot say that {', '.join(around)} is put around a text")
        entries[f"tokenizer.ggml.add_{role}_token"] = around != ()
        if text is not None:
            entries[f"tokenizer.ggml.{role}_token_id"] = special[text]
    if tokenizer.chat_template is not None:
        entries["tokenizer.chat_template"] = tokenizer.chat_template
    return entries
