"""What the chat page asks of Python: to load SmolLM2, and to answer. Answers are printed token by token, as JSON."""

import dataclasses
import json
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.data.conversation import Conversation
from gpt.model.generation import Sampling, most_likely
from minigrad import Tensor, manual_seed, use_kernels

from .smollm2 import load

SYSTEM = "Answer in plain English."  # as in scripts/chat.py, which says why
LONGEST_ANSWER = 300  # tokens
ALTERNATIVES = 8


@dataclasses.dataclass(frozen=True)
class NotedSampling(Sampling):
    """Chooses tokens as chat.py does, and notes each with the logits that it was chosen from."""

    noted: list[tuple[int, np.ndarray]] = dataclasses.field(default_factory=list)

    def choose(self, logits: np.ndarray, seen: Iterable[int], rng: np.random.Generator) -> int:
        token = super().choose(logits, seen, rng)
        self.noted.append((token, logits))
        return token


talks: list[Conversation] = []  # one, once the model is loaded


def begin(model: str) -> None:
    """Begin a conversation with the model NAME of the site, whose folder worker.js has fetched."""
    use_kernels("fast")
    if not talks:
        talks.append(Conversation(*load(f"/models/{model}"), SYSTEM))
    talks[0].reset()


def answer(question: str, seed: int) -> dict[str, Any]:
    """Answer, until Stop; print the question's length in tokens, and then each piece of text with its token.

    Returns how many messages no longer fit, and after how many tokens the answer was cut off, or 0.
    """
    (talk,) = talks
    manual_seed(seed)
    print(len(talk.tokenizer.encode(question)), flush=True)
    sampling = NotedSampling(temperature=0.2, top_p=0.95, repetition_penalty=1.05)
    left = LONGEST_ANSWER
    with suppress(KeyboardInterrupt), closing(talk.answer(question, LONGEST_ANSWER, sampling)) as pieces:
        for piece in pieces:
            left = left - 1
            token, logits = sampling.noted.pop()
            print(json.dumps([piece, described(talk, token, logits)]), flush=True)
    is_cut = left == 0 and token not in talk.template.stop_tokens
    return {"forgotten": talk.forgotten, "cut": LONGEST_ANSWER * is_cut}


def described(talk: Conversation, token: int, logits: np.ndarray) -> list[dict[str, Any]]:
    """A token and the likeliest in its place, with the model's own probabilities: without temperature and penalty."""
    probs = F.softmax(Tensor(logits.astype(np.float64)), -1).data
    found = sorted({token, *most_likely(logits, ALTERNATIVES).tolist()}, key=lambda i: -probs[i])
    return [{"id": i, "text": talk.tokenizer.decode([i]), "p": float(probs[i]), "chosen": i == token} for i in found]
