"""How does a model compute the next token?

gpt2.py                   GPT-2, on a page: attention, MLP, block, model
original_transformer.py   before GPT-2: post-norm blocks, and positions that are not learned
llama.py                  Llama: GPT-2 with five changes
moe.py                    a mixture of experts in the place of the MLPs
latent_attention.py       attention whose keys and values are made from a small latent, which is cached
sliding_window.py         attention to the last tokens and the first, and a cache that forgets the others
linear_attention.py       a state of fixed size in the place of attention
language_model.py         their base class: loss, generation, loading, saving
structure.py              the names of a model's parts, for code that changes it from outside
part_names.py             the names of these parts in GPT-2 and in Llama
positions.py              where each token stands, and which tokens it may attend to
kv_cache.py               keys and values of earlier tokens, computed once
generation.py             the loop that writes a text; sampling: temperature, top-k, top-p, min-p
batch_generation.py       the same loop for a batch of texts, with a KV cache
speculation.py            several tokens in one pass: the text or a small model guesses, and the model checks
constrained_decoding.py   answers that a program can read: one of several choices, or a JSON object
numpy_forward.py          the decode step, for a few new tokens, in plain NumPy
"""

from ..model_config import GPTConfig, LlamaConfig
from .gpt2 import GPT
from .kv_cache import KVCache
from .language_model import LanguageModel
from .llama import Llama

__all__ = ["GPT", "GPTConfig", "KVCache", "LanguageModel", "Llama", "LlamaConfig"]
