"""Generation for a batch of prompts, with a KV cache: the loop of generation.py, made fast.

The prompt is read in one pass. After that the KV cache holds the keys and values of all tokens that were read, so each
new token costs the work of one token (kv_cache.py). For one text this is all:

>>> from gpt import GPT, GPTConfig
>>> model = GPT(GPTConfig(vocab_size=50, block_size=32, n_layer=2, n_head=2, n_embd=16)).eval()
>>> prompt, written = [3, 1, 4], []
>>> new, cache = prompt, KVCache(batch=1, capacity=32)
>>> with no_grad():
...     while len(written) < 10:
...         logits = model([new], cache)[0, -1].numpy()  # reads what is new: first the prompt, then one token
...         token = int(logits.argmax())  # greedy; or `Sampling(...).choose(logits, prompt + written, rng)`
...         written.append(token)
...         new = [token]
>>> written == generate(model, [prompt], max_new_tokens=10, temperature=0)[0]
True

`generate` returns the new tokens, and `stream` is the loop, which yields them step by step. `TextSoFar` holds the texts
and the cache between two steps, `read_alike_once` reads equal prompts once, and `Memory` keeps what was read for the
next text. Prompts of different lengths are padded on the left, so that all texts end, and grow, in the same column. A
mask called `real` tells tokens (True) from padding (False):

    ids     5  6  7        real    True   True   True
            0  0  8                False  False  True
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import Tensor, no_grad
from minigrad.backend import Array, generator
from minigrad.nn.module import evaluating

from . import numpy_forward
from .generation import Sampling, generate_textbook
from .kv_cache import KVCache

if TYPE_CHECKING:
    from .language_model import Ids, LanguageModel

# The most new tokens for a decode step: 1 in `stream`, and in speculation.py the last token and up to 15 guesses. More
# tokens are a prompt, which the model reads itself: for long inputs the saving is negligible.
MAX_DECODE_TOKENS = 16


def generate(
    model: LanguageModel,
    ids: Ids,
    max_new_tokens: int,
    *,
    seed: int | Sequence[Any] | None = None,
    stop_tokens: Sequence[int] = (),
    attention_mask: Any = None,
    use_cache: bool = True,
    on_token: Callable[[list[int]], None] | None = None,
    **settings: Any,
) -> list[list[int]]:
    """Continue each prompt by up to `max_new_tokens`. Returns the new tokens of each prompt.

    ids: prompts (B, T), or lists of different lengths, which are padded on the left. attention_mask (B, T): 0 on the
    padding of prompts that are already padded. A sequence ends with a stop token, which is returned. on_token: called
    with each step's new tokens, with -1 for sequences that have ended (`stream` does the same as an iterator). seed:
    the same seed gives the same text; a list has a seed for each prompt; without one, `manual_seed` decides.
    use_cache=False runs `generate_textbook`, which reads the whole context again for every token. This is slower and
    gives the same result. settings: of `Sampling`, as temperature and top_k.

    If a prompt is longer than the block size, only its last block is read. When a text outgrows the block, the model
    forgets: the context is cut to its newer half, is read again from position 0, and can grow again.

    Raises ValueError for settings out of range, an empty prompt, and logits that are not finite; IndexError for unknown
    ids.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be >= 0, got {max_new_tokens}")
    sampling = Sampling(**settings)
    ids, real = as_batch(ids, attention_mask)
    new: list[list[int]] = [[] for _ in ids]
    write = stream if use_cache else stream_textbook
    with closing(write(model, ids, max_new_tokens, sampling, seed, stop_tokens, real)) as steps:
        for tokens in steps:
            for row, token in zip(new, tokens):
                if token >= 0:
                    row.append(token)
            if on_token is not None:
                on_token(tokens)
    return new


