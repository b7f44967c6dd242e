"""The opponent in C++: llama.cpp, by the package llama-cpp-python."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import llama_cpp
import numpy as np

from gpt.weights import hub
from minigrad.backend import usable_cores


def smollm2(steps: Callable[..., Iterable[None]], side: str, folder: str, prompt: int, new_tokens: int) -> None:
    """Greedy generation by SmolLM2 from the same file, in its 4 and 8 bits."""
    path = str(hub.find("smollm2"))
    cores = usable_cores()
    model = llama_cpp.Llama(path, n_ctx=512, n_threads=cores, n_threads_batch=cores, verbose=False)
    ids = np.random.default_rng(0).integers(0, model.n_vocab(), prompt).tolist()
    for _ in steps():
        model.reset()  # forget the text
        tokens = model.generate(ids, temp=0.0, repeat_penalty=1.0)
        for _ in itertools.islice(tokens, new_tokens):
            pass


def rates(side: str) -> dict[str, Any]:
    return {"library": "ggml"}
