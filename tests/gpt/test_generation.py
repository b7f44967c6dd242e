"""Generation: the cache changes nothing, batches change nothing, and every setting does what it says."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import minigrad as mg
from gpt import KVCache
from gpt.model.batch_generation import Memory, generate, stream
from gpt.model.generation import Sampling, nucleus
from minigrad import no_grad, switches, use_kernels
from tests.gpt.small import golden, random_ids, shapes_read, small_gpt, small_llama

BLOCK = 12  # of the small models
TWO = [[1, 2], [3, 4]]  # prompts


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding, chunks", [(0, [9]), (0, [1] * 9), (4, [6, 2, 1]), (4, [2, 7])])
def test_reading_in_chunks_with_a_cache_gives_the_same_logits(small, kernels, padding, chunks):
    model, ids, mask = small(dtype="float64"), random_ids((3, 9)), np.ones((3, 9), int)
    mask[1, :padding] = 0
    with no_grad(), use_kernels(kernels):
        expected = model(ids, attention_mask=mask).data
        cache = KVCache.for_model(model, batch=3)
        parts = []
        for n in chunks:
            stop = cache.length + n
            seen = mask[:, :stop] if padding else None
            parts.append(model(ids[:, cache.length : stop], cache=cache, attention_mask=seen).data)
    real = mask == 1
    assert_allclose(np.concatenate(parts, axis=1)[real], expected[real], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "small, changes",
    [
        (small_gpt, {}),
        (small_gpt, {"norm": "post"}),
        (small_gpt, {"positions": "sinusoidal"}),
        (small_gpt, {"block_size": 1}),
        (small_llama, {}),
        (small_llama, {"tied": False, "n_kv_head": 1}),
    ],
)
@pytest.mark.parametrize("prompt", [1, 12, 40])
def test_cached_equals_uncached_also_beyond_the_block(prompt, small, changes):
    """Token for token, with prompts shorter and longer than the block, and texts that outgrow it several times."""
    model, ids = small(**changes), random_ids((2, prompt))
    options = {"max_new_tokens": 2 * BLOCK, "temperature": 0.9, "seed": 5}
    assert model.generate(ids, **options) == model.generate(ids, use_cache=False, **options)


def test_the_context_is_what_the_documentation_says():
    """Of a long prompt the last block; then, each time that the context is full, its newer half and what follows."""
    model = small_gpt()
    contexts = []

    def note(layer, arguments, output):
        contexts.append(arguments[0][0].tolist())

    model.transformer.wte.register_forward_hook(note)
    prompt = list(range(20))
    new = model.generate([prompt], 9, temperature=0, use_cache=False)[0]
    text = prompt + new
    expected = [text[8:20], *[text[15:n] for n in range(21, 28)], text[22:28]]
    assert contexts == expected


def test_a_cache_refuses_what_does_not_fit():
    model = small_gpt()
    cache = KVCache.for_model(model, batch=2, capacity=4)
    with no_grad():
        model(random_ids((2, 3)), cache=cache)
        with pytest.raises(ValueError, match="room for 4 tokens, holds 3, and got 2"):
            model(random_ids((2, 2)), cache=cache)
        with pytest.raises(ValueError, match="is for 2 sequences, got 1"):
            model(random_ids((1, 1)), cache=cache)
        assert cache.length == 3
        with pytest.raises(ValueError, match="13 tokens are more than the model's block size"):
            model(random_ids((1, 13)), cache=KVCache.for_model(model))


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompts, n", [([[1, 2, 3, 4, 5], [6], [7, 8, 9]], 6), ([range(BLOCK - 1), [6], range(BLOCK - 4)], 16)]
)
def test_a_batch_of_different_lengths_equals_each_prompt_alone(small, kernels, prompts, n):
    """Also beyond the block: each forgets its older half when it is full, at once or later."""
    model = small(dtype="float64")
    prompts = [list(prompt) for prompt in prompts]
    longest = max(map(len, prompts))
    padded = np.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = np.arange(longest) >= longest - np.array([[len(prompt)] for prompt in prompts])
    with use_kernels(kernels):
        alone = [model.generate([np.array(prompt)], n, temperature=0, use_cache=False)[0] for prompt in prompts]
        assert model.generate(prompts, n, temperature=0) == alone
        for use_cache in (True, False):
            assert model.generate(padded, n, temperature=0, use_cache=use_cache, attention_mask=mask) == alone


def test_a_row_draws_the_same_in_every_batch():
    model = small_gpt(dtype="float64")
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    together = model.generate(prompts, 8, seed=3)
    assert together[:1] == model.generate(prompts[:1], 8, seed=3)
    assert together[:2] == model.generate(prompts[:2], 8, seed=3)
    same = model.generate([prompts[0]] * 3, 8, seed=3)
    assert len({tuple(row) for row in same}) == 3  # several samples of one prompt differ


# --- the same tokens as transformers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_greedy_equals_transformers(kind):
    model, expected = golden(kind)
    assert model.generate(expected["ids"], 5, temperature=0) == expected["greedy"].tolist()
    penalized = model.generate(expected["ids"], 5, temperature=0, repetition_penalty=1.3)
    assert penalized == expected["penalized"].tolist()
    assert model.generate(expected["ids"], 5, top_k=1) == expected["greedy"].tolist()


# --- settings ---------------------------------------------------------------------------------------------------------


def plain_probabilities(logits, temperature=1.0, top_k=None, top_p=1.0, penalty=1.0, min_p=0.0, seen=()):
    """Token by token, as one would do it on paper."""
    scores = list(map(float, logits))
    for token in set(seen):
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    if temperature == 0:
        return [1.0 if i == scores.index(max(scores)) else 0.0 for i in range(len(scores))]
    weights = {i: math.exp((score - max(scores)) / temperature) for i, score in enumerate(scores)}
    best_first = sorted(weights, key=lambda i: -weights[i])[:top_k]
    total = sum(weights[i] for i in best_first)
    before = 0.0
    kept = []
    for i in best_first:
        if before < top_p:
            kept.append(i)
        before += weights[i] / total
    kept = [i for i in kept if weights[i] >= min_p * weights[kept[0]]]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(scores))]


def test_probabilities_are_those_of_the_plain_algorithm():
    settings = itertools.product([0, 0.1, 1, 4], [None, 1, 2, 10, 100], [0.01, 0.5, 0.9, 1], [0.7, 1, 1.2], [0, 0.3, 1])
    for seed, chosen in enumerate(settings):
        rng = np.random.default_rng(seed)
        logits = 3 * rng.standard_normal(12)
        seen = rng.integers(0, 12, 4)
        ours = Sampling(*chosen).probabilities(logits, seen)
        assert_allclose(ours, plain_probabilities(logits, *chosen, seen), atol=1e-12, err_msg=str(chosen))
        assert ours.sum() == pytest.approx(1)


@pytest.mark.parametrize("spread", [0.01, 1, 5])
@pytest.mark.parametrize("p", [0.01, 0.5, 0.95, 0.999999])
def test_the_nucleus_of_a_large_vocabulary(spread, p):
    """Only what may be in the nucleus is sorted; ties, of which there are many here, go to the first."""
    probs = Sampling().probabilities((spread * np.random.default_rng(0).standard_normal(5000)).round(1))
    order = np.argsort(-probs, kind="stable")
    kept = order[np.cumsum(probs[order]) - probs[order] < p]
    assert nucleus(probs, p).tolist() == sorted(kept)


@given(st.integers(0, 10**6), st.sampled_from([0, 0.5, 1]), st.sampled_from([None, 3]), st.sampled_from([0.5, 1]))
def test_a_chosen_token_is_drawn_from_the_probabilities(seed, temperature, top_k, top_p):
    """As if from the running sum over the whole vocabulary, for the same random number."""
    rng = np.random.default_rng(seed)
    logits, sampling = rng.standard_normal(20).astype(np.float32), Sampling(temperature, top_k, top_p, 1.3)
    seen = {1, 5}
    token = sampling.choose(logits, seen, np.random.default_rng(seed))
    probs = sampling.probabilities(logits, seen)
    number = np.random.default_rng(seed).random()
    assert token == int(np.searchsorted(np.cumsum(probs), number, side="right")) or temperature == 0
    assert probs[token] > 0 and (temperature > 0 or probs[token] == 1)


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty", "min_p"])
@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e-3, 1, 1e300])
def test_a_setting_is_out_of_bounds_or_gives_a_token(name, value):
    logits = np.array([-3.4e38, -1, 0, 1e-45, 1, 3.4e38], np.float32)
    try:
        sampling = Sampling(**{name: value})
    except ValueError:
        return
    probs = sampling.probabilities(logits, range(6))
    assert probs.sum() == pytest.approx(1) and probs[5] == probs.max()


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_an_error(temperature, bad):
    model = small_gpt()
    model.transformer.ln_f.bias.data[2] = bad
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="logits are not finite"):
        model.generate([[1, 2]], 3, temperature=temperature)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"temperature": -0.1}, "temperature must be a number >= 0, got -0.1"),
        ({"max_new_tokens": -1}, "max_new_tokens must be >= 0, got -1"),
        ({"ids": []}, "prompts must be integers"),
        ({"ids": [[1], []]}, "each prompt needs a token"),
        ({"ids": [[1.5]]}, "prompts must be integers"),
        ({"attention_mask": [[1, 0]]}, "padding belongs on the left"),
        ({"ids": [[1] * 5], "attention_mask": [[1, 0, 0, 1, 1]]}, "zeros only before the ones: .* padding belongs on"),
        ({"attention_mask": [[1]]}, r"must have the shape \(1, 2\)"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, words):
    model = small_gpt()
    with pytest.raises(ValueError, match=words):
        generate(model, **{"ids": [[1, 2]], "max_new_tokens": 3, **options})
    assert model.training


# --- seeds, ends, streaming -------------------------------------------------------------------------------------------


def test_the_seed_decides_and_without_one_manual_seed_does():
    model = small_gpt()
    assert model.generate([[1]], 20, seed=7) == model.generate([[1]], 20, seed=7)
    assert model.generate([[1]], 20, seed=7) != model.generate([[1]], 20, seed=8)
    mg.manual_seed(4)
    first, second = model.generate([[1]], 20), model.generate([[1]], 20)
    mg.manual_seed(4)
    assert first != second and model.generate([[1]], 20) == first


def test_a_seed_leaves_the_shared_random_numbers_alone():
    model, before = small_gpt(dropout=0.5).train(), mg.backend.random_state()
    model.generate([[1]], 5, seed=1)
    assert mg.backend.random_state() == before


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_row_ends_at_its_stop_token_and_the_others_go_on(use_cache):
    model = small_gpt(dtype="float64")
    free = model.generate(TWO, 10, seed=0)
    stop = free[0][3]
    cut = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    streamed = []
    options = {"seed": 0, "stop_tokens": [stop], "use_cache": use_cache}
    assert model.generate(TWO, 10, on_token=streamed.append, **options) == cut
    assert [row[0] for row in streamed][: len(cut[0])] == cut[0]
    assert all(row[0] == -1 for row in streamed[len(cut[0]) :])
    assert len(streamed) == max(map(len, cut))
    assert len(cut[0]) <= 4


def test_nothing_is_computed_for_no_tokens():
    model = small_gpt()
    model.register_forward_hook(lambda *_: pytest.fail("the model was called"))
    assert model.generate(TWO, 0) == [[], []]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_before_also_after_an_error(training):
    model = small_gpt(dropout=0.5).train(training)
    model.transformer.h[1].train(not training)

    def stop(tokens):
        assert not model.training
        raise KeyboardInterrupt

    model.generate([[1]], 2)
    assert model.training == training
    with pytest.raises(KeyboardInterrupt):
        model.generate([[1]], 2, on_token=stop)
    assert model.training == model.transformer.h[0].training == training != model.transformer.h[1].training


def test_a_stream_gives_the_tokens_one_by_one_and_can_be_left():
    model = small_gpt(dropout=0.5).train()
    expected = model.generate(TWO, 6, temperature=0.7, seed=0)
    steps = stream(model, TWO, 6, Sampling(0.7), seed=0)
    first = [next(steps) for _ in range(3)]
    assert np.array(first).T.tolist() == [row[:3] for row in expected]
    assert not model.training and switches.recording.get()[-1]  # between two steps gradients are recorded as ever
    steps.close()
    assert model.training


def write(model, prompt, memory=None, **options):
    return [token for [token] in stream(model, [prompt], 5, Sampling(0), memory=memory, **options)]


def test_with_a_memory_only_what_is_new_is_read(small, monkeypatch):
    model = small(dtype="float64")
    block = model.config.block_size
    memory = Memory()
    read = shapes_read(model, monkeypatch)
    start = [3, 1, 4, 1, 5, 9]
    prompts = [start, [*start, 2], start, [3, 1, 4, 7], [8], [8, *range(2 * block)]]
    lengths = [6, 1, 1, 1, 1, block]  # read of each at first; the last one is longer than the block: its end is read
    for prompt, length in zip(prompts, lengths, strict=True):
        read.clear()
        new = write(model, prompt, memory)
        assert read[:2] == [(1, length), (1, 1)] or length == block and read[0] == (1, block)
        assert new == write(model, prompt)
        assert memory.ids.tolist()[-2:] == [*prompt, *new][-3:-1]  # the last token is written and not read


def test_a_prompt_with_several_answers_is_read_once(small, kernels, monkeypatch):
    model = small(dtype="float64")
    prompts = [[0, 0, 3], [7], [0, 0, 3], [7], [8, 9], [0, 3], [7], list(range(1, BLOCK + 2)), [0, 3]]
    with use_kernels(kernels):
        alone = [model.generate([prompt], 16, seed=[i])[0] for i, prompt in enumerate(prompts)]
        read = shapes_read(model, monkeypatch)
        assert model.generate(prompts, 16, seed=range(len(prompts))) == alone
    rows = [shape[0] for shape in read]
    assert rows[0] == 5 and rows.count(5) == 1  # and then all nine of them


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_memory_survives_an_interruption(broken, monkeypatch):
    model = small_gpt(dtype="float64")
    memory = Memory()
    calls = []
    hidden_states = model.hidden_states

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == broken:
            raise KeyboardInterrupt
        return hidden_states(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model, "hidden_states", interrupted)
        write(model, [3, 1, 4], memory)
    expected = write(model, [3, 1, 4])
    assert memory.ids.tolist() == [3, 1, 4, *expected][: 0 if broken == 1 else broken + 1]
    assert write(model, [3, 1, 4, expected[0], 7], memory) == write(model, [3, 1, 4, expected[0], 7])
