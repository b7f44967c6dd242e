"""Load any language model with its tokenizer: the meaning of --model and --init-from in every script.

a run's folder           the model that was trained there; runs of other packages, such as those of adapters, are
                         loaded by functions that these packages register here (finetune/loading.py)
a Hugging Face folder    config.json, model.safetensors and the tokenizer's files
a GGUF file              as llama.cpp uses it
a name                   like "gpt2" or "smollm2": a Hugging Face folder or a GGUF file, found or downloaded
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..console import show
from ..files import StrPath
from ..model.language_model import LanguageModel
from ..model_config import GPT2_VOCAB_SIZE
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary_files import has_tokenizer
from ..weights import hub, pretrained
from ..weights.gguf_file import GGUFFile, is_gguf
from .checkpoint import has_checkpoint, load_run, stored_model_type

Loader = Callable[[Path], tuple[LanguageModel, Tokenizer]]
_loaders: dict[str | None, Loader] = {}


def register_loader(load: Loader, *model_types: str) -> None:
    """Let `load` read the folders of runs whose config.json has one of these model types: not a whole GPT or Llama."""
    _loaders.update(dict.fromkeys(model_types, load))


class NotTrainableError(ValueError):
    """Not all weights of the model in `source` can be changed."""

    def __init__(self, source: StrPath):
        why = f"the weights in {source} are quantized, or have adapters that cannot be merged"
        super().__init__(f"{why}, so they cannot be trained, exported or quantized again")


def load_model(source: StrPath, trainable: bool = False) -> tuple[LanguageModel, Tokenizer]:
    """Load a model in evaluation mode and its tokenizer. The folder or file determines whether it is a GPT or a Llama.

    trainable: raise NotTrainableError for a model with quantized weights. Raises FileNotFoundError, ValueError for
    files that are damaged or do not fit together, and what `hub.find` raises.
    """
    place = hub.find(source)
    if has_checkpoint(place):
        load = _loaders.get(stored_model_type(place), load_run)
        model, tokenizer = load(place)
    elif is_gguf(place):
        file = GGUFFile(place)
        model, tokenizer = pretrained.load(file, LanguageModel), Tokenizer.from_gguf(file.metadata, str(place))
    else:
        model = LanguageModel.from_pretrained(place)
        tokenizer = _tokenizer_of(place, model.config.vocab_size)
    if len(tokenizer) > model.config.vocab_size:
        numbers = f"{len(tokenizer):,} tokens, but the model knows {model.config.vocab_size:,}"
        raise ValueError(f"the tokenizer in {place} has {numbers}")
    if trainable and model.num_parameters() != model.config.num_parameters():
        raise NotTrainableError(source)
    return model.eval(), tokenizer


def _tokenizer_of(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a folder, or GPT-2's if there is none and GPT-2's fits."""
    if has_tokenizer(folder):
        return Tokenizer.load(folder)
    if vocab_size == GPT2_VOCAB_SIZE:
        show(f"{folder} has no tokenizer; its {GPT2_VOCAB_SIZE:,} tokens are taken to be those of GPT-2")
        return Tokenizer.gpt2()
    missing = f"{folder} has no tokenizer (vocab.json and merges.txt, or tokenizer.json)"
    not_gpt2 = f"with {vocab_size:,} tokens it is not GPT-2's"
    raise FileNotFoundError(f"{missing}, and {not_gpt2}: copy one from where the model comes from")
