"""A small tokenizer and model for the tests of fine-tuning: trained in a moment, random weights."""

import json

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer
from minigrad import manual_seed, nn

TEXT = (
    'the word is "kel". please write the word twice: here is "stor", "dal". what is the first word? give me both words '
    "joined. glad to help! user assistant system the cat sat on a mat and the dog ran to a house by the river. "
) * 3


def small_tokenizer(vocab_size=300):
    return Tokenizer.train(TEXT, vocab_size)


def small_chat_model(seed=0, block_size=64, **changes):
    """A GPT of one narrow block and its tokenizer; chat tokens are not added yet."""
    manual_seed(seed)
    tokenizer = small_tokenizer()
    shape = {"vocab_size": len(tokenizer), "block_size": block_size, "n_layer": 1, "n_head": 2, "n_embd": 16, **changes}
    return GPT(GPTConfig(**shape)), tokenizer


def write_rows(path, rows):
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def dequantized(layer):
    """A float `nn.Linear` with the rounded weight of a QuantizedLinear, which computes the same."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False)
    linear.weight = nn.Parameter(np.ascontiguousarray(layer.weight.dequantize()))
    linear.bias = layer.bias
    return linear
