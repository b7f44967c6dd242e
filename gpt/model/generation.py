"""Generation: choose a token, append it, repeat. The model's output becomes its input.

`generate_textbook` is the whole loop, for one text, and `Sampling` chooses the tokens. `generate` and `stream` do the
same for a batch, faster: the prompt is read in one pass, and then the KV cache makes each new token cost the work of
one token. The rest of the page is about what they keep between two steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any

import numpy as np

from minigrad import Tensor, no_grad
from minigrad.backend import generator
from minigrad.nn.module import evaluating

from ..ranges import check_ranges
from .kv_cache import KVCache


def generate_textbook(
    model: Any,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator,
    stop_tokens: Sequence[int] = (),
) -> Iterator[int]:
    """Yield up to `max_new_tokens` tokens that continue the prompt. The model is in evaluation mode (no dropout)."""
    block_size = model.config.block_size
    context = list(prompt)[-block_size:]  # the model reads no more than this
    seen = set(prompt)
    for _ in range(max_new_tokens):
        with no_grad():
            logits = model([context])[0, -1].numpy()  # (1, T, V) -> (V): for the token after the last one
        token = sampling.choose(logits, seen, rng)
        yield token
        if token in stop_tokens:
            return
        context.append(token)
        seen.add(token)
        if len(context) > block_size:
            context = context[-max(1, block_size // 2) :]  # the context is full: the model forgets its older half


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to choose a token from the model's logits. This changes which token is picked, not what the model knows.

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
        check_ranges(self, "a number >= 0", "temperature")
        check_ranges(self, "an integer >= 1 or None", "top_k")
        check_ranges(self, "in (0, 1]", "top_p")
        check_ranges(self, "a number > 0", "repetition_penalty")

    def choose(self, logits: np.ndarray, seen: Iterable[int], rng: np.random.Generator) -> int:
        """Choose one token. logits: (V,). seen: the tokens that are in the text."""
        tokens, probs = self.candidates(logits, seen)
        # The first token at which the running sum exceeds a uniform number. The last sum may be 0.99999...
        place = int(np.searchsorted(np.cumsum(probs), rng.random(), side="right"))
        return int(tokens[place if place < len(probs) else np.flatnonzero(probs)[-1]])

    def candidates(self, logits: np.ndarray, seen: Iterable[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens that may be chosen, and their float64 probabilities, after all settings."""
        logits = self.penalized(logits, seen)
        if self.temperature == 0:
            return np.array([logits.argmax()]), np.ones(1)

        # top_k. (The temperature does not change the order, so it can wait for the few logits that are kept.)
        tokens = np.arange(logits.size)
        if self.top_k is not None and self.top_k < logits.size:
            # `partition` puts the k largest logits last, the smallest of them first, and sorts no more than that
            kth = logits.size - self.top_k
            tokens = np.flatnonzero(logits >= np.partition(logits, kth)[kth])

        # temperature, in the softmax. The largest logit is subtracted: then e^x does not overflow.
        kept = logits[tokens].astype(np.float64)
        with np.errstate(over="ignore"):  # with a tiny temperature all other tokens may become -inf
            probs = np.exp((kept - kept.max()) / self.temperature)
        probs /= probs.sum()

        # top_p: keep the most likely tokens until their sum reaches top_p, including the token that reaches it
        if self.top_p < 1:
            # Tokens less likely than (1 - p) / n need not be sorted: together they have less than 1 - p.
            likely = np.flatnonzero(probs >= (1 - self.top_p) / probs.size)
            order = likely[np.argsort(-probs[likely], kind="stable")]
            before = np.cumsum(probs[order]) - probs[order]  # the sum over more likely tokens
            chosen = order[before < self.top_p]  # at least one token, as the first sum is 0
            nucleus = np.zeros_like(probs)
            nucleus[chosen] = probs[chosen]
            probs = nucleus / nucleus.sum()
        return tokens, probs

    def probabilities(self, logits: np.ndarray, seen: Iterable[int] = ()) -> np.ndarray:
        """Return the probabilities (V,) of all tokens: 0 for those that may not be chosen.

        >>> Sampling(top_k=2).probabilities(np.log([0.1, 0.6, 0.3])).round(3).tolist()
        [0.0, 0.667, 0.333]
        """
        tokens, probs = self.candidates(logits, seen)
        everything = np.zeros(logits.size)
        everything[tokens] = probs
        return everything

    def penalized(self, logits: np.ndarray, seen: Iterable[int]) -> np.ndarray:
        """Return the logits after the repetition penalty. Raises ValueError if they are not finite."""
        if not np.isfinite(logits.max()):  # max lets nan through
            raise ValueError(
                "the model's logits are not finite (nan or inf): its weights are damaged or its training diverged"
            )
        if self.repetition_penalty == 1:
            return logits
        logits = logits.astype(np.float64)
        ids = np.fromiter(seen, np.int64)
        picked = logits[ids]
        # Either way the logit falls: a positive one towards 0, a negative one away from it.
        logits[ids] = np.where(picked > 0, picked / self.repetition_penalty, picked * self.repetition_penalty)
        return logits


