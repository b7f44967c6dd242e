"""How good is a language model? The loss on held-out text, and the meaning of this loss.

The mean loss over windows of a text, one after the other, and its exponential, the perplexity:

>>> from gpt import GPT, GPTConfig
>>> model = GPT(GPTConfig(vocab_size=10, block_size=4, n_layer=1, n_head=2, n_embd=8)).eval()
>>> ids = np.random.default_rng(0).integers(10, size=13)
>>> losses = []
>>> for start in range(0, 12, 4):
...     window = ids[start : start + 5]  # T + 1 tokens: each but the first is predicted
...     with no_grad():
...         losses.append(model.loss([window[:-1]], [window[1:]]).item())
>>> loss = np.mean(losses)  # nats per token
>>> bool(9 < np.exp(loss) < 11)  # without training, the model is as uncertain as a choice among 10 tokens
True
>>> np.allclose(loss, token_losses(model, ids, stride=4).mean())
True

`evaluate` takes batches, as training does. `score_text` reads a whole text with a sliding window. A token at the start
of a window has little context, so cutting a text into blocks makes a model look worse than it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import nn, no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from ..console import progress_bar
from ..model.language_model import LanguageModel
from ..tokenizer.tokenizer import Tokenizer
from .batches import Tokens, sequential_batches
from .data_parallel import ALONE, Team
from .sums import Sums, add_up, read_numbers
from .training_step import LossFunction, language_model_loss

TOKENS_AT_ONCE = 4096  # in the windows that are read together
SAMPLED_TOKENS = 100_000  # of a held-out text that is longer, where not all of it is evaluated


@no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Any], loss_fn: LossFunction = language_model_loss, team: Team = ALONE
) -> dict[str, float]:
    """The means over all batches of the loss, as "loss", and of the other metrics of `loss_fn`, without dropout.

    Batches are dealt out to the team's processes. Raises ValueError if no target counts.
    """
    sums: Sums = {}
    count = 0
    with evaluating(model):
        for batch in team.share(batches):
            loss, n, metrics = loss_fn(model, batch)
            add_up(sums, {"loss": loss.data, **metrics})
            count += n
    sums, count = team.add_up(sums, count)
    if count == 0:
        raise ValueError("there is nothing to evaluate: no batch has a target that counts")
    return {name: total / count for name, total in read_numbers(sums).items()}


def mean_loss(model: LanguageModel, batches: Iterable[tuple[np.ndarray, np.ndarray]], team: Team = ALONE) -> float:
    """The mean cross-entropy in nats per token over all batches of (ids, targets). e^loss is the perplexity."""
    return evaluate(model, batches, team=team)["loss"]


def held_out_loss(
    model: LanguageModel, tokens: Tokens, batch_size: int, block_size: int, whole: bool = True, team: Team = ALONE
) -> dict[str, float]:
    """The mean cross-entropy over all tokens of a held-out text but the first, as "val_loss".

    If the text is longer than SAMPLED_TOKENS, a random sample of windows is used unless `whole`: always the same one,
    so losses can be compared.
    """
    sample = None if whole else sampled_windows(tokens, block_size)
    batches = sequential_batches(tokens, batch_size, block_size, model.config.vocab_size, sample)
    return {"val_loss": mean_loss(model, batches, team)}


def sampled_windows(tokens: Tokens, block_size: int) -> int | None:
    """The number of windows that `held_out_loss` samples from a text, or None if it evaluates the whole text."""
    n = max(SAMPLED_TOKENS // block_size, 2)
    return n if len(tokens) > SAMPLED_TOKENS and n * block_size < len(tokens) else None


def describe_evaluation(tokens: Tokens, block_size: int) -> str:
    """A description of the tokens that `held_out_loss` evaluates."""
    sample = sampled_windows(tokens, block_size)
    if sample is None:
        return f"{len(tokens):,} to test on, all of them at each evaluation"
    return f"{len(tokens):,} to test on: {sample * block_size:,} in windows drawn at random, and at the end all of them"


def perplexity(loss: float) -> float:
    """e^loss: the model is as uncertain as if it chose among this number of equally likely tokens."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(loss: float, tokens: int, n_bytes: int) -> float:
    """The loss in bits per byte of text, loss / ln 2 * tokens / bytes. It is comparable between tokenizers."""
    return loss / math.log(2) * tokens / n_bytes


# --- a whole text -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TextScore:
    """The losses of a model on a text: `losses` (N - 1,) in nats, of the tokens ids[1:] (N,).

    The first token has no context, so it is not predicted, and its bytes do not count.
    """

    ids: np.ndarray
    losses: np.ndarray
    n_bytes: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats per token."""
        return float(self.losses.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of `loss`: std / √n, for n tokens."""
        return float(self.losses.std() / math.sqrt(len(self.losses)))

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.loss, len(self.losses), self.n_bytes)


def score_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str | Iterable[str],
    stride: int | None = None,
    max_tokens: int | None = None,
) -> TextScore:
    """Predict every token of a text (a string, or a stream of strings) but the first. stride: see `token_losses`.

    max_tokens: read only this number of tokens, from the start. Raises ValueError for fewer than two tokens.
    """
    pieces = [text] if isinstance(text, str) else text
    ids = np.fromiter(itertools.islice(tokenizer.encode_iterable(pieces), max_tokens), np.int64)
    if len(ids) < 2:
        raise ValueError(f"a text needs two tokens or more, or there is nothing to predict; this one has {len(ids)}")
    return TextScore(ids, token_losses(model, ids, stride), len(tokenizer.decode_bytes(ids[1:].tolist())))


