"""A model from where its weights are, a Hugging Face folder or a GGUF file, and back into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from minigrad import nn

from ..tokenizer.tokenizer import Tokenizer
from . import gpt2_huggingface, llama_gguf, llama_huggingface
from .gguf_file import GGUFFile
from .huggingface_config import read_config

M = TypeVar("M", bound=nn.Module)

ARCHITECTURES: dict[str, Any] = {"gpt2": gpt2_huggingface, "llama": llama_huggingface}


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a GGUF file, by its name."""
    return Path(path).suffix.lower() == ".gguf" and not Path(path).is_dir()


def load(path: str | os.PathLike[str], models: Mapping[str, Callable[[Any], M]]) -> M:
    """The model in a Hugging Face folder or a GGUF file; see `llama_huggingface.load` and `llama_gguf.load`."""
    if is_gguf(path) and "llama" in models:
        return llama_gguf.load(GGUFFile(path), models["llama"])
    model_type = read_config(path, *models).get("model_type", "gpt2")
    return ARCHITECTURES[model_type].load(path, models[model_type])


def save(model: Any, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
    ARCHITECTURES[model.model_type].save(model, folder, tokenizer)