def stream(
    model: LanguageModel,
    ids: Ids,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | Sequence[Any] | None = None,
    stop_tokens: Sequence[int] = (),
    attention_mask: Any = None,
    memory: Memory | None = None,
    process: Callable[[np.ndarray, list[int]], np.ndarray] | None = None,
) -> Generator[list[int], None, None]:
    """Yield each step's new tokens, one for each sequence, or -1 for sequences that have ended.

    Stop iterating to stop generation. The model is in evaluation mode until the iterator ends or is closed. memory, for
    one sequence without padding: text that was read before, as in the earlier turns of a conversation, is not read
    again. process: a function of the logits (V) and the new tokens of a sequence, which returns the logits to choose
    from (constrained_decoding.py). Simplified: a sequence that has ended is still computed until all sequences of its
    batch have ended.
    """
    ids, real = as_batch(ids, attention_mask)
    rngs = random_generators(seed, len(ids))
    text = TextSoFar(model, ids, real, max_new_tokens, memory)
    new: list[list[int]] = [[] for _ in ids]
    ended = [False] * len(ids)
    tokens: list[int] = []
    with evaluating(model):
        try:
            for step in range(max_new_tokens):
                if step > 0:
                    # -1 is not a token. A sequence that has ended gets token 0 instead; nobody sees what follows.
                    text.append([max(token, 0) for token in tokens])
                logits = text.next_logits()  # (B, V)
                tokens = [-1] * len(ids)
                for row, rng in enumerate(rngs):
                    if ended[row]:
                        continue
                    scores = logits[row] if process is None else process(logits[row], new[row])
                    token = sampling.choose(scores, text.seen[row], rng)
                    tokens[row] = token
                    new[row].append(token)
                    ended[row] = token in stop_tokens
                yield tokens
                if all(ended):
                    break
        finally:
            if memory is not None:
                memory.keep(text)


def stream_textbook(
    model: LanguageModel,
    ids: Ids,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | Sequence[Any] | None = None,
    stop_tokens: Sequence[int] = (),
    attention_mask: Any = None,
) -> Generator[list[int], None, None]:
    """Yield what `stream` yields, from `generate_textbook`: without a cache, and each sequence by itself."""
    ids, real = as_batch(ids, attention_mask)
    texts = [
        generate_textbook(model, row[is_real].tolist(), max_new_tokens, sampling, rng, stop_tokens)
        for row, is_real, rng in zip(ids, real, random_generators(seed, len(ids)))
    ]
    with evaluating(model):
        yield from map(list, zip_longest(*texts, fillvalue=-1))


def random_generators(seed: int | Sequence[Any] | None, count: int) -> list[np.random.Generator]:
    """Return a generator for each sequence, so that its tokens do not depend on the rest of the batch."""
    if seed is None:
        seed = int(generator().integers(2**63))
    seeds = [(seed, row) for row in range(count)] if isinstance(seed, int | np.integer) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} prompts: give one for each prompt, or one integer for all")
    return [np.random.default_rng(seed) for seed in seeds]


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
    if real.shape != ids.shape or not real[:, -1].all() or (real[:, :-1] > real[:, 1:]).any():
        why = "each prompt needs a token, and padding belongs on the left"
        raise ValueError(f"attention_mask must have the shape {ids.shape}, with zeros only before the ones: {why}")
    return ids.astype(np.int64), real


def _on_host(values: Any) -> np.ndarray:
    """Return values as a NumPy array, also if they are a Tensor on a GPU."""
    return values.numpy() if isinstance(values, Tensor) else np.asarray(values)


# --- between two steps: the text so far, and the keys and values of the tokens that the model has read ----------------