# ---------------------------------------------------------------------------------------------------------------------
# Batches, with a KV cache.


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
    the same seed gives the same text; without one, `manual_seed` decides. use_cache=False runs `generate_textbook`,
    which reads the whole context again for every token. This is slower and gives the same result.

    If a prompt is longer than the block size, only its last block is read. When a text outgrows the block, the model
    forgets: the context is cut to its newer half, is read again from position 0, and can grow again.

    Raises ValueError for settings out of range, an empty prompt, and logits that are not finite; IndexError for unknown
    ids.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    ids, real = as_batch(ids, attention_mask)
    new: list[list[int]] = [[] for _ in ids]
    with closing(stream(model, ids, max_new_tokens, sampling, seed, stop_tokens, real, use_cache)) as steps:
        for tokens in steps:
            for row, token in zip(new, tokens, strict=True):
                row += [token] if token >= 0 else []
            if on_token is not None:
                on_token(tokens)
    return new


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
    one sequence: text that was read before, as in the earlier turns of a conversation, is not read again. Simplified: a
    sequence that has ended is still computed until all sequences of its batch have ended.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be >= 0, got {max_new_tokens}")
    ids, real = as_batch(ids, attention_mask)
    if memory is not None and (len(ids) > 1 or not real.all() or not use_cache):
        raise ValueError("a memory is for one sequence without padding, and for generation with a cache")
    if seed is None:
        seed = int(generator().integers(2**63))
    rngs = [np.random.default_rng([seed, row]) for row in range(len(ids))]  # a row does not depend on the batch
    with evaluating(model):
        if not use_cache:
            texts = [
                generate_textbook(model, row[is_real].tolist(), max_new_tokens, sampling, rng, stop_tokens)
                for row, is_real, rng in zip(ids, real, rngs)
            ]
            yield from map(list, zip_longest(*texts, fillvalue=-1))
            return
        text = TextSoFar(model, ids, real, max_new_tokens, memory)
        tokens: list[int] = []
        ended = [False] * len(ids)
        try:
            for _ in range(max_new_tokens):
                if tokens:
                    text.append([max(token, 0) for token in tokens])  # -1 is not a token; any other will do
                rows = zip(text.next_logits(), text.seen, rngs, ended)  # of the logits (B, V), each row (V)
                tokens = [-1 if done else sampling.choose(logits, seen, rng) for logits, seen, rng, done in rows]
                ended = [token == -1 or token in stop_tokens for token in tokens]
                yield tokens
                if all(ended):
                    break
        finally:
            if memory is not None:
                memory.ids, memory.cache = text.ids[0, : text.read].copy(), text.cache


