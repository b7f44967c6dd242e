"""Speculative decoding: guess several tokens, and let the model check all of them in one pass.

Writing is slow because each token waits until all weights have come from memory, for the work of a single row. A pass
over 16 rows reads the same weights once. With NumPy on a CPU it costs as much as about three tokens; on a GPU it costs
hardly more than one. So guesses pay if enough of them are right and guessing is almost free. Here the text itself
guesses: if its last three tokens have stood together before, the tokens that followed them may follow again, as in
code, in tables, and in answers that quote the question (prompt lookup decoding; Saxena 2023).

The text is the same as without guesses. The pass gives logits in the place of each guess, and a token is drawn from
them as always. As long as the token equals the guess, the model has read the right token, and the next logits are right
too. The first token that differs is kept and ends the pass: the guesses behind it are dropped. With the guesses 7 2 9
and the drawn tokens 7 2 4, a pass has written three tokens.

For one text, greedily, and without a cache, this is all:

>>> from gpt import GPT, GPTConfig
>>> from minigrad import no_grad
>>> model = GPT(GPTConfig(vocab_size=20, block_size=64, n_layer=1, n_head=2, n_embd=16)).eval()
>>> prompt = [3, 1, 4, 1, 5]
>>> text, passes = list(prompt), 0
>>> while len(text) < 40:
...     places = [i for i in range(len(text) - 3) if text[i : i + 3] == text[-3:]]  # the last three tokens, before
...     guesses = text[places[-1] + 3 :][:15] if places else []
...     with no_grad():
...         logits = model([text + guesses])[0].numpy()
...     passes += 1
...     for guess in [*guesses, None]:
...         token = int(logits[len(text) - 1].argmax())  # after the text so far, which grows in this loop
...         text.append(token)
...         if token != guess:
...             break
>>> text[:40] == prompt + model.generate([prompt], 35, temperature=0)[0], passes < 35
(True, True)

A small model, the draft, can also guess where the text does not repeat itself. Its probabilities are known, so more of
its guesses survive: `after_guess` is the rule of Leviathan et al. 2023 (arXiv 2211.17192, section 2.3).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from minigrad.backend import generator
from minigrad.nn.module import evaluating

from .batch_generation import Memory, TextSoFar, as_batch
from .generation import Sampling
from .language_model import LanguageModel

NGRAM = 3  # this many tokens must repeat before we guess that the text goes on repeating
MOST = 15  # guesses in a pass; with the last token these are 16 rows
DRAFTED = 4  # guesses of a draft model in a pass: each costs a pass of that model
PAYS = 3  # a pass over 16 rows takes as long as this many tokens


def after_guess(p: np.ndarray, q: np.ndarray, guess: int, number: float) -> np.ndarray:
    """Return the probabilities (V) of the next token after a guess that was drawn from q. The model's own are p.

    number: random, uniform in [0, 1). With probability min(1, p(guess) / q(guess)) the guess is accepted, so no other
    token is possible. Otherwise the next token is one that q proposes too rarely: max(0, p - q), scaled to sum to 1.
    Whatever q is, token x has probability p(x) in the end:

        guessed and accepted      q(x) min(1, p(x) / q(x))                              = min(p(x), q(x))
        drawn after a refusal     P(refused) · max(0, p(x) - q(x)) / Σ max(0, p - q)    = p(x) - min(p(x), q(x))

    P(refused) = Σ max(0, q - p) = Σ max(0, p - q), the total variation distance TV(p, q).

    >>> p, q = np.array([0.6, 0.4, 0.0]), np.array([0.2, 0.5, 0.3])
    >>> [after_guess(p, q, 1, number).tolist() for number in (0.79, 0.81)]  # p / q = 0.8
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if number * q[guess] < p[guess]:
        return np.eye(1, p.size, guess)[0]
    missing = np.maximum(p - q, 0)
    return missing / missing.sum()


