"""The widgets' JavaScript computes what our Python computes, on 100 random inputs each; their data are the model's."""

import numpy as np
import pytest

import minigrad.functional as F
from finetune.objectives.logprobs import exact_kl
from gpt import GPT, GPTConfig, Tokenizer, accounting
from gpt.interpretability import attention_patterns, record_activations
from gpt.model.generation import Sampling
from gpt.model.sliding_window import window_mask
from gpt.tokenizer.bpe import encode_word
from gpt.tokenizer.bpe_training import learn_merges
from gpt.tokenizer.pre_tokenization import count_words, split_words
from minigrad import Tensor, manual_seed, no_grad
from scripts.course import widget_data
from tests.gpt.small import logits_of
from tests.scripts.javascript import evaluate

CASES = 100


def random_model(rng, **changes):
    heads, D = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    shape = {"vocab_size": int(rng.integers(2, 300)), "block_size": int(rng.integers(1, 12)), "n_head": heads}
    config = GPTConfig(**{**shape, "n_layer": int(rng.integers(1, 4)), "n_embd": heads * D, **changes})
    manual_seed(int(rng.integers(1000)))
    return GPT(config)


def test_sampling():
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for i in range(CASES):
        logits = (rng.standard_normal(rng.integers(1, 60)) * rng.uniform(0, 8)).tolist()
        temperature = 0.0 if i % 10 == 0 else float(rng.uniform(0.05, 3))
        top_k = int(rng.integers(0, 61))
        top_p = 1.0 if i % 4 == 0 else float(rng.uniform(0.01, 1))
        cases.append([logits, temperature, top_k, top_p])
        expected.append(Sampling(temperature, top_k or None, top_p).probabilities(np.array(logits)))
    found = evaluate("sampling", "(cases) => cases.map((c) => probabilities(...c))", cases)
    for row, right in zip(found, expected, strict=True):
        assert np.allclose(row, right, atol=1e-12)
        assert [p > 0 for p in row] == [p > 0 for p in right]


LETTERS = list("aaabbc  \n.'12é√ß字🙂\u0301") + ["'s", "\u00a0", "\u2003", "\x1c", "\x85", "\ufeff", "\ud800"]


def random_texts(rng):
    return ["".join(rng.choice(LETTERS, rng.integers(0, 40))) for _ in range(CASES)]


def latin(tokens):
    return [token.decode("latin-1") for token in tokens]


def test_bpe_encodes_as_we_do():
    rng = np.random.default_rng(1)
    texts = random_texts(rng)
    tokenizer = Tokenizer.train(["".join(rng.choice(LETTERS[:-1], 5000))], 400)
    data = {"texts": texts, "merges": widget_data.bpe(tokenizer, "")["merges"]}
    function = """({texts, merges}) => {
      const ranks = rankMerges(merges);
      return texts.map((text) => mergeSteps(text, (words) => nextLearned(words, ranks)).at(-1).words);
    }"""
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    for text, words in zip(texts, evaluate("bpe", function, data), strict=True):
        text = text.encode("utf-8", "replace").decode() if "\ud800" not in text else text.replace("\ud800", "\ufffd")
        assert words == [latin(encode_word(word.encode(), ranks)) for word in split_words(text)], text
        assert ["".join(word) for word in words] == latin(word.encode() for word in split_words(text))


def test_bpe_learns_as_we_do():
    texts = random_texts(np.random.default_rng(2))
    function = "(texts) => texts.map((text) => mergeSteps(text, nextFrequent).map(({next}) => next && next.pair))"
    for text, steps in zip(texts, evaluate("bpe", function, texts), strict=True):
        assert steps.pop() is None
        assert steps == [latin(pair) for pair in learn_merges(count_words([text]), 10_000)], text


def test_attention():
    rng = np.random.default_rng(3)
    cases, expected = [], []
    for i in range(CASES):
        T, C, D = rng.integers(1, 7, 3)
        x, wq, wk, bq = (rng.standard_normal(shape) for shape in ((T, C), (C, D), (C, D), (D,)))
        options = {name: bool(i >> bit & 1) for bit, name in enumerate(("projections", "scale", "mask"))}
        cases.append([{"x": x.tolist(), "wq": wq.tolist(), "wk": wk.tolist(), "bq": bq.tolist()}, options])
        q, k = (x @ wq + bq, x @ wk) if options["projections"] else (x, x)
        scale = None if options["scale"] else 1.0
        identity = Tensor(np.eye(T)[None])  # as values: what comes out are the weights
        given = (Tensor(q[None]), Tensor(k[None]), identity)
        expected.append(F.scaled_dot_product_attention(*given, is_causal=options["mask"], scale=scale).data[0])
    found = evaluate("attention", "(cases) => cases.map((c) => attentionWeights(...c))", cases)
    for rows, right in zip(found, expected, strict=True):
        assert np.allclose(rows, right, atol=1e-12)


def probabilities_of(logits):
    return F.softmax(Tensor(logits), -1).data


