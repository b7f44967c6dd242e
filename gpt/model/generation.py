"""Generation: choose a token, append it, repeat. The model's output becomes its input.

`generate_textbook` is the whole loop, for one text, and `Sampling` chooses the tokens. batch_generation.py does the
same for several texts at once, and faster: it does not read the text again for every new token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minigrad import no_grad

from ..settings import Checked, setting

if TYPE_CHECKING:
    from .language_model import LanguageModel


def generate_textbook(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator,
    stop_tokens: Sequence[int] = (),
) -> Iterator[int]:
    """Yield up to `max_new_tokens` tokens that continue the prompt. The model is in evaluation mode (no dropout).

    Generation ends early after a stop token, which is the last one yielded.
    """
    block_size = model.config.block_size  # the largest number of tokens that the model can read at once
    context = list(prompt)[-block_size:]
    seen = set(prompt)
    for _ in range(max_new_tokens):
        with no_grad():
            logits = model([context])[0, -1].numpy()  # (1, T, V) -> (V), the next token; V: the vocabulary's size
        token = sampling.choose(logits, seen, rng)
        yield token
        if token in stop_tokens:
            return
        context.append(token)
        seen.add(token)
        if len(context) > block_size:
            # The text has outgrown the context. Forget the older half, but keep at least one token. Forgetting only the
            # oldest token would do as well here. With a KV cache it would be slow: each cut moves all remaining tokens
            # to new positions, so they must be read again. Cutting half makes this rare.
            context = context[-max(1, block_size // 2) :]


@dataclasses.dataclass(frozen=True)
class Sampling(Checked):
    """How to choose a token from the model's logits. This changes which token is picked, not what the model knows.

    temperature: divides the logits. Below 1 sharpens the distribution, above 1 flattens it; 0 is greedy.
    top_k: tokens exactly as likely as the k-th are also candidates.
    top_p: nucleus sampling (Holtzman et al. 2020).
    min_p: Nguyen et al. 2024 (arXiv 2407.01082). Where the model is sure, only a few tokens reach this share of the
    largest probability; where it is not, many do.
    repetition_penalty: Keskar et al. 2019, section 4.1. It divides positive logits and multiplies negative ones, so
    both become smaller. (The paper divides negative logits too, but this makes them larger.)

    Raises ValueError for a number outside its range.
    """

    temperature: float = setting(1.0, "0 always takes the most likely token", ">= 0")
    top_k: int | None = setting(None, "sample only from the k most likely tokens", ">= 1")
    top_p: float = setting(1.0, "sample from the most likely tokens with this total probability", "in (0, 1]")
    repetition_penalty: float = setting(1.0, "above 1: tokens already in the text become less likely", "in [0.01, 100]")
    min_p: float = setting(0.0, "sample from tokens at least this many times as likely as the likeliest", "in [0, 1]")

    def choose(self, logits: np.ndarray, seen: Iterable[int], rng: np.random.Generator) -> int:
        """Choose one token. logits: (V,). seen: the tokens that are in the text."""
        tokens, probs = self.candidates(logits, seen)
        # Lay the probabilities side by side on the line from 0 to 1. A random point falls into token i's piece with
        # probability probs[i]. The piece is the first whose end, a running sum, lies to the right of the point.
        place = np.searchsorted(np.cumsum(probs), rng.random(), side="right")
        # Rounding may leave the last sum at 0.99999..., to the left of the point. Then take the last possible token.
        last = np.flatnonzero(probs)[-1]
        return int(tokens[min(place, last)])

    def candidates(self, logits: np.ndarray, seen: Iterable[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens that may be chosen, and their float64 probabilities, after all settings."""
        logits = self.penalized(logits, seen)
        if self.temperature == 0:
            return np.array([logits.argmax()]), np.ones(1)

        tokens = np.arange(logits.size) if self.top_k is None else most_likely(logits, self.top_k)
        # softmax(logits / temperature). Subtracting the largest logit does not change it, and e^x cannot overflow.
        kept = logits[tokens].astype(np.float64)
        with np.errstate(over="ignore"):  # with a tiny temperature all other tokens may become -inf
            probs = np.exp((kept - kept.max()) / self.temperature)
        probs /= probs.sum()
        if self.top_p < 1:
            inside = nucleus(probs, self.top_p)
            tokens = tokens[inside]
            probs = probs[inside] / probs[inside].sum()
        if self.min_p > 0:
            likely = probs >= self.min_p * probs.max()
            tokens = tokens[likely]
            probs = probs[likely] / probs[likely].sum()
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
        if not np.isfinite(logits.max()):  # the largest is nan if any of them is nan
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


def most_likely(logits: np.ndarray, k: int) -> np.ndarray:
    """Return the k most likely tokens, and those exactly as likely as the k-th, in the vocabulary's order.

    >>> most_likely(np.array([2.0, 9.0, 4.0, 4.0]), 2)
    array([1, 2, 3])
    """
    k = min(k, logits.size)
    # This is np.sort(logits)[-k], the k-th largest, and faster: only its own place needs to be right.
    kth = np.partition(logits, -k)[-k]
    return np.flatnonzero(logits >= kth)


def nucleus(probs: np.ndarray, p: float) -> np.ndarray:
    """Return the indices of the most likely tokens until their sum reaches p, with the one that reaches it, in order.

    >>> probs = np.array([0.1, 0.5, 0.0, 0.4])
    >>> order = np.argsort(-probs)  # the most likely first: 1, 3, 0, 2
    >>> before = np.cumsum(probs[order]) - probs[order]  # the sum over more likely tokens: 0, 0.5, 0.9, 1
    >>> np.sort(order[before < 0.8]), nucleus(probs, 0.8)
    (array([1, 3]), array([1, 3]))

    Sorting a whole vocabulary takes long, so here the rarest tokens stay out first: if each of n has less than
    (1 - p) / n, they have less than 1 - p together, and the others reach p without them.
    """
    likely = np.flatnonzero(probs >= (1 - p) / probs.size)
    order = likely[np.argsort(-probs[likely], kind="stable")]
    before = np.cumsum(probs[order]) - probs[order]  # the sum over more likely tokens, 0 for the first
    return np.sort(order[before < p])