def speculate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None = None,
    stop_tokens: Sequence[int] = (),
    draft: LanguageModel | None = None,
) -> Generator[list[int], None, None]:
    """Continue one prompt like `batch_generation.stream`; each step gives the one or more tokens of a pass.

    Without a draft, the tokens are those that `stream` gives for the same seed, because both take one random number for
    each token. (Rounding may differ, and decide between two tokens that are equally likely.)

    draft: a model with the same vocabulary, which guesses in place of the text. At temperature 0, the tokens are still
    those of `stream`. Above it they differ, but have the same probabilities.

    Raises ValueError for a model or a draft with linear attention or a sliding window.
    """
    # Only these two kinds of model make a cache of their own.
    if model.new_cache is not None or (draft is not None and draft.new_cache is not None):
        raise ValueError("speculation does not go with linear attention or a sliding window: neither can go back")
    if seed is None:
        seed = int(generator().integers(2**63))
    rng = np.random.default_rng([seed, 0])  # that of the first sequence in `stream`
    text = GuessedText(model, *as_batch([list(prompt)]), max_new_tokens)
    memory = Memory()  # what the draft has read
    left = max_new_tokens
    # Wrong guesses cost time. After them, the next 1, 2, 4, ... 64 tokens are written without guesses from the text.
    pause = 0  # how many of these tokens are left
    last_pause = 0  # how many there were
    with evaluating(model):
        while left > 0:
            # 1. Guess. There must be room for the guesses and for the token that follows them.
            room = min(MOST, text.block - text.ids.shape[1], left - 1)
            guesses: list[int] = []
            if draft is not None:
                guesses, qs = guess_with(draft, memory, text.ids, min(room, DRAFTED), sampling, rng)
            elif pause <= 0:
                guesses = guess(text.ids[0], room)

            # 2. Check. The model reads all guesses in one pass. One is right if the token drawn in its place equals it.
            logits = text.logits_with(guesses)  # (1 + G, V): row i is for the token in the place of guess i
            accepted: list[int] = []
            for i in range(1 + len(guesses)):
                if draft is None or i == len(guesses):  # the guess is a token of the text, or there is none left
                    token = sampling.choose(logits[i], text.seen[0], rng)
                else:  # the draft drew guess i from the probabilities qs[i]
                    p = sampling.probabilities(logits[i], text.seen[0])
                    probs = after_guess(p, qs[i], guesses[i], rng.random())
                    token = int(rng.choice(len(probs), p=probs))
                accepted.append(token)
                text.append([token])
                if i == len(guesses) or token != guesses[i] or token in stop_tokens:
                    break  # a wrong guess: the logits after it are those of another text
            text.forget_guesses()

            # 3. Did the pass pay? After one that did not, pause twice as long as the last time.
            if not guesses:
                pause -= 1
            elif len(accepted) > PAYS:
                pause = last_pause = 0
            else:
                pause = last_pause = min(max(1, 2 * last_pause), 64)

            left -= len(accepted)
            yield accepted
            if accepted[-1] in stop_tokens:
                return


class GuessedText(TextSoFar):
    """A text whose model also reads tokens that may come next. A batch of one.

    TextSoFar has `ids` (1, T), all tokens, `read`, how many of them the model has read, and `cache`, their keys and
    values.
    """

    def logits_with(self, guesses: Sequence[int]) -> np.ndarray:
        """Return the logits of the next token, and those after each of G guesses: (1 + G, V).

        The model reads the guesses in the same pass. If a guess comes true, the logits after it are there already.
        """
        new = np.concatenate([self.ids[:, self.read :], np.array([guesses], np.int64)], axis=1)
        logits = self.logits_of_last(1 + len(guesses), new)[0]
        self.read = self.ids.shape[1]
        return logits

    def forget_guesses(self) -> None:
        """Forget the keys and values of wrong guesses.

        The next pass begins by reading the last token, so the cache must end right before it. If the last token was a
        right guess (a stop token), the cache also holds that token, and forgets it.
        """
        self.read = min(self.cache.length, self.ids.shape[1] - 1)
        self.cache.cut(self.read)


def guess_with(
    draft: LanguageModel, memory: Memory, ids: np.ndarray, most: int, sampling: Sampling, rng: np.random.Generator
) -> tuple[list[int], list[np.ndarray]]:
    """Continue `ids` (1, T) with the draft. Returns its guesses, and the probabilities (V) that each was drawn from.

    memory: what the draft has read. It reads only what differs: the accepted tokens, in place of refused guesses.
    """
    text = TextSoFar(draft, ids, np.ones(ids.shape, bool), most, memory)
    guesses: list[int] = []
    qs: list[np.ndarray] = []
    with evaluating(draft):
        for i in range(most):
            if i > 0:
                text.append(guesses[-1:])
            logits = text.next_logits()[0]  # (V)
            qs.append(sampling.probabilities(logits, text.seen[0]))
            guesses.append(sampling.choose(logits, text.seen[0], rng))
    memory.keep(text)
    return guesses, qs


def guess(ids: np.ndarray, most: int) -> list[int]:
    """Return `most` guesses, or [] if the last NGRAM tokens of `ids` (T) have not stood together before.

    If they have, the guesses are the tokens that followed them the last time, repeated if there are too few.

    >>> guess(np.array([5, 1, 2, 3, 8, 9, 1, 2, 3]), 7)
    [8, 9, 1, 2, 3, 8, 9]
    """
    if most < 1 or len(ids) <= NGRAM:
        return []
    # For each place i in the text but the last: are the NGRAM tokens that begin there the last NGRAM tokens?
    # In 1 2 3 8 1 2 3, i can be 0 to 3. The three comparisons, of which all are True at i = 0 only:
    #     back = 1:   3 8 1 2 == 3        back = 2:   2 3 8 1 == 2        back = 3:   1 2 3 8 == 1
    same = np.all([ids[NGRAM - back : -back] == ids[-back] for back in range(1, NGRAM + 1)], axis=0)  # (T - NGRAM)
    places = np.flatnonzero(same)
    if not len(places):
        return []
    start = int(places[-1]) + NGRAM
    return np.resize(ids[start : start + most], most).tolist()
