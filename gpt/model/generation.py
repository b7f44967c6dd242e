"""Generation: sample a token, append it, repeat. The model's output becomes its input.

The model gives a distribution over the next token. The settings here reshape it before a token is sampled. They change
which token is picked, not what the model knows.

The prompt is read in one pass. After that, the KV cache makes each new token cost the work of one token. Simplified: a
sequence that has ended is still computed until all sequences of its batch have ended.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from minigrad import Tensor, no_grad
from minigrad.backend import generator, to_numpy
from minigrad.nn.module import evaluating

from .kv_cache import KVCache

FEW = 16  # up to this many new tokens are read by the decode step of decoding.py, if it fits the model


DecodeStep = Callable[..., np.ndarray]  # (ids (B, T), cache, attention mask (B, S) or None) -> hidden states (B, T, C)
_makers: list[Callable[[Any], DecodeStep | None]] = []


def register_decode_step(maker: Callable[[Any], DecodeStep | None]) -> Callable[[Any], DecodeStep | None]:
    """Decorate a function that gets a model, and returns a faster `hidden_states` for a few tokens after a cache.

    It returns None for a model that it does not know. decoding.py registers one here: it imports the models, and they
    import this file for `generate`.
    """
    _makers.append(maker)
    return maker


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to sample a token from the model's logits.

    temperature: divides the logits. Below 1 sharpens the distribution, above 1 flattens it, 0 always takes the most
    likely token (greedy). top_k: sample only from the k most likely tokens. top_p: sample only from the most likely
    tokens that together have probability p (nucleus sampling; Holtzman et al. 2020). repetition_penalty: for tokens
    that are already in the text, divides positive logits and multiplies negative ones (Keskar et al. 2019, section 4.1,
    divide all). Raises ValueError for a number outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a number >= 0, got {self.temperature}")
        if self.top_k is not None and not (isinstance(self.top_k, int | np.integer) and self.top_k >= 1):
            raise ValueError(f"top_k must be an integer >= 1 or None, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be a number > 0, got {self.repetition_penalty}")

    def choose(self, logits: np.ndarray, seen: Iterable[int], rng: np.random.Generator) -> int:
        """Sample one token from logits (V,). Raises ValueError if the logits are not finite."""
        scores = self._scores(logits, seen)
        if self.temperature == 0:
            return int(scores.argmax())
        kept = np.arange(scores.size)
        if self.top_k is not None and self.top_k < scores.size:  # the others need no probabilities
            kth = scores.size - self.top_k
            kept = np.flatnonzero(scores >= np.partition(scores, kth)[kth])
        # The scores hold the penalty already: it must not be applied twice.
        probs = dataclasses.replace(self, repetition_penalty=1.0).probabilities(scores[kept])
        # The first token at which the running sum exceeds a uniform number. The last sum may be 0.99999...
        place = int(np.searchsorted(np.cumsum(probs), rng.random(), side="right"))
        return int(kept[place if place < len(probs) else np.flatnonzero(probs)[-1]])

    def probabilities(self, logits: np.ndarray, seen: Iterable[int] = ()) -> np.ndarray:
        """logits (V,) -> float64 probabilities (V,) after all settings. `seen`: the tokens that are in the text.

        Raises ValueError if the logits are not finite.

        >>> Sampling(top_k=2).probabilities(np.log([0.1, 0.6, 0.3])).round(3).tolist()
        [0.0, 0.667, 0.333]
        """
        scores = self._scores(logits, seen).astype(np.float64)
        if self.temperature == 0:
            return (np.arange(scores.size) == scores.argmax()).astype(np.float64)
        best = scores.max()  # subtracted below, as in softmax: e^x does not overflow
        if self.top_k is not None and self.top_k < scores.size:
            # `partition` puts the number that belongs at place kth there, without sorting the others
            kth = scores.size - self.top_k
            scores[scores < np.partition(scores, kth)[kth]] = -np.inf  # probability 0
        with np.errstate(over="ignore"):  # with a tiny temperature all other tokens may become -inf
            probs = np.exp((scores - best) / self.temperature)
        probs /= probs.sum()
        # top_p comes last: it is about the probabilities after temperature and top_k
        return probs if self.top_p == 1 else _nucleus(probs, self.top_p)

    def _scores(self, logits: np.ndarray, seen: Iterable[int]) -> np.ndarray:
        """The logits after the repetition penalty."""
        if not np.isfinite(logits.max()):  # max lets nan through
            raise ValueError(
                "the model's logits are not finite (nan or inf): its weights are damaged or its training diverged"
            )
        if self.repetition_penalty == 1:
            return logits
        scores = logits.astype(np.float64)
        ids = np.fromiter(seen, np.int64)
        picked = scores[ids]
        # Either way the score falls: a positive one towards 0, a negative one away from it.
        scores[ids] = np.where(picked > 0, picked / self.repetition_penalty, picked * self.repetition_penalty)
        return scores


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the most likely tokens until their sum reaches `top_p`, including the token that reaches it."""
    # Tokens less likely than (1 - p) / V need not be sorted: together they have less than 1 - p.
    likely = np.flatnonzero(probs >= (1 - top_p) / probs.size)
    order = likely[np.argsort(-probs[likely], kind="stable")]
    before = np.cumsum(probs[order]) - probs[order]  # the sum over more likely tokens
    kept = order[before < top_p]  # at least one token, as the first sum is 0
    nucleus = np.zeros_like(probs)
    nucleus[kept] = probs[kept]
    return nucleus / nucleus.sum()


