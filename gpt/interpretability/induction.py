"""Induction heads: [A] [B] ... [A] -> [B]. A model that has read a token before expects what followed it then.

It takes two heads in two layers. A head of the first layer looks one token back, so each place knows which token came
before it. A head of the second layer, the induction head, looks for places whose previous token is the current one, and
copies the token that it finds there. Elhage et al. 2021, "A mathematical framework for transformer circuits"; Olsson et
al. 2022, "In-context learning and induction heads".
"""

from __future__ import annotations

import numpy as np

from ..model.language_model import LanguageModel
from .heads import attention_patterns


def repeated_tokens(rng: np.random.Generator, rows: int, length: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens that repeat: ids (B, T), and the period of each row (B), between T / 4 and T / 2.

    The tokens of a period are all different, and the period differs from row to row, so the next token can be found
    only by content: no position is always the right one. Raises ValueError for a vocabulary smaller than T / 2.
    """
    if vocab_size < length // 2:
        raise ValueError(f"{length // 2} different tokens are needed, and the vocabulary has {vocab_size}")
    periods = rng.integers(length // 4, length // 2 + 1, rows)
    return np.array([np.resize(rng.permutation(vocab_size)[:period], length) for period in periods]), periods


def follows_earlier(ids: np.ndarray) -> np.ndarray:
    """Where an induction head looks: ids (B, T) -> (B, T, T), True at [t, s] if ids[s - 1] is the token ids[t], s <= t.

    >>> follows_earlier(np.array([[5, 7, 5]]))[0, 2].tolist()  # 5 was followed by 7, at place 1
    [False, True, False]
    """
    length = ids.shape[1]
    follows = np.zeros((len(ids), length, length), bool)
    follows[:, :, 1:] = ids[:, :, None] == ids[:, None, :-1]
    return follows & np.tri(length, dtype=bool)


def induction_scores(model: LanguageModel, rows: int = 16, seed: int = 0) -> np.ndarray:
    """(L, H): how much each head, at a token that occurred before, attends to the tokens that followed it then.

    The mean of these attention weights on `repeated_tokens`: 1 for a perfect induction head, about 2 / T for a head
    that attends evenly. Olsson et al. 2022, "prefix matching".
    """
    length = min(model.config.block_size, 2 * model.config.vocab_size, 64)
    ids, periods = repeated_tokens(np.random.default_rng(seed), rows, length, model.config.vocab_size)
    weights = (attention_patterns(model, ids) * follows_earlier(ids)[:, None]).sum(axis=-1)  # (L, B, H, T)
    occurred = np.arange(length) >= periods[:, None]  # (B, T)
    return (weights * occurred[:, None]).sum(axis=(1, 3)) / occurred.sum()
