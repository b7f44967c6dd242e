"""One way to get a model that can write, quantized ones too: what the scripts' --model means."""

from __future__ import annotations

import os

from gpt import GPT, Tokenizer, hub
from gpt import loading as base

from .quantization.folder import is_quantized, load_quantized


def load_model(source: str | os.PathLike[str]) -> tuple[GPT, Tokenizer]:
    """A model in evaluation mode and its tokenizer, from the folder of a run or of a quantized model, a Hugging Face
    folder, or a name like "gpt2". Raises what `gpt.loading.load_model` and `load_quantized` raise.
    """
    folder = hub.find(source)
    return load_quantized(folder) if is_quantized(folder) else base.load_model(source)
