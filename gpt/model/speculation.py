"""Speculative decoding: guess several tokens, and let the model check all of them in one pass.

Writing is slow because each token waits until all weights have come from memory, for the work of a single row. A pass
over 16 rows reads the same weights once. With NumPy on a CPU it costs as much as about three tokens; on a GPU it costs
hardly more than one. So guesses pay if enough of them are right and guessing is almost free. Here the text itself
guesses: if its last three tokens have stood together before, the tokens that followed them may follow again, as in
code, in tables, and in answers that quote the question (prompt lookup decoding; Saxena 2023).

The text does not change. From the logits after each guess a token is drawn as always. As long as it equals the guess,
the model has read the right token, and the next logits are right too. The first token that differs ends the pass.
Simplified: Leviathan et al. 2023 let a small model guess; with the rule of their section 2.3, more guesses survive.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from minigrad.backend import generator
from minigrad.nn.module import evaluating

from .batch_generation import TextSoFar, as_batch
from .generation import Sampling
from .language_model import LanguageModel

NGRAM = 3  # this many tokens must repeat before we guess that the text goes on repeating
MOST = 15  # guesses in a pass; with the last token these are 16 rows
PAYS = 3  # a pass over 16 rows takes as long as this many tokens


def speculate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | None = None,
    stop_tokens: Sequence[int] = (),
) -> Generator[list[int], None, None]:
    """Continue one prompt like `batch_generation.stream`; each step gives the one or more tokens of a pass.

    The tokens are those that `stream` gives for the same seed. (Rounding may differ, and decide between two tokens that
    are equally likely.)
    """
    text = TextSoFar(model, *as_batch([list(prompt)]), max_new_tokens)
    rng = np.random.default_rng([int(generator().integers(2**63)) if seed is None else seed, 0])  # of row 0 in `stream`
    written, patience, wait = 0, 0, 0
    with evaluating(model):
        while written < max_new_tokens:
            room = min(MOST, text.block - text.ids.shape[1], max_new_tokens - written - 1)  # one token comes on top
            guesses = [] if wait > 0 else guess(text.ids[0], room)
            accepted = []
            for logits, guessed in zip(text.next_logits(guesses), [*guesses, None], strict=True):
                accepted.append(sampling.choose(logits, text.seen[0], rng))
                text.append(accepted[-1:])
                if accepted[-1] != guessed or accepted[-1] in stop_tokens:
                    break
            text.forget_guesses()
            if guesses:  # wrong guesses cost time: after each such pass, wait twice as many tokens as the last time
                patience = 0 if len(accepted) > PAYS else min(max(1, 2 * patience), 64)
                wait = patience
            else:
                wait -= 1
            written += len(accepted)
            yield accepted
            if accepted[-1] in stop_tokens:
                return


def guess(ids: np.ndarray, most: int) -> list[int]:
    """Return `most` guesses, or [] if the last NGRAM tokens of `ids` (T) have not stood together before.

    If they have, the guesses are the tokens that followed them the last time, repeated if there are too few.

    >>> guess(np.array([5, 1, 2, 3, 8, 9, 1, 2, 3]), 7)
    [8, 9, 1, 2, 3, 8, 9]
    """
    if most < 1 or len(ids) <= NGRAM:
        return []
    # for each place in the text but the last: are the NGRAM tokens that begin there the last NGRAM tokens?
    same = np.all([ids[NGRAM - back : -back] == ids[-back] for back in range(1, NGRAM + 1)], axis=0)  # (T - NGRAM)
    places = np.flatnonzero(same)
    if not len(places):
        return []
    start = int(places[-1]) + NGRAM
    return np.resize(ids[start : start + most], most).tolist()
