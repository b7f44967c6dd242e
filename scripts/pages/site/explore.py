"""What the explorer asks of Python in a browser: to look inside a model while it reads a text."""

import functools
from typing import Any

from gpt.model.batch_generation import Memory, stream
from gpt.model.generation import Sampling
from scripts.pages.explore_data import Looker

from .smollm2 import load


@functools.lru_cache(maxsize=1)
def looker(model: str) -> Looker:
    """The model NAME of the site, whose folder worker.js has fetched."""
    return Looker(*load(f"/models/{model}"))


@functools.lru_cache(maxsize=1)
def memory(model: str) -> Memory:
    """What `write` has read with the model: the next text that begins so continues from there."""
    return Memory()


def look(model: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question (explore_data.py), or {"error": why there is none}."""
    try:
        return looker(model).look(question)
    except ValueError as error:
        return {"error": str(error)}


def write(model: str, ids: list[int], tokens: int, seed: int) -> dict[str, Any]:
    """Continue a text by up to `tokens` tokens, whose texts are printed as they come; returns both."""
    found = looker(model)
    end = found.tokenizer.eos_token_id

    def text(i: int) -> str:
        return "\n\n" if i == end else found.tokenizer.decode([i])

    ends = [] if end is None else [end]
    new = []
    for (token,) in stream(found.model, [ids], tokens, Sampling(0.8, top_p=0.95), seed, ends, memory=memory(model)):
        print(text(token), end="", flush=True)
        new.append(token)
    return {"ids": new, "tokens": [text(i) for i in new]}
