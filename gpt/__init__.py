"""gpt: GPT-2 and Llama on minigrad, from byte-pair encoding to generated text."""

from .model.config import GPTConfig, LlamaConfig
from .model.gpt2 import GPT
from .model.kv_cache import KVCache
from .model.language_model import LanguageModel
from .model.llama import Llama
from .tokenizer.bpe import train_bpe
from .tokenizer.tokenizer import Tokenizer
from .training.batches import get_batch
from .training.checkpoint import load_checkpoint, save_checkpoint

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
