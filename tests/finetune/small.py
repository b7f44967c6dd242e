"""Small tokenizers, models and data for the tests of fine-tuning, and ways to stop a stage and to watch it."""

import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from finetune.data.chat_template import IM_END, IM_START, ChatTemplate
from finetune.data.datasets import Preference
from gpt import GPT, GPTConfig, Tokenizer
from gpt.training import run
from gpt.training.training_step import training_step
from minigrad import manual_seed, nn

GOLDEN = Path(__file__).parent / "golden"
# How the updates of PPO and GRPO are computed, whose first one must begin with ratio 1 whatever it is.
update_settings = pytest.mark.parametrize(
    ("mini_batches", "accumulation", "kernels", "precision"),
    [
        (1, 1, "textbook", "float32"),
        (3, 1, "fast", "float32"),
        (2, 2, "textbook", "bfloat16"),
        (3, 1, "fast", "bfloat16"),
    ],
)

TEXT = (
    'the word is "kel". please write the word twice: here is "stor", "dal". what is the first word? give me both words '
    "joined. glad to help! user assistant system the cat sat on a mat and the dog ran to a house by the river. "
) * 3


PREFERENCES = "Say the word. Glad to help! The user asks and the assistant answers: yes, no, or perhaps. " * 3


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


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def dequantized(layer):
    """A float `nn.Linear` with the rounded weight of a QuantizedLinear, which computes the same."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False)
    linear.weight = nn.Parameter(np.ascontiguousarray(layer.weight.dequantize()))
    linear.bias = layer.bias
    return linear


def interrupt_at(step, monkeypatch):
    """Press Ctrl-C in one of the steps, counted from 1, that a run takes."""
    numbers = itertools.count(1)

    def interrupted_step(*arguments, **options):
        if next(numbers) == step:
            signal.raise_signal(signal.SIGINT)
        return training_step(*arguments, **options)

    monkeypatch.setattr(run, "training_step", interrupted_step)


def few_items(monkeypatch, module, **counts):
    """Let a module's built-in data have so many items. counts: by the names of its constants."""
    for name, count in counts.items():
        monkeypatch.setattr(module, name, count)


def watch(page, monkeypatch, name):
    """The calls of a function that a stage's module uses: a list of (arguments, result), which grows."""
    calls = []
    function = getattr(page, name)

    def watched(*arguments, **options):
        result = function(*arguments, **options)
        calls.append((arguments, result))
        return result

    monkeypatch.setattr(page, name, watched)
    return calls


# --- preferences ------------------------------------------------------------------------------------------------------


def small_template():
    """A chat template on a tokenizer of 290 tokens."""
    tokenizer = Tokenizer.train([PREFERENCES], 288)
    tokenizer.add_special_tokens([IM_START, IM_END])
    return ChatTemplate(tokenizer)


def small_policy(template, seed=0, dtype="float32", **changes):
    """A GPT for that tokenizer, with weights large enough that its tokens are not all alike."""
    manual_seed(seed)
    shape = {"block_size": 48, "n_layer": 1, "n_head": 2, "n_embd": 16, **changes}
    model = GPT(GPTConfig(vocab_size=len(template.tokenizer), **shape))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 5
    return model.to(dtype)


def question(text):
    return [{"role": "user", "content": text}]


def preferences(n=8):
    """Pairs in which the better answer is yes."""
    return [Preference(question(f"Say {i}?"), "yes" + "!" * (i % 3), "no" + "." * (i % 2)) for i in range(n)]
