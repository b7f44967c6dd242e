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
and the cache between two steps. Prompts of different lengths are padded on the left, so that all texts end, and grow,
in the same column. A mask called `real` tells tokens (True) from padding (False):

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
# tokens are a prompt, which the model reads itself: beside its large products, what the step saves does not count.
MAX_DECODE_TOKENS = 16


def generate(
    model: LanguageModel,
    ids: Ids,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    min_p: float = 0.0,
    seed: int | Sequence[Any] | None = None,
    stop_tokens: Sequence[int] = (),
    attention_mask: Any = None,
    use_cache: bool = True,
    on_token: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt by up to `max_new_tokens`. Returns the new tokens of each prompt.

    ids: prompts (B, T), or lists of different lengths, which are padded on the left. attention_mask (B, T): 0 on the
    padding of prompts that are already padded. A sequence ends with a stop token, which is returned. on_token: called
    with each step's new tokens, with -1 for sequences that have ended (`stream` does the same as an iterator). seed:
    the same seed gives the same text; a list has a seed for each prompt; without one, `manual_seed` decides.
    use_cache=False runs `generate_textbook`, which reads the whole context again for every token. This is slower and
    gives the same result.

    If a prompt is longer than the block size, only its last block is read. When a text outgrows the block, the model
    forgets: the context is cut to its newer half, is read again from position 0, and can grow again.

    Raises ValueError for settings out of range, an empty prompt, and logits that are not finite; IndexError for unknown
    ids.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, min_p)
    ids, real = as_batch(ids, attention_mask)
    new: list[list[int]] = [[] for _ in ids]
    with closing(stream(model, ids, max_new_tokens, sampling, seed, stop_tokens, real, use_cache)) as steps:
        for tokens in steps:
            for row, token in zip(new, tokens):
                row += [token] if token >= 0 else []
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
    use_cache: bool = True,
    memory: Memory | None = None,
    process: Callable[[np.ndarray, list[int]], np.ndarray] | None = None,
) -> Generator[list[int], None, None]:
    """Yield each step's new tokens, one for each sequence, or -1 for sequences that have ended.

    Stop iterating to stop generation. The model is in evaluation mode until the iterator ends or is closed. memory, for
    one sequence without padding: text that was read before, as in the earlier turns of a conversation, is not read
    again. process: a function of the logits (V) and the new tokens of a sequence, which returns the logits to choose
    from (constrained_decoding.py); with it, the cache is always used. Simplified: a sequence that has ended is still
    computed until all sequences of its batch have ended.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be >= 0, got {max_new_tokens}")
    ids, real = as_batch(ids, attention_mask)
    if seed is None:
        seed = int(generator().integers(2**63))
    # A generator for each sequence, so that its tokens do not depend on the rest of the batch.
    seeds = [(seed, row) for row in range(len(ids))] if isinstance(seed, int | np.integer) else list(seed)
    if len(seeds) != len(ids):
        raise ValueError(f"{len(seeds)} seeds for {len(ids)} prompts: give one for each prompt, or one integer for all")
    rngs = [np.random.default_rng(seed) for seed in seeds]
    with evaluating(model):
        if not use_cache and process is None:
            texts = [
                generate_textbook(model, row[is_real].tolist(), max_new_tokens, sampling, rng, stop_tokens)
                for row, is_real, rng in zip(ids, real, rngs)
            ]
            yield from map(list, zip_longest(*texts, fillvalue=-1))
            return
        text = TextSoFar(model, ids, real, max_new_tokens, memory)
        tokens: list[int] = []
        new: list[list[int]] = [[] for _ in ids]
        ended = [False] * len(ids)
        try:
            for _ in range(max_new_tokens):
                if tokens:  # of the previous step
                    # -1 is not a token. A sequence that has ended gets token 0 instead; nobody sees what follows.
                    text.append([max(token, 0) for token in tokens])
                logits = text.next_logits()  # (B, V)
                tokens = [-1] * len(ids)
                for row, rng in enumerate(rngs):
                    if not ended[row]:
                        scores = logits[row] if process is None else process(logits[row], new[row])
                        tokens[row] = sampling.choose(scores, text.seen[row], rng)
                        new[row].append(tokens[row])
                        ended[row] = tokens[row] in stop_tokens
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
    if real.shape != ids.shape or not real[:, -1].all() or (real[:, :-1] > real[:, 1:]).any():
        why = "each prompt needs a token, and padding belongs on the left"
        raise ValueError(f"attention_mask must have the shape {ids.shape}, with zeros only before the ones: {why}")
    return ids.astype(np.int64), real


def _on_host(values: Any) -> np.ndarray:
    """Return values as a NumPy array, also if they are a Tensor on a GPU."""
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

    def __init__(self, model: LanguageModel, ids: Array, real: Array, room: int, memory: Memory | None = None):
        self.model, self.block = model, model.config.block_size  # the model can read `block` tokens at once
        self.seen = [set(row[is_real].tolist()) for row, is_real in zip(ids, real)]
        # The context, (B, T): the tokens, and the mask that is False on padding. The first `read` are in the cache.
        self.ids, self.real, self.read = ids[:, -self.block :], real[:, -self.block :], 0
        self.decode = numpy_forward.forward_for(model)  # a faster forward pass for a few new tokens, or None
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
        for seen, token in zip(self.seen, tokens):
            seen.add(token)
        if self.ids.shape[1] == self.block and not self.cache.always_has_room:
            # There is no column left. A row that fills the block keeps its newer half, which includes the token that
            # is appended below; the rest becomes padding. Shorter rows begin with padding and keep all their tokens.
            full = self.real[:, 0]
            keep = max(1, self.block // 2) - 1
            self.real[full, : self.block - keep] = False
            used = self.real.any(axis=0)  # (T): False for columns that are padding in every row
            self.ids, self.real, self.read = self.ids[:, used], self.real[:, used], 0
            self.cache.cut(0)  # all tokens have new positions, so their keys and values are computed again
        self.ids = np.concatenate([self.ids, np.array(tokens)[:, None]], axis=1)
        self.real = np.concatenate([self.real, np.ones((len(tokens), 1), bool)], axis=1)

    def next_logits(self, guesses: Sequence[int] = ()) -> np.ndarray:
        """Return the logits of the token after the context, (B, V).

        guesses, for one sequence: G tokens that may come next, from speculation.py. The model reads them in the same
        pass, and the logits after each of them follow: (1 + G, V). If a guess comes true, its logits are there already.
        """
        # Read only tokens that are not in the cache: the prompt at first, and then one token at a time.
        new = np.concatenate([self.ids[:, self.read :], np.array([guesses] * len(self.ids), np.int64)], axis=1)
        mask = None if self.real.all() else self.real
        wanted = slice(-1 - len(guesses), None)  # where the next token is wanted
        with no_grad():
            if self.decode is not None and self.read > 0 and new.shape[1] <= MAX_DECODE_TOKENS:
                logits = self.decode(new, self.cache, mask)[:, wanted]
            else:
                logits = self._read(new, mask, wanted)
        self.read = self.ids.shape[1]
        return logits.reshape(-1, self.model.config.vocab_size)

    def _read(self, new: Array, mask: Array | None, wanted: slice) -> np.ndarray:
        """Let the model read new tokens; returns the logits of the wanted ones, (B, G, V).

        Several answers to a question begin with the same prompt. It is read once, and its keys and values are copied.
        """
        rows = copies = np.arange(len(new))
        if self.read == 0:
            texts = np.where(self.real, self.ids, -1)  # the tokens, and not what stands in the padding
            _, rows, copies = np.unique(texts, axis=0, return_index=True, return_inverse=True)
        if len(rows) == len(new):
            return self.model.lm_head(self.model.hidden_states(new, self.cache, mask)[:, wanted]).numpy()
        shared = KVCache.for_model(self.model, len(rows), new.shape[1])
        hidden = self.model.hidden_states(new[rows], shared, None if mask is None else mask[rows])  # (B', T, C)
        copies = copies.reshape(-1)  # NumPy 2.0 gives a column
        self.cache.copy(shared, copies.tolist())
        return self.model.lm_head(hidden[:, wanted]).numpy()[copies]

    def forget_guesses(self) -> None:
        """Forget the keys and values of wrong guesses. The last token is always read again, for its logits."""
        self.read = min(self.cache.length, self.ids.shape[1] - 1)
        self.cache.cut(self.read)
