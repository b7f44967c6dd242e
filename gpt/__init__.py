"""gpt: GPT-2 on minigrad, from byte-pair encoding to generated text."""

from .bpe import train_bpe
from .checkpoint import load_checkpoint, save_checkpoint
from .config import GPTConfig
from .data import get_batch
from .kv_cache import KVCache
from .model import GPT
from .tokenizer import Tokenizer

__all__ = ["GPT", "GPTConfig", "KVCache", "Tokenizer", "get_batch", "load_checkpoint", "save_checkpoint", "train_bpe"]
