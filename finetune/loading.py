"""Loading fine-tuned models. Importing this file lets `gpt.training.loading.load_model` load two more kinds of folders:

    a quantized folder           the model, with its weights in 8 or 4 bits
    a run that holds adapters    the base model, which must still be in its place, with the adapters merged into it

A single adapter is added to a base model by `add_adapter_to`.
"""

from __future__ import annotations

from pathlib import Path

from gpt import Tokenizer
from gpt.files import StrPath
from gpt.model.language_model import LanguageModel
from gpt.tokenizer.vocabulary_files import has_tokenizer
from gpt.training.loading import register_loader

from .adapters.adapter_files import load_adapter
from .data.chat_template import resize_token_embeddings
from .quantization import folder as quantized_folder
from .stages.lora import ADAPTER
from .stages.lora_model import ADAPTER_TYPES
from .stages.merging import load_merged

register_loader(quantized_folder.load_quantized, quantized_folder.NAME)
register_loader(load_merged, *ADAPTER_TYPES)


def add_adapter_to(model: LanguageModel, tokenizer: Tokenizer, source: StrPath) -> Tokenizer:
    """Attach a LoRA adapter, in the folder of PEFT or of a run, to its base model; returns the tokenizer to use.

    That is the adapter's own if it has more tokens; the model gets rows for them. Raises what `load_adapter` raises.
    """
    folder = Path(source)
    if (folder / ADAPTER).is_dir():  # a run, whose tokenizer is beside the adapter
        folder = folder / ADAPTER
    for place in (folder, folder.parent):
        if has_tokenizer(place) and len(own := Tokenizer.load(place)) > len(tokenizer):
            tokenizer = own
            resize_token_embeddings(model, len(tokenizer))
            break
    load_adapter(model, folder)
    return tokenizer
