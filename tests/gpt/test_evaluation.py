"""Evaluation: means over whatever counts, and the simple models that a GPT has to beat."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.data import sequential_batches
from gpt.evaluation import baseline_losses, bits_per_byte, evaluate, language_model_loss, mean_loss, perplexity
from gpt.plots import plot_run
from minigrad import no_grad
from tests.gpt.small import random_ids, small_gpt


def test_the_mean_is_over_tokens_and_not_over_batches():
    model, tokens = small_gpt(dtype="float64", dropout=0.3), random_ids(60)
    batches = [(ids, targets.copy()) for ids, targets in sequential_batches(tokens, batch_size=3, block_size=8)]
    assert {ids.shape for ids, _ in batches} == {(3, 8), (1, 8), (1, 3)}
    batches[0][1][0, :5] = -100
    with no_grad():
        model.eval()
        each = np.concatenate([model.loss(*batch, reduction="none").data.reshape(-1) for batch in batches])
    model.train()
    assert mean_loss(model, batches) == pytest.approx(each.sum() / 54, rel=1e-12)
    assert model.training  # and dropout was off


def test_other_metrics_are_means_over_the_same_count():
    def loss_fn(model, batch):
        loss, n, _ = language_model_loss(model, batch)
        return loss, n, {"seven": 7 * n, "batches": 1}

    batches = [(random_ids((2, 4)), random_ids((2, 4)))] * 3
    metrics = evaluate(small_gpt(), batches, loss_fn)
    assert metrics.keys() == {"loss", "seven", "batches"}
    assert metrics["seven"] == 7 and metrics["batches"] == 3 / 24


@pytest.mark.parametrize("batches", [[], [(random_ids((1, 3)), np.full((1, 3), -100))]])
def test_nothing_to_evaluate_is_an_error(batches):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(small_gpt(), batches)


def test_the_mode_comes_back_after_an_error_and_nothing_is_recorded():
    model = small_gpt()

    def loss_fn(model, batch):
        assert not model.training and not model.loss(*batch).requires_grad
        raise KeyError

    with pytest.raises(KeyError):
        evaluate(model, [(random_ids((1, 3)), random_ids((1, 3)))], loss_fn)
    assert model.training


def test_perplexity_and_bits_per_byte():
    assert perplexity(math.log(50)) == pytest.approx(50) and perplexity(1e6) == math.inf
    assert bits_per_byte(math.log(256), tokens=10, n_bytes=10) == pytest.approx(8)  # bytes, all equally likely
    assert bits_per_byte(2.0, tokens=30, n_bytes=90) == pytest.approx(2.0 / math.log(2) / 3)


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


def test_a_bigram_knows_a_text_in_which_each_token_decides_the_next():
    text = np.arange(20000) % 10
    losses = baseline_losses(text[:15000], text[15000:], 10)
    assert losses["bigram"] < 0.1 < 2.2 < losses["unigram"] < losses["uniform"] + 1e-3


@pytest.mark.parametrize("log", ["", '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": null, "val_loss": 2.5}\n'])
def test_a_picture_is_drawn_of_any_log(tmp_path, log):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text(log, encoding="utf-8")
    path = plot_run(tmp_path, {"uniform": 3.1, "unigram": 3.1, "bigram": 3.05})
    assert path.read_bytes()[:4] == b"\x89PNG" and path == tmp_path / "loss.png"


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert plot_run(tmp_path, {}) is None