def test_kl_of_a_bump():
    rng = np.random.default_rng(5)
    x = np.linspace(-6, 6, 25)
    teacher = probabilities_of(rng.standard_normal(25))
    cases = [[float(rng.uniform(-3, 3)), float(rng.uniform(0.8, 5))] for _ in range(CASES)]
    students = [probabilities_of(-(((x - center) / width) ** 2)) for center, width in cases]
    function = """({x, teacher, cases}) => cases.map(([center, width]) => {
      const student = bump(x, center, width);
      return [divergence(teacher, student), divergence(student, teacher)];
    })"""
    found = evaluate("kl", function, {"x": x.tolist(), "teacher": teacher.tolist(), "cases": cases})
    p = Tensor(np.log(teacher) + np.zeros((CASES, 1)))
    q = Tensor(np.log(students))
    assert np.allclose(found, np.stack([exact_kl(p, q).data, exact_kl(q, p).data], axis=1), atol=1e-9)


def test_a_window_with_sinks():
    cases = [[token, window, sinks] for token in range(8) for window in range(1, 8) for sinks in range(4)]
    found = evaluate("cache", "(cases) => cases.map((c) => visibleTo(...c))", cases)
    for (token, window, sinks), held in zip(cases, found, strict=True):
        assert held == np.flatnonzero(window_mask(8, 8, window, sinks)[token]).tolist()


def test_shapes_and_parameters_of_gpt():
    rng = np.random.default_rng(4)
    cases, models = [], []
    for _ in range(CASES):
        model = random_model(rng)
        models.append(model)
        cases.append({**widget_data.shape("x", model.config), "t": int(rng.integers(1, model.config.block_size + 1))})
    function = "(cases) => cases.map((c) => ({boxes: gptBoxes(c), total: gptParameters(c)}))"
    for case, model, found in zip(cases, models, evaluate("gpt", function, cases), strict=True):
        assert found["total"] == model.num_parameters()
        boxes = {box["id"]: box for box in found["boxes"]}
        places = {name: f"transformer.{name}" for name in ("wte", "ln_f")} | {"lm_head": "lm_head"}
        places |= {name: f"transformer.h.0.{name}" for name in widget_data.PARTS}
        with no_grad(), record_activations(model, places.values()) as seen:
            model(np.zeros((1, case["t"]), np.int64))
        for name, place in places.items():
            assert tuple(boxes[name]["shape"]) == seen[place].shape[1:], name
            if name != "lm_head":
                assert boxes[name]["parameters"] == model.get_submodule(place).num_parameters(), name
        counts = accounting.parameters(model.config)
        assert boxes["wpe"]["parameters"] == counts["position embedding"] and boxes["lm_head"]["parameters"] == 0


@pytest.fixture(scope="module")
def model_and_tokenizer():
    tokenizer = Tokenizer.train(["the cat sat on the mat. " * 20], 280)
    shape = {"vocab_size": len(tokenizer), "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}
    model = random_model(np.random.default_rng(5), **shape)
    rng = np.random.default_rng(6)
    for parameter in model.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape) * 0.5
    return model, tokenizer


def test_the_walk_ends_at_the_models_own_probabilities(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    text = "the cat sat"
    data = widget_data.gpt(model, tokenizer, "ours", text)
    steps = {(step["box"], step["block"]): step for step in data["walk"]["steps"]}
    logits = logits_of(model, [tokenizer.encode(text)])[0, -1].astype(np.float64)
    right = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1][:12]
    assert np.allclose(steps["probabilities", 0]["values"], right, atol=1e-4)
    assert np.allclose(steps["lm_head", 0]["values"], np.sort(logits)[::-1][:12], atol=1e-4)
    last, before = steps["add_2", 1]["values"], steps["add_1", 1]["values"]
    assert np.allclose(last, np.add(before, steps["mlp.c_proj", 1]["values"]), atol=2e-4)
    ids = evaluate("gpt", "(c) => gptBoxes(c).map((box) => box.id)", {**data["presets"][0], "t": 3})
    assert [step["box"] for step in data["walk"]["steps"] if step["block"] == 0] == ids
    inside = ids[ids.index("ln_1") : ids.index("ln_f")]
    assert [step["box"] for step in data["walk"]["steps"] if step["block"] == 1] == inside


def test_weights_of_the_walk_and_of_a_sentence(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    patterns = attention_patterns(model, np.array([tokenizer.encode("the mat sat")]))[:, 0]  # (L, H, T, T)
    steps = [step for step in widget_data.walk(model, tokenizer, "the mat sat") if step["box"] == "weights"]
    options = {"projections": True, "scale": True, "mask": True}
    for layer, (step, weights) in enumerate(zip(steps, patterns, strict=True)):
        assert np.allclose(step["values"], weights[0, -1], atol=1e-4)
        for head in range(2):
            case = widget_data.sentence_of(model, tokenizer, "the mat sat", layer, head)
            found = evaluate("attention", "(c) => attentionWeights(...c)", [case, options])
            assert np.allclose(found, weights[head], atol=1e-3)


def test_the_logits_of_the_sampling_widget_are_the_models(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    data = widget_data.sampling(model, tokenizer, "ours", ["the cat", "a"])
    right = logits_of(model, [tokenizer.encode("the cat")])[0, -1]
    assert np.allclose(data["prompts"][0]["logits"], right, atol=1e-4)
    assert len(data["tokens"]) == len(data["prompts"][1]["logits"]) == len(tokenizer)
