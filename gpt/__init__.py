"""gpt: GPT-2 and Llama on minigrad, from byte-pair encoding to generated text."""

from .bpe import train_bpe
from .checkpoint import load_checkpoint, save_checkpoint
from .config import GPTConfig, LlamaConfig
from .data import get_batch
from .kv_cache import KVCache
from .language_model import LanguageModel
from .llama import Llama
from .model import GPT
from .tokenizer import Tokenizer

__all__ = [
    "GPT",
    "GPTConfig",
    "KVCache",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "Tokenizer",
    "get_batch",
    "load_checkpoint",
    "save_checkpoint",
    "train_bpe",
]