class TextSoFar:
    """The tokens so far of each sequence in a batch, and the logits of the next token.

    ids, real: the prompts, from `as_batch`. room: the number of tokens that may follow.
    """

    def __init__(self, model: LanguageModel, ids: Array, real: Array, room: int, memory: Memory | None = None):
        self.model = model
        self.block = model.config.block_size  # the model can read this many tokens at once
        self.seen = [set(row[is_real].tolist()) for row, is_real in zip(ids, real)]
        self.ids = ids[:, -self.block :]  # the context, (B, T)
        self.real = real[:, -self.block :]  # (B, T): False on padding
        # The first `read` tokens of the context are in the cache: always < T before a pass, which must give logits.
        self.read = 0
        self.decode = numpy_forward.forward_for(model)  # a faster forward pass for a few new tokens, or None
        if memory is None:
            self.cache = KVCache.for_model(model, len(ids), min(self.block, ids.shape[1] + room))
        else:
            self.cache, self.read = memory.resume(model, self.ids[0])

    def append(self, tokens: Sequence[int]) -> None:
        """Add a token to each sequence. A sequence that fills the context forgets its older half."""
        if self.ids.shape[1] == self.block and not self.cache.always_has_room:
            self._forget_older_half()
        for seen, token in zip(self.seen, tokens):
            seen.add(token)
        self.ids = np.concatenate([self.ids, np.array(tokens)[:, None]], axis=1)
        self.real = np.concatenate([self.real, np.ones((len(tokens), 1), bool)], axis=1)

    def _forget_older_half(self) -> None:
        """Make room for a token. A row that fills the block keeps its newer half, to which that token will belong.

        The rest of the row becomes padding. Shorter rows begin with padding and keep all their tokens. A block of 4:

            before   1 2 3 4        after   . . 4        (a column of padding only is dropped)
                     . 5 6 7                5 6 7
        """
        full = self.real[:, 0]
        keep = max(1, self.block // 2) - 1  # half, less the token to come
        self.real[full, : self.block - keep] = False
        used = self.real.any(axis=0)  # (T): False for columns that are padding in every row
        self.ids = self.ids[:, used]
        self.real = self.real[:, used]
        # All tokens have new positions, so their keys and values are computed again.
        self.read = 0
        self.cache.cut(0)

    def next_logits(self) -> np.ndarray:
        """Return the logits of the token after the context, (B, V).

        The model reads only tokens that are not in the cache: the prompt at first, and then one token at a time.
        """
        logits = self.logits_of_last(1, self.ids[:, self.read :])  # (B, 1, V)
        self.read = self.ids.shape[1]
        return logits[:, 0]

    def logits_of_last(self, count: int, new: np.ndarray) -> np.ndarray:
        """Let the model read new tokens (B, N), and return the logits at the last `count` of them, (B, count, V)."""
        mask = None if self.real.all() else self.real
        with no_grad():
            if self.read == 0:
                return read_alike_once(self.model, new, mask, self.cache, count)
            if self.decode is not None and new.shape[1] <= MAX_DECODE_TOKENS:
                return self.decode(new, self.cache, mask)[:, -count:]
            hidden = self.model.hidden_states(new, self.cache, mask)  # (B, N, C)
            return self.model.lm_head(hidden[:, -count:]).numpy()


def read_alike_once(model: LanguageModel, ids: Array, real: Array | None, cache: KVCache, count: int) -> np.ndarray:
    """Let the model read prompts (B, T) into an empty cache, and return the logits at the last `count` tokens.

    Several answers to a question begin with the same prompt. It is read once, and its keys and values are copied.
    """
    texts = ids if real is None else np.where(real, ids, -1)  # the tokens, and not what stands in the padding
    # first: rows to read; place: which of them each prompt equals. For prompts A, B, A: first 0 1, place 0 1 0.
    _, first, place = np.unique(texts, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(ids):  # all are different
        return model.lm_head(model.hidden_states(ids, cache, real)[:, -count:]).numpy()
    shared = KVCache.for_model(model, len(first), ids.shape[1])
    hidden = model.hidden_states(ids[first], shared, None if real is None else real[first])  # (B', T, C)
    place = place.reshape(-1)  # (B); NumPy 2.0 gives a column
    cache.copy(shared, place.tolist())
    return model.lm_head(hidden[:, -count:]).numpy()[place]


class Memory:
    """The tokens that a model has read, with their KV cache, so a text with the same beginning need not be read again.

    `stream` reuses the common beginning, and then stores here what it has read.
    """

    def __init__(self) -> None:
        self.ids = np.zeros(0, np.int64)  # the tokens whose keys and values `cache` holds
        self.cache: KVCache | None = None

    def resume(self, model: LanguageModel, ids: np.ndarray) -> tuple[KVCache, int]:
        """Return the cache, cut to the tokens with which `ids` (T) begins too, and how many these are."""
        known = min(len(self.ids), len(ids) - 1)  # the last token is read again, for its logits
        same = self.ids[:known] == ids[:known]
        read = known if same.all() else int(same.argmin())
        cache = self.cache or KVCache.for_model(model)
        cache.cut(read)
        return cache, read

    def keep(self, text: TextSoFar) -> None:
        """Store what the model has read of a text."""
        self.ids = text.ids[0, : text.read].copy()
        self.cache = text.cache