class Memory:
    """The tokens that a model has read, with their KV cache, so a text with the same beginning need not be read again.

    `stream` reuses the common beginning, and then stores here what it has read.
    """

    def __init__(self) -> None:
        self.ids = np.zeros(0, np.int64)  # the tokens whose keys and values `cache` holds
        self.cache: KVCache | None = None

    def common(self, ids: np.ndarray) -> int:
        """The number of tokens at the beginning of `ids` (T) that are already in the cache.

        >>> memory = Memory()
        >>> memory.ids = np.array([7, 8, 9])
        >>> memory.common(np.array([7, 8, 5, 6]))
        2
        """
        length = min(len(self.ids), len(ids))
        other = np.flatnonzero(self.ids[:length] != ids[:length])
        return int(other[0]) if len(other) else length


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
    """Continue each prompt by up to `max_new_tokens`. Returns the new tokens of each prompt.

    ids: prompts (B, T), or lists of different lengths, which are padded on the left. attention_mask (B, T): 0 on the
    padding of prompts that are already padded. A sequence ends with a stop token, which is returned. on_token: called
    with each step's new tokens, with -1 for sequences that have ended (`stream` does the same as an iterator). seed:
    the same seed gives the same text; without one, `manual_seed` decides. use_cache=False reads the whole context again
    for every token, which is slower and gives the same result.

    If a prompt is longer than the block size, only its last block is read. When a text outgrows the block, the model
    forgets: the context is cut to its newer half, is read again from position 0, and can grow again.

    Raises ValueError for settings out of range, an empty prompt, and logits that are not finite; IndexError for unknown
    ids.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    new: list[list[int]] = []
    with closing(stream(model, ids, max_new_tokens, sampling, seed, stop_tokens, attention_mask, use_cache)) as steps:
        for drawn in steps:
            new = new or [[] for _ in drawn]
            for row, token in zip(new, drawn, strict=True):
                row += [token] if token >= 0 else []
            if on_token is not None:
                on_token(drawn)
    return new or [[] for _ in _prompts(ids, attention_mask)[0]]


def stream(
    model: Any,
    ids: Any,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None = None,
    stop_tokens: Sequence[int] = (),
    attention_mask: Any = None,
    use_cache: bool = True,
    memory: Memory | None = None,
) -> Generator[list[int], None, None]:
    """`generate` as an iterator over steps. Each step gives the batch's new tokens, -1 for sequences that have ended.

    Stop iterating to stop generation. The model is in evaluation mode until the iterator ends or is closed. memory, for
    one sequence: text that was read before, as in the earlier turns of a conversation, is not read again.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be >= 0, got {max_new_tokens}")
    text = TextSoFar(model, ids, attention_mask, use_cache, max_new_tokens)
    if memory is not None:
        text.remember(memory)
    if seed is None:
        seed = int(generator().integers(2**63))
    rngs = [np.random.default_rng([seed, row]) for row in range(text.batch)]  # a row does not depend on the batch
    ended = [False] * text.batch
    try:
        with evaluating(model):
            for step in range(max_new_tokens):
                logits = text.next_logits()  # (B, V)
                drawn = [-1] * text.batch
                for row in range(text.batch):
                    if not ended[row]:
                        drawn[row] = sampling.choose(logits[row], text.seen[row], rngs[row])
                        ended[row] = drawn[row] in stop_tokens
                yield drawn
                if all(ended) or step == max_new_tokens - 1:
                    break
                text.append([max(token, 0) for token in drawn])  # -1, the mark of an ended sequence, is not a token
    finally:
        if memory is not None:
            memory.ids, memory.cache = text.ids[0, : text.read].copy(), text.cache