def as_batch(ids: Any, attention_mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts as an array (B, T), padded on the left with 0, and a mask (B, T) that is False on the padding.

    >>> ids, real = as_batch([[5, 6, 7], [8]])
    >>> ids.tolist(), real.tolist()
    ([[5, 6, 7], [0, 0, 8]], [[True, True, True], [False, False, True]])
    """
    if isinstance(ids, list | tuple) and len(ids) and np.ndim(ids[0]) == 1 and attention_mask is None:
        length = max(len(prompt) for prompt in ids)
        attention_mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in ids]
        ids = [[0] * (length - len(prompt)) + list(prompt) for prompt in ids]
    ids = _on_host(ids)
    ids = ids[None] if ids.ndim == 1 else ids
    real = np.ones(ids.shape, bool) if attention_mask is None else _on_host(attention_mask) != 0
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"prompts must be integers of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
    if real.shape != ids.shape or not real[:, -1].all():
        raise ValueError(
            f"attention_mask must have the shape {ids.shape} and end in ones: each prompt needs a token, and padding "
            "belongs on the left"
        )
    return ids.astype(np.int64), real


def _on_host(values: Any) -> np.ndarray:
    return values.numpy() if isinstance(values, Tensor) else np.asarray(values)


# ---------------------------------------------------------------------------------------------------------------------
# Between two steps: the text so far, and the keys and values of the tokens that the model has read.


class Memory:
    """The tokens that a model has read, with their KV cache, so a text with the same beginning need not be read again.

    `stream` reuses the common beginning, and then stores here what it has read.
    """

    def __init__(self) -> None:
        self.ids = np.zeros(0, np.int64)  # the tokens whose keys and values `cache` holds
        self.cache: KVCache | None = None


class TextSoFar:
    """The tokens so far of each sequence in a batch, and the logits of the next token.

    ids, real: the prompts, from `as_batch`. room: the number of tokens that may follow.
    """

    def __init__(self, model: Any, ids: np.ndarray, real: np.ndarray, room: int, memory: Memory | None = None):
        self.model, self.block = model, model.config.block_size
        self.seen = [set(row[is_real].tolist()) for row, is_real in zip(ids, real, strict=True)]
        # The context, (B, T). `real` is False on padding. The cache holds the first `read` tokens.
        self.ids, self.real, self.read = ids[:, -self.block :], real[:, -self.block :], 0
        # A faster `hidden_states`, if one is registered for this model (see the end of this page).
        self.decode = next(filter(None, (maker(model) for maker in _makers)), None)
        if memory is None:
            self.cache = KVCache.for_model(model, len(ids), min(self.block, ids.shape[1] + room))
        else:  # continue with its cache, from the first token that differs
            known = min(len(memory.ids), self.ids.shape[1] - 1)  # the last token is read again, for its logits
            same = memory.ids[:known] == self.ids[0, :known]
            self.read = known if same.all() else int(same.argmin())
            self.cache = memory.cache or KVCache.for_model(model)
            self.cache.cut(self.read)

    def append(self, tokens: list[int]) -> None:
        """Add a token to each sequence. A sequence that fills the context forgets its older half."""
        for seen, token in zip(self.seen, tokens, strict=True):
            seen.add(token)
        if self.ids.shape[1] == self.block:
            # Full rows keep half a block, with the token that is appended. In the others, padding leaves room.
            self.real[self.real[:, 0], : self.block - max(1, self.block // 2) + 1] = False
            # The longest row begins at `start`.
            start = int(self.real.any(axis=0).argmax()) if self.real.any() else self.block
            self.ids, self.real, self.read = self.ids[:, start:], self.real[:, start:], 0
            self.cache.cut(0)  # all tokens have new positions, so their keys and values are computed again
        self.ids = np.column_stack([self.ids, tokens])
        self.real = np.column_stack([self.real, np.ones(len(tokens), bool)])

    def next_logits(self, guesses: Sequence[int] = ()) -> np.ndarray:
        """Return the logits of the token after the context, (B, V).

        guesses, for one sequence: tokens that may come next. Then the logits after each of them follow, (1 + G, V).
        """
        # only what has not been read: the prompt, and then one token at a time
        new = np.concatenate([self.ids[:, self.read :], np.array([guesses] * len(self.ids), np.int64)], axis=1)
        mask = None if self.real.all() else self.real
        with no_grad():
            if self.decode is not None and self.read > 0 and new.shape[1] <= FEW:
                hidden = Tensor(self.decode(new, self.cache, mask))  # (B, T, C)
            else:
                hidden = self.model.hidden_states(new, self.cache, mask)
            logits = self.model.lm_head(hidden[:, -1 - len(guesses) :]).numpy()  # where the next token is wanted
        self.read = self.ids.shape[1]
        return logits.reshape(-1, self.model.config.vocab_size)

    def forget_guesses(self) -> None:
        """Forget the guesses that did not come true. The last token is always read again, for its logits."""
        self.read = min(self.cache.length, self.ids.shape[1] - 1)
        self.cache.cut(self.read)


# ---------------------------------------------------------------------------------------------------------------------
# A faster `hidden_states` for a few tokens after a cache. It is registered from outside, by decoding.py: that file
# imports the models, and the models import this one for `generate`.

FEW = 16  # up to this many new tokens are read by it

DecodeStep = Callable[..., np.ndarray]  # (ids (B, T), cache, attention mask (B, S) or None) -> hidden states (B, T, C)
_makers: list[Callable[[Any], DecodeStep | None]] = []


def register_decode_step(maker: Callable[[Any], DecodeStep | None]) -> Callable[[Any], DecodeStep | None]:
    """Decorate a function that gets a model, and returns such a step, or None for a model that it does not know."""
    _makers.append(maker)
    return maker
