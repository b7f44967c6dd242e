"""A Llama from where it is kept, a Hugging Face folder or a GGUF file, and back into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from minigrad import nn

from ..model.config import LlamaConfig
from . import llama_gguf, llama_huggingface
from .gguf_file import GGUFFile
from .llama_huggingface import save

__all__ = ["is_gguf", "load", "save"]

M = TypeVar("M", bound=nn.Module)


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a GGUF file, by its name."""
    return Path(path).suffix.lower() == ".gguf" and not Path(path).is_dir()


def load(path: str | os.PathLike[str], build: Callable[[LlamaConfig], M]) -> M:
    """The Llama in a Hugging Face folder or a GGUF file; see `llama_huggingface.load` and `llama_gguf.load`."""
    return llama_gguf.load(GGUFFile(path), build) if is_gguf(path) else llama_huggingface.load(path, build)
