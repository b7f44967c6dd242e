"""Load any model that can write, quantized ones too: this is what --model accepts."""

from __future__ import annotations

from pathlib import Path

from gpt import Tokenizer
from gpt.files import StrPath
from gpt.model.language_model import LanguageModel
from gpt.tokenizer.vocabulary_files import has_tokenizer
from gpt.training import loading as base
from gpt.training.checkpoint import stored_kind
from gpt.weights import hub
from gpt.weights.gguf_file import GGUFFile, is_gguf

from .adapters.adapter_files import load_adapter
from .data.chat_template import resize_token_embeddings
from .quantization.folder import is_quantized, load_quantized
from .quantization.packed import load_packed

ADAPTER = "adapter"  # the folder of PEFT's files, in that of a run
ADAPTER_RUNS = ("minigrad-lora", "minigrad-qlora")  # in config.json, as `adaptation.kind_of` writes it


class AdaptersOnlyError(ValueError):
    """A run's `folder` holds adapters, but not the model that they were trained with."""

    def __init__(self, folder: StrPath):
        super().__init__(f"{folder} holds adapters without the model beside them")
        self.folder = folder


def load_model(source: StrPath, packed: bool = False) -> tuple[LanguageModel, Tokenizer]:
    """Load a model, in evaluation mode, and its tokenizer.

    source: the folder of a run or of a quantized model, a Hugging Face folder, a GGUF file, or a name like "gpt2" or
    "smollm2". packed: keep the weights of a GGUF file in their 4 and 8 bits, and dequantize them where they are used.
    Raises what `gpt.training.loading.load_model` and `load_quantized` raise; ValueError for `packed` without a GGUF
    file; AdaptersOnlyError for a run that has only adapters.
    """
    place = hub.find(source)
    if holds_adapters_only(place):
        raise AdaptersOnlyError(source)
    if packed:
        if not is_gguf(place):
            raise ValueError(f"{source} is not a GGUF file (as smollm2 is), so there are no packed weights to keep")
        file = GGUFFile(place)
        return load_packed(file), Tokenizer.from_gguf(file.metadata, str(place))
    return load_quantized(place) if is_quantized(place) else base.load_model(source)


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
            add_rows(model, tokenizer)
            break
    load_adapter(model, folder)
    return tokenizer


def add_rows(model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Give a model rows for tokens that it does not have yet."""
    if len(tokenizer) > model.config.vocab_size:
        resize_token_embeddings(model, len(tokenizer))


def holds_adapters_only(folder: Path) -> bool:
    """Whether this is the folder of a run that trained adapters, and therefore saves nothing else."""
    return stored_kind(folder) in ADAPTER_RUNS
