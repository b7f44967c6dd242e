"""gpt: how does a machine learn to write? GPT-2 and Llama on minigrad, from byte-pair encoding to generated text.

tokenizer/        how does text become numbers?
model/            GPT-2 and Llama, and how they generate
corpora/          what text can a model learn from?
training/         how is a model trained?
weights/          weights in other people's files, in and out
interpretability/ what has a model learned?
accounting.py     parameters, FLOPs and memory of a model, by formula
console.py        the one place that writes to the screen
files.py          reading text and JSON with clear errors; writing files that are whole or absent
file_checks.py    what a model's files may say: the checks that the readers of all formats share
memory_check.py   is there enough memory? a refusal before any work is done
model_config.py   the numbers that define a model
settings.py       a setting is declared once: its default, help and range; the one check of all settings
"""

from .model.gpt2 import GPT
from .model.kv_cache import KVCache
from .model.language_model import LanguageModel
from .model.llama import Llama
from .model_config import GPTConfig, LlamaConfig
from .tokenizer.bpe_training import train_bpe
from .tokenizer.tokenizer import Tokenizer
from .training.batches import get_batch
from .training.checkpoint import load_checkpoint, save_checkpoint
from .training.loading import load_model

__all__ = [
    "GPT", "GPTConfig", "KVCache", "LanguageModel", "Llama", "LlamaConfig", "Tokenizer", "get_batch", "load_checkpoint",
    "load_model", "save_checkpoint", "train_bpe",
]  # fmt: skip
