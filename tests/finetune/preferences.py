"""For the tests of reward model, DPO and PPO: golden values, a small tokenizer that can chat, small models, pairs."""

from pathlib import Path

import numpy as np

from finetune.data.chat_template import IM_END, IM_START, ChatTemplate
from finetune.data.datasets import Preference
from gpt import GPT, GPTConfig, Tokenizer
from minigrad import manual_seed

TEXT = "Say the word. Glad to help! The user asks and the assistant answers: yes, no, or perhaps. " * 3


def golden(part):
    """The settings, and the arrays of "dpo", "reward" or "ppo" without that prefix."""
    with np.load(Path(__file__).parent / "golden" / "preferences.npz") as file:
        arrays = dict(file)
    settings = {name: float(value) for name, value in arrays.items() if "/" not in name}
    return settings, {name.removeprefix(f"{part}/"): value for name, value in arrays.items() if name.startswith(part)}


def small_template():
    """A chat template on a tokenizer of 290 tokens."""
    tokenizer = Tokenizer.train([TEXT], 288)
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
