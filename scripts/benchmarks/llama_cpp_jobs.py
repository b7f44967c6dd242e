"""The opponent in C++: llama.cpp, by the package llama-cpp-python."""

from __future__ import annotations

import itertools

import llama_cpp
import numpy as np

from gpt.weights import hub
from minigrad.backend import usable_cores


class SmolLM2:
    """Greedy generation by SmolLM2 from the same file, in its 4 and 8 bits."""

    def __init__(self, folder: str, prompt: int, new_tokens: int):
        cores = usable_cores()
        self.model = llama_cpp.Llama(
            str(hub.find("smollm2")), n_ctx=512, n_threads=cores, n_threads_batch=cores, verbose=False
        )
        self.prompt = np.random.default_rng(0).integers(0, self.model.n_vocab(), prompt).tolist()
        self.new_tokens = new_tokens

    def step(self) -> float:
        self.model.reset()  # forget the text
        tokens = self.model.generate(self.prompt, temp=0.0, repeat_penalty=1.0)
        return float(len(list(itertools.islice(tokens, self.new_tokens))))


JOBS = {"smollm2": SmolLM2}
