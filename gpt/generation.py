"""Writing: sample a token, append it, repeat. The model's output becomes its input.

The model gives a distribution over the next token; the settings here reshape it before one is drawn. They change what is picked, not
what the model knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import no_grad
from minigrad.backend import to_numpy

from .kv_cache import KVCache


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the model's scores (logits).

    temperature: divides the logits; below 1 sharpens, above 1 flattens, 0 always takes the best ("greedy").
    top_k: only the k best. top_p: only the best that together have probability p (nucleus; Holtzman et al. 2020).
    repetition_penalty: divides positive and multiplies negative logits of tokens already there (Keskar et al. 2019, section 4.1).
    Raises ValueError for a number outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a number >= 0, got {self.temperature}")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k < 1):
            raise ValueError(f"top_k must be an integer >= 1 or None, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty must be a number > 0, got {self.repetition_penalty}")

    def probabilities(self, logits: np.ndarray, seen: Sequence[int] = ()) -> np.ndarray:
        """logits (V,) -> float64 probabilities (V,), after the settings; `seen` are the tokens that the repetition penalty counts."""
        scores = logits.astype(np.float64)
        if self.repetition_penalty != 1 and len(seen):
            ids = np.unique(np.asarray(seen))
            picked = scores[ids]
            scores[ids] = np.where(picked > 0, picked / self.repetition_penalty, picked * self.repetition_penalty)
        if self.temperature == 0:
            return _one_hot(scores)
        scores /= self.temperature
        if self.top_k is not None and self.top_k < scores.size:
            scores[scores < np.partition(scores, -self.top_k)[-self.top_k]] = -np.inf
        probs = _softmax(scores)
        return probs if self.top_p == 1 else _nucleus(probs, self.top_p)


def _softmax(scores: np.ndarray) -> np.ndarray:
    exps = np.exp(scores - scores.max())
    return exps / exps.sum()


def _one_hot(scores: np.ndarray) -> np.ndarray:
    probs = np.zeros_like(scores)
    probs[scores.argmax()] = 1
    return probs


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the most likely tokens until they have `top_p` together; the one that gets there is kept too."""
    order = np.argsort(-probs, kind="stable")
    before = np.cumsum(probs[order]) - probs[order]  # what the better ones have
    kept = np.zeros_like(probs)
    kept[order[before < top_p]] = probs[order[before < top_p]]
    return kept / kept.sum()


@no_grad()
def generate(
    model: Any,
    ids: Any,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop_tokens: Sequence[int] = (),
    attention_mask: Any = None,
    use_cache: bool = True,
    on_token: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Continue each sequence of `ids` (B, T) by up to `max_new_tokens`; returns the new tokens of each, without the prompt.

    A sequence ends with a stop token (which is returned). Prompts of different lengths are padded on the left, and `attention_mask`
    (B, T) is 0 there. `on_token` is called with the batch's new tokens as they come, -1 for sequences that have ended (streaming).
    The same seed gives the same text. `use_cache=False` reads the whole context again for every token: slower, the same result.

    Beyond the block size the model forgets: when its context is full, the older half is dropped and the rest read anew, from position 0.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be >= 0, got {max_new_tokens}")
    was_training = model.training
    model.eval()
    try:
        stream = _Stream(model, ids, attention_mask, use_cache, max_new_tokens)
        rngs = [np.random.default_rng(None if seed is None else [seed, row]) for row in range(stream.batch)]
        ended = [False] * stream.batch
        new: list[list[int]] = [[] for _ in range(stream.batch)]
        for _ in range(max_new_tokens):
            logits = stream.next_logits()  # (B, V)
            drawn = []
            for row, rng in enumerate(rngs):
                token = -1
                if not ended[row]:
                    token = _draw(sampling.probabilities(logits[row], stream.real_tokens(row)), rng)
                    new[row].append(token)
                    ended[row] = token in stop_tokens
                drawn.append(token)
            if on_token is not None:
                on_token(drawn)
            if all(ended):
                break
            stream.append([max(token, 0) for token in drawn])
        return new
    finally:
        model.train(was_training)


def _draw(probs: np.ndarray, rng: np.random.Generator) -> int:
    """The token at which the running sum of probabilities passes a uniform number."""
    if not np.isfinite(probs).all():
        raise ValueError("the model's scores are not finite (nan or inf): its weights are damaged or its training diverged")
    return min(int(np.searchsorted(np.cumsum(probs), rng.random(), side="right")), int(np.flatnonzero(probs)[-1]))


class _Stream:
    """The tokens so far, and the model's scores for the next one, with or without a cache."""

    def __init__(self, model: Any, ids: Any, attention_mask: Any, use_cache: bool, max_new_tokens: int):
        self.model, self.block = model, model.config.block_size
        ids = to_numpy(model._as_ids(ids))
        self.batch = len(ids)
        self.tokens = [list(map(int, row)) for row in ids]
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
        if mask.shape != ids.shape or not mask[:, -1].all():
            raise ValueError(f"attention_mask must have the shape {ids.shape} of the ids, and prompts be padded on the left")
        self.mask = [list(map(int, row)) for row in mask]
        self.start = 0  # the first token of the model's context
        self.read = 0  # tokens that the cache holds, from `start` on
        self.cache = None
        if use_cache:
            capacity = min(self.block, ids.shape[1] + max_new_tokens)
            self.cache = KVCache.for_model(model, self.batch, capacity)

    def real_tokens(self, row: int) -> list[int]:
        return [token for token, real in zip(self.tokens[row], self.mask[row], strict=True) if real]

    def append(self, tokens: list[int]) -> None:
        for row, token in enumerate(tokens):
            self.tokens[row].append(token)
            self.mask[row].append(1)

    def next_logits(self) -> np.ndarray:
        length = len(self.tokens[0])
        if length - self.start > self.block:  # full: forget the older half
            self.start = length - self.block // 2 if self.block > 1 else length - 1
            self.read = 0
            if self.cache is not None:
                self.cache.clear()
        first = self.start + (self.read if self.cache is not None else 0)
        ids = np.array([row[first:] for row in self.tokens])
        mask = np.array([row[self.start :] for row in self.mask])
        hidden = self.model.hidden_states(ids, self.cache, None if mask.all() else mask)
        self.read = length - self.start
        return to_numpy(self.model.lm_head(hidden[:, -1]).data)  # only the last position's scores are wanted
