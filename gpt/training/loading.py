"""Load any language model with its tokenizer: the meaning of --model and --init-from in every script."""

from __future__ import annotations

from pathlib import Path

from ..console import show
from ..files import StrPath
from ..model.config import GPT2_VOCAB_SIZE
from ..model.gpt2 import GPT
from ..model.language_model import LanguageModel
from ..model.llama import Llama
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary_files import has_tokenizer
from ..weights import hub, pretrained
from ..weights.gguf_file import GGUFFile, is_gguf
from .checkpoint import has_checkpoint, load_run


def load_model(source: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """Load a model in evaluation mode and its tokenizer from a run's folder, a Hugging Face folder, a GGUF file, or a
    name like "gpt2" or "smollm2". The folder or file determines whether it is a GPT or a Llama.

    Raises FileNotFoundError, ValueError for files that are damaged or do not fit together, and what `hub.find` raises.
    """
    place = hub.find(source)
    if has_checkpoint(place):
        model, tokenizer = load_run(place)
        return model.eval(), tokenizer
    file = GGUFFile(place) if is_gguf(place) else None
    model = pretrained.load(file or place, {GPT.model_type: GPT, Llama.model_type: Llama})
    if file is not None:
        tokenizer = Tokenizer.from_gguf(file.metadata, str(place))
    else:
        tokenizer = _tokenizer_of(place, model.config.vocab_size)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer in {place} has {len(tokenizer):,} tokens, but the model knows {model.config.vocab_size:,}"
        )
    return model, tokenizer


def _tokenizer_of(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a folder, or GPT-2's if there is none and GPT-2's fits."""
    if has_tokenizer(folder):
        return Tokenizer.load(folder)
    if vocab_size == GPT2_VOCAB_SIZE:
        show(f"{folder} has no tokenizer; its {GPT2_VOCAB_SIZE:,} tokens are taken to be those of GPT-2")
        return Tokenizer.gpt2()
    raise FileNotFoundError(
        f"{folder} has no tokenizer (vocab.json and merges.txt, or tokenizer.json), and with "
        f"{vocab_size:,} tokens it is not GPT-2's: copy one from where the model comes from"
    )
