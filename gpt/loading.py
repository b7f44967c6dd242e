"""One way to get a model that can write, wherever it is: what every script's --model and --init-from mean."""

from __future__ import annotations

import os

from . import hub, huggingface
from .checkpoint import has_checkpoint, load_run
from .config import GPT2_VOCAB_SIZE
from .model import GPT
from .run_log import show
from .tokenizer import Tokenizer
from .vocabulary import has_tokenizer


def load_model(source: str | os.PathLike[str]) -> tuple[GPT, Tokenizer]:
    """A model in evaluation mode and its tokenizer, from a run's folder, a Hugging Face folder, or a name like "gpt2".

    Raises FileNotFoundError, or ValueError for what is damaged or does not fit together, and what `hub.find` raises.
    """
    folder = hub.find(source)
    if has_checkpoint(folder):
        model, tokenizer = load_run(folder)
        return model.eval(), tokenizer
    model = huggingface.load(folder, GPT)
    if has_tokenizer(folder):
        tokenizer = Tokenizer.load(folder)
    elif model.config.vocab_size == GPT2_VOCAB_SIZE:
        show(f"{folder} holds no tokenizer; its {GPT2_VOCAB_SIZE:,} tokens are taken to be those of GPT-2")
        tokenizer = Tokenizer.gpt2()
    else:
        raise FileNotFoundError(
            f"{folder} holds no tokenizer (vocab.json and merges.txt, or tokenizer.json), and with "
            f"{model.config.vocab_size:,} tokens it is not GPT-2's: copy one from where the model comes from"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer in {folder} has {len(tokenizer):,} tokens, but the model knows {model.config.vocab_size:,}"
        )
    return model, tokenizer
