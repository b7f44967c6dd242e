"""Evaluation: means over whatever counts, and the simple models that a GPT has to beat."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gpt import Tokenizer
from gpt.training import evaluation
from gpt.training.batches import sequential_batches
from gpt.training.evaluation import (
    baseline_losses,
    describe_evaluation,
    evaluate,
    held_out_loss,
    likely_tokens,
    mean_loss,
    perplexity,
    sampled_windows,
    score_text,
    token_losses,
)
from gpt.training.plots import plot_run
from gpt.training.training_step import language_model_loss
from minigrad import no_grad, use_kernels
from tests.gpt.small import log_softmax, logits_of, random_ids, small_gpt


def test_the_mean_is_over_tokens_and_not_over_batches():
    model, tokens = small_gpt(dtype="float64", dropout=0.3), random_ids(60)
    batches = [(ids, targets.copy()) for ids, targets in sequential_batches(tokens, batch_size=3, block_size=8)]
    assert {ids.shape for ids, _ in batches} == {(3, 8), (1, 8), (1, 3)}
    batches[0][1][0, :5] = -100
    with no_grad():
        model.eval()
        each = np.concatenate([model.loss(*batch, reduction="none").data.reshape(-1) for batch in batches])
    model.train()

    def loss_fn(model, batch):
        loss, n, _ = language_model_loss(model, batch)
        return loss, n, {"seven": 7 * n, "batches": 1}

    expected = {"loss": pytest.approx(each.sum() / 54, rel=1e-12), "seven": 7, "batches": len(batches) / 54}
    assert evaluate(model, batches, loss_fn) == expected and mean_loss(model, batches) == expected["loss"]
    assert model.training  # and dropout was off


def test_the_mode_comes_back_after_an_error():
    model = small_gpt()

    def loss_fn(model, batch):
        assert not model.training and not model.loss(*batch).requires_grad
        raise KeyError

    with pytest.raises(KeyError):
        evaluate(model, [(random_ids((1, 3)), random_ids((1, 3)))], loss_fn)
    assert model.training


def test_a_held_out_text_is_evaluated_whole_or_as_a_sample(monkeypatch):
    model, tokens = small_gpt(), random_ids(3000)
    with no_grad():
        losses = [model.loss(*batch, reduction="none").data for batch in sequential_batches(tokens, 9, 8)]
    exact = float(np.concatenate([part.reshape(-1) for part in losses]).mean(dtype=np.float64))
    assert held_out_loss(model, tokens, 4, 8, whole=False) == {"val_loss": pytest.approx(exact, rel=1e-6)}
    assert "3,000 to test on, all of them at each evaluation" in describe_evaluation(tokens, 8)
    monkeypatch.setattr(evaluation, "SAMPLED_TOKENS", 800)
    assert held_out_loss(model, tokens, 4, 8) == {"val_loss": pytest.approx(exact, rel=1e-6)}
    assert sampled_windows(tokens, 8) == 100
    description = describe_evaluation(tokens, 8)
    assert "3,000 to test on: 800 in windows drawn at random, and at the end all of them" in description
    found = held_out_loss(model, tokens, 4, 8, whole=False)["val_loss"]
    assert found == pytest.approx(held_out_loss(model, tokens, 7, 8, whole=False)["val_loss"])
    assert 0 < abs(found - exact) < 0.1


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.lists(st.integers(0, 4), min_size=2, max_size=40))
def test_baselines_are_those_of_counting(train, validation):
    unigram = [(train.count(token) + 1) / (len(train) + 5) for token in range(5)]
    pairs = list(zip(train, train[1:]))
    bigram = [
        (pairs.count((a, b)) + 100 * unigram[b]) / (train[:-1].count(a) + 100)
        for a, b in zip(validation, validation[1:])
    ]
    losses = baseline_losses(np.array(train, np.uint16), np.array(validation, np.uint16), 5)
    assert losses["uniform"] == pytest.approx(math.log(5))
    assert losses["unigram"] == pytest.approx(-np.mean([math.log(unigram[token]) for token in validation]))
    assert losses["bigram"] == pytest.approx(-np.mean(np.log(bigram)))
    assert sum(unigram) == pytest.approx(1)
    assert "bigram" not in baseline_losses(np.array(train), np.array(validation[:1]), 5)  # there is no pair


@pytest.mark.parametrize("log", ["", '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": null, "val_loss": 2.5}\n'])
def test_a_picture_is_drawn_of_any_log(tmp_path, log):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text(log, encoding="utf-8")
    path = plot_run(tmp_path, {"uniform": 3.1, "unigram": 3.1, "bigram": 3.05})
    assert path.read_bytes()[:4] == b"\x89PNG" and path == tmp_path / "loss.png"


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert plot_run(tmp_path, {}) is None


# --- a whole text -----------------------------------------------------------------------------------------------------

BLOCK = 12  # of small_gpt


def log_probabilities(model, ids):
    """(V,): what the model makes of the token after ids, in plain NumPy from the logits."""
    return log_softmax(logits_of(model, [list(ids)])[0, -1].astype(np.float64))


def one_by_one(model, ids, stride):
    """Token by token, each with the context that the definition gives it."""
    losses = []
    for t in range(len(ids) - 1):
        start = 0
        if t >= BLOCK:  # read by the first window whose end lies behind it
            stop = min(BLOCK + -(-(t + 1 - BLOCK) // stride) * stride, len(ids) - 1)
            start = stop - BLOCK
        losses.append(-log_probabilities(model, ids[start : t + 1])[ids[t + 1]])
    return np.array(losses)


@pytest.mark.parametrize("n", [2, BLOCK, BLOCK + 1, 31])
@pytest.mark.parametrize("stride", [1, 5, BLOCK])
def test_losses_are_those_of_reading_token_by_token(n, stride):
    model, ids = small_gpt(dtype="float64", dropout=0.5), random_ids(n)
    with use_kernels("fast"):
        losses = token_losses(model, ids, stride)
        assert model.training  # and dropout was off
        assert_allclose(losses, one_by_one(model.eval(), ids, stride), rtol=1e-10)


def test_more_windows_than_are_read_at_once(monkeypatch):
    model, ids = small_gpt(dtype="float64"), random_ids(100)
    expected = token_losses(model, ids, 3)
    for at_once in (1, 3 * BLOCK, 10**6):
        monkeypatch.setattr("gpt.training.evaluation.TOKENS_AT_ONCE", at_once)
        assert_allclose(token_losses(model, ids, 3), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [4, 40])
def test_likely_tokens_are_the_best_of_the_logits(n):
    model, ids = small_gpt(dtype="float64"), random_ids(n)
    best, probabilities = likely_tokens(model, ids, 3, stride=BLOCK)
    losses = token_losses(model, ids, stride=BLOCK)
    all_ids, everything = likely_tokens(model, ids, 37, stride=BLOCK)
    assert best.shape == probabilities.shape == (n - 1, 3) and everything.shape == (n - 1, 37)
    assert_allclose(everything.sum(axis=1), 1)
    assert (np.diff(everything, axis=1) <= 0).all() and (all_ids[:, :3] == best).all()
    of_the_text = everything[all_ids == ids[1:, None]]
    assert_allclose(-np.log(of_the_text), losses, rtol=1e-9)


@pytest.fixture(scope="module")
def reader():
    """A model that knows 300 tokens, and their tokenizer."""
    tokenizer = Tokenizer.train("the cat sat on the mat and the dog sat on the cat", vocab_size=270)
    return small_gpt(vocab_size=len(tokenizer), dtype="float64"), tokenizer


def test_a_text_is_scored_per_token_and_per_byte(reader):
    model, tokenizer = reader
    text = "the cat sat on the m\u00e1t, and then the dog ran"
    ids = tokenizer.encode(text)
    score = score_text(model, tokenizer, text, stride=4)
    assert score.ids.tolist() == ids and len(score.losses) == len(ids) - 1
    assert score.loss == pytest.approx(one_by_one(model, ids, 4).mean())
    assert score.perplexity == pytest.approx(math.exp(score.loss)) and perplexity(1e6) == math.inf
    predicted = len(text.encode()) - len(tokenizer.decode_bytes(ids[:1]))
    assert score.bits_per_byte == pytest.approx(score.losses.sum() / math.log(2) / predicted)
    streamed = score_text(model, tokenizer, [text[:7], text[7:]], stride=4)
    assert_array_equal(streamed.losses, score.losses)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda reader: evaluate(small_gpt(), []), "nothing to evaluate"),
        (lambda reader: evaluate(small_gpt(), [(random_ids((1, 3)), np.full((1, 3), -100))]), "nothing to evaluate"),
        (lambda reader: token_losses(small_gpt(), random_ids(40), 0), "stride must be from 1 to the block size of 12"),
        (lambda reader: token_losses(small_gpt(), random_ids(40), 13), "the block size of 12, got 13"),
        (lambda reader: score_text(*reader, ""), "there is nothing to predict; this one has 0"),
        (lambda reader: score_text(*reader, "a"), "there is nothing to predict; this one has 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(reader, call, words):
    with pytest.raises(ValueError, match=words):
        call(reader)