@no_grad()
def token_losses(model: LanguageModel, ids: np.ndarray, stride: int | None = None) -> np.ndarray:
    """-ln p(ids[t + 1] | the tokens before it) for each t: ids (N,) -> (N - 1,).

    The model reads windows of its block size T. Each window starts `stride` tokens (by default T / 2) after the
    previous one, and only tokens that no earlier window has predicted are counted. So every token counts once, with at
    least T - stride + 1 tokens before it: the window's first T - stride + 1 (fewer only at the start of the text). With
    T = 6 and stride = 3, these are at least 4 tokens of context. A small stride costs T / stride times the work.
    """
    losses = np.empty(len(ids) - 1)
    windows = list(sliding_windows(len(losses), model.config.block_size, stride))  # all of the same length
    at_once = math.ceil(TOKENS_AT_ONCE / model.config.block_size)
    with evaluating(model), progress_bar(len(losses), "reading", "token") as bar:
        for i in range(0, len(windows), at_once):
            part = windows[i : i + at_once]
            inputs = np.stack([ids[start : stop + 1] for start, stop, _ in part])  # (B, T + 1)
            found = to_numpy(model.loss(inputs[:, :-1], inputs[:, 1:], reduction="none").data)  # (B, T)
            for row, (_, stop, counted) in zip(found, part, strict=True):
                losses[stop - counted : stop] = row[-counted:]  # the last `counted` of the window are new
                bar.update(counted)
    return losses


@no_grad()
def likely_tokens(
    model: LanguageModel, ids: np.ndarray, count: int, stride: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most likely tokens at the place of each token but the first, the most likely one first.

    ids (N,) -> token ids and their probabilities, each (N - 1, count). Windows as in `token_losses`.
    """
    best = np.empty((len(ids) - 1, count), np.int64)
    probabilities = np.empty((len(ids) - 1, count))
    with evaluating(model):
        for start, stop, counted in sliding_windows(len(best), model.config.block_size, stride):
            first = stop - counted
            hidden = model.hidden_states(ids[None, start:stop])[0, first - start :]  # (counted, C)
            for i in range(0, counted, 64):  # the logits of all would be large
                probs, order = F.topk(F.softmax(model.lm_head(hidden[i : i + 64]), -1), count)  # (64, count) each
                place = slice(first + i, first + i + len(order.data))
                probabilities[place], best[place] = to_numpy(probs.data), to_numpy(order.data)
    return best, probabilities


def sliding_windows(n: int, block: int, stride: int | None = None) -> Iterator[tuple[int, int, int]]:
    """(start, stop, number of last inputs that count) of full windows over n inputs. Each input counts once.

    >>> list(sliding_windows(10, block=6, stride=3))
    [(0, 6, 6), (3, 9, 3), (4, 10, 1)]
    """
    stride = max(block // 2, 1) if stride is None else stride
    if not 1 <= stride <= block:
        raise ValueError(f"stride must be from 1 to the block size of {block}, got {stride}")
    stop = min(block, n)
    yield 0, stop, stop
    while stop < n:
        counted = min(stride, n - stop)
        stop += counted
        yield stop - block, stop, counted


# --- simple models to compare with ------------------------------------------------------------------------------------


def baseline_losses(train: np.ndarray, validation: np.ndarray, vocab_size: int) -> dict[str, float]:
    """The losses of simple models on `validation`, in nats per token, to compare a loss curve with.

    "uniform": all tokens are equally likely, ln V. "unigram": the frequency of each token. "bigram": its frequency
    after the previous token. Both are counted in `train` and smoothed: the unigram as if every token had been seen once
    more, the bigram as if the unigram distribution had been seen 100 times (a Dirichlet prior; MacKay & Peto 1995).

    >>> train, validation, V = [0, 1, 0, 1, 0, 2], [0, 1, 2], 3
    >>> unigram = [(train.count(b) + 1) / (len(train) + V) for b in range(V)]  # 4/9, 3/9, 2/9
    >>> pairs = list(zip(train, train[1:]))  # (0, 1), (1, 0), (0, 1), (1, 0), (0, 2)
    >>> bigram = [
    ...     (pairs.count((a, b)) + 100 * unigram[b]) / (train[:-1].count(a) + 100)  # of b after a
    ...     for a, b in zip(validation, validation[1:])
    ... ]
    >>> np.allclose(-np.log(bigram).mean(), baseline_losses(train, validation, V)["bigram"])
    True
    """
    train, validation = np.asarray(train, np.int64), np.asarray(validation, np.int64)
    places = train.astype(np.intp, copy=False)  # in a browser bincount takes 32 bits only
    unigram = (np.bincount(places, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    losses = {"uniform": math.log(vocab_size), "unigram": float(-np.log(unigram[validation]).mean())}
    if len(validation) > 1:
        a, b = validation[:-1], validation[1:]  # each token, and the next one
        # A pair is one number, a V + b. The pairs in train, in order, and how often each is there:
        pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
        wanted = a * vocab_size + b
        # searchsorted gives where a pair is or would be. Its count is 0 unless it is there.
        place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        count_ab = np.where(pairs[place] == wanted, counts[place], 0)
        count_a = np.bincount(places[:-1], minlength=vocab_size)[a]
        probability = (count_ab + 100.0 * unigram[b]) / (count_a + 100.0)
        losses["bigram"] = float(-np.log(probability).mean())
    return losses