class TextSoFar:
    """The tokens so far of each sequence in a batch, and the logits of the next token, with or without a cache."""

    def __init__(self, model: Any, ids: Any, attention_mask: Any, use_cache: bool, max_new_tokens: int):
        self.model, self.block = model, model.config.block_size
        ids, real = _prompts(ids, attention_mask)
        self.batch, length = ids.shape
        self.seen = [set(row[is_real].tolist()) for row, is_real in zip(ids, real, strict=True)]
        capacity = min(self.block, length + max_new_tokens)
        self.cache = KVCache.for_model(model, self.batch, capacity) if use_cache else None
        self.decode = next(filter(None, (maker(model) for maker in _makers)), None)
        self._start_with(ids[:, -self.block :].astype(np.int64), real[:, -self.block :])

    def _start_with(self, ids: np.ndarray, real: np.ndarray) -> None:
        """Make ids (B, T) the context, with nothing read yet. `real` is False on padding."""
        self.ids, self.real, self.read = ids, real, 0
        if self.cache is not None:
            self.cache.cut(0)

    def remember(self, memory: Memory) -> None:
        """Continue with the memory's cache, from the first token that differs from the memory's text."""
        if self.batch > 1 or self.cache is None or not self.real.all():
            raise ValueError("a memory is for one sequence without padding, and for generation with a cache")
        self.cache = memory.cache or KVCache.for_model(self.model)
        # The last token is always read again, because its logits are needed.
        self.read = min(memory.common(self.ids[0]), self.ids.shape[1] - 1)
        self.cache.cut(self.read)

    def append(self, tokens: list[int]) -> None:
        """Add a token to each sequence. A sequence that fills the context forgets its older half."""
        for seen, token in zip(self.seen, tokens, strict=True):
            seen.add(token)
        if self.ids.shape[1] == self.block:
            newer = self.block - max(1, self.block // 2) + 1  # with the token that is appended, half a block stays
            self.real[self.real[:, 0], :newer] = False  # only in full rows: the padding of the others is room
            start = int(self.real.any(axis=0).argmax()) if self.real.any() else self.block
            self._start_with(self.ids[:, start:], self.real[:, start:])  # the cache is empty: positions have changed
        self.ids = np.column_stack([self.ids, tokens])
        self.real = np.column_stack([self.real, np.ones(self.batch, bool)])

    def next_logits(self, guesses: Sequence[int] = ()) -> np.ndarray:
        """(B, V): the logits of the token after the context.

        guesses, for one sequence: tokens that may come next. Then the logits after each of them follow, (1 + G, V).
        """
        # with a cache, only what has not been read: the prompt, and then one token at a time
        new = np.concatenate([self.ids[:, self.read :], np.array([guesses] * self.batch, np.int64)], axis=1)
        last = slice(-1 - len(guesses), None)  # the positions whose logits are needed
        with no_grad():
            mask = None if self.real.all() else self.real
            few = self.read > 0 and new.shape[1] <= FEW
            if self.decode is not None and self.cache is not None and few:
                hidden = Tensor(self.decode(new, self.cache, mask))  # (B, T, C)
            else:
                hidden = self.model.hidden_states(new, self.cache, mask)
            logits = to_numpy(self.model.lm_head(hidden[:, last]).data).reshape(-1, self.model.config.vocab_size)
        if self.cache is not None:
            self.read = self.ids.shape[1]
        return logits

    def forget_guesses(self) -> None:
        """Forget the guesses that did not come true. The last token is always read again, for its logits."""
        assert self.cache is not None
        self.read = min(self.cache.length, self.ids.shape[1] - 1)
        self.cache.cut(self.read)


def _prompts(ids: Any, attention_mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as an array (B, T), padded on the left with 0, and a mask (B, T) that is False on the padding.

    >>> ids, real = _prompts([[5, 6, 7], [8]])
    >>> ids.tolist(), real.tolist()
    ([[5, 6, 7], [0, 0, 8]], [[True, True, True], [False, False, True]])
    """
    if isinstance(ids, list | tuple) and len(ids) and np.ndim(ids[0]) == 1 and attention_mask is None:
        length = max(len(prompt) for prompt in ids)
        real = np.array([[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in ids])
        ids = np.array([[0] * (length - len(prompt)) + list(prompt) for prompt in ids])
    else:
        ids = _host_array(ids)
        ids = ids[None] if ids.ndim == 1 else ids
        real = np.ones(ids.shape, bool) if attention_mask is None else _host_array(attention_mask) != 0
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"prompts must be integers of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
    if real.shape != ids.shape or not real[:, -1].all():
        raise ValueError(
            f"attention_mask must have the shape {ids.shape} and end in ones: each prompt needs a token, and padding "
            "belongs on the left"
        )
    return ids, real


def _host_array(values: Any) -> np.ndarray:
    return np.asarray(to_numpy(values.data) if isinstance(values, Tensor) else values)
