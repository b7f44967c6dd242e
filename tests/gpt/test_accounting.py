"""The formulas against models that were built, steps that were profiled, and the numbers of the course."""

import numpy as np
import pytest

from gpt import GPTConfig, KVCache, accounting
from minigrad import no_grad, optim, use_kernels
from minigrad.inspection import memory, profile
from tests.gpt.small import random_ids, small_gpt, small_llama

SHAPES = [
    {},
    {"norm": "post"},
    {"positions": "sinusoidal"},
    {"n_layer": 3, "n_head": 4, "n_embd": 16},
    {"block_size": 40, "vocab_size": 300},
    {"n_inner": 20},
]
LLAMAS = [{}, {"tied": False}, {"n_kv_head": 1}, {"n_kv_head": 4, "n_inner": 33, "n_layer": 3}]
MODELS = [pytest.param(small_gpt, changes, id=f"gpt {changes}") for changes in SHAPES]
MODELS += [pytest.param(small_llama, changes, id=f"llama {changes}") for changes in LLAMAS]


@pytest.mark.parametrize(
    "small, changes",
    [
        *MODELS,
        (small_gpt, {"tied": False}),
        (small_llama, {"qkv_bias": True, "qk_norm": True, "head_size": 6, "tied": False}),
    ],
)
def test_parameters_are_those_of_a_built_model(small, changes):
    model = small(**changes)
    counted = dict.fromkeys(accounting.parameters(model.config), 0)
    for name, parameter in model.named_parameters():
        counted[accounting.component_of(name)] += parameter.data.size
    assert accounting.parameters(model.config) == counted
    assert sum(counted.values()) == model.num_parameters() == model.config.num_parameters()


def test_the_numbers_of_the_course():
    counts = accounting.parameters(GPTConfig())
    shares = accounting.shares_of_total(counts)
    assert sum(counts.values()) == 124_439_808
    assert counts["token embedding"] == 38_597_376  # "38.4M" with V taken for 50,000
    assert accounting.parameters(GPTConfig(vocab_size=50_000))["token embedding"] == 38_400_000
    assert (round(shares["attention"], 2), round(shares["MLP"], 2)) == (0.23, 0.46)
    assert round(shares["token embedding"], 2) == 0.31
    assert counts["MLP"] / (counts["MLP"] + counts["attention"]) == pytest.approx(2 / 3, abs=1e-3)
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("small, changes", MODELS)
def test_flops_are_those_of_the_profiled_products(small, changes):
    model = small(**changes)
    B, T = (3, 5)
    ids = random_ids((B, T), vocab_size=model.config.vocab_size)
    with profile() as report:
        model.loss(ids, ids).backward()
    products = [row for row in report.rows if row.op in ("Linear", "ScaledDotProductAttention")]
    forward = sum(row.flops for row in products if row.phase == "forward")
    assert forward == B * T * accounting.token_flops(model.config, T)
    assert sum(row.flops for row in products) == 3 * forward


@pytest.mark.parametrize("small, changes", MODELS)
def test_activations_are_what_the_graph_holds(kernels, small, changes):
    """To 3 %: the formulas leave out small arrays, such as one number per row of the loss, masks and angles."""
    changes = {"n_embd": 64, "vocab_size": 500, "block_size": 32, **changes} | {"n_embd": 64, "block_size": 32}
    model = small(**changes)
    B, T = (4, 32)
    ids = random_ids((B, T), vocab_size=model.config.vocab_size)
    with use_kernels(kernels), memory() as report:
        model.loss(ids, ids)
        held = report.peak
    masks = sum(row.at_peak for row in report.rows if "above_diagonal" in row.saved)
    assert held - masks == pytest.approx(accounting.activation_bytes(model.config, B, T, kernels=kernels), rel=0.03)


def test_training_memory_is_that_of_adams_arrays():
    model = small_gpt()
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    ids = [[1, 2, 3]]
    model.loss(ids, ids).backward()
    optimizer.step()
    moments = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    found = {
        "weights": sum(p.data.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters()),
        "optimizer": sum(value.nbytes for value in moments if isinstance(value, np.ndarray) and value.ndim),
    }
    assert accounting.training_memory(model.num_parameters()) == found


def test_memory_of_seven_billion_parameters():
    full = accounting.training_memory(7 * 10**9, weights="bfloat16", gradients="bfloat16")
    assert sum(full.values()) == 84 * 10**9 == 12 * 7 * 10**9
    assert full["optimizer"] / sum(full.values()) == pytest.approx(2 / 3)
    frozen = accounting.training_memory(7 * 10**9, trainable=4 * 10**6, weights="int4")
    assert frozen == {"weights": 3.5e9, "gradients": 16e6, "optimizer": 32e6}


@pytest.mark.parametrize("small, changes", MODELS)
def test_the_kv_cache_is_as_large_as_predicted(small, changes):
    model = small(**changes)
    cache = KVCache.for_model(model, batch=3, capacity=7)
    with no_grad():
        model(np.zeros((3, 2), int), cache)
    assert cache.nbytes == accounting.kv_cache_bytes(model.config, 3, 7)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("prompt, new", [(1, 1), (3, 5), (4, 0)])
def test_tokens_read_are_those_that_the_model_is_given(cached, prompt, new):
    model = small_gpt()
    read = []
    model.transformer.wte.register_forward_hook(lambda module, arguments, output: read.append(output.shape[1]))
    with no_grad():
        model.generate([list(range(prompt))], new, use_cache=cached)
    assert sum(read) == (accounting.tokens_read(prompt, new, cached) if new else 0)


def test_intensity_tells_memory_bound_from_compute_bound():
    ridge = accounting.ridge_point(312e12, 2e12)
    one, many = (accounting.matmul_intensity(m, 768, 3072, "bfloat16") for m in (1, 4096))
    assert one < 1.01 < ridge < many
    product = accounting.matmul_intensity(2, 3, 5)
    assert product == 2 * 2 * 3 * 5 / (4 * (6 + 15 + 10))


def test_a_smaller_type_is_read_faster():
    config = GPTConfig()
    full, half = (accounting.generation_bound(config, 1e9, dtype) for dtype in ("float32", "float16"))
    assert half == pytest.approx(2 * full)
    assert accounting.generation_bound(config, 1e9, context=1024) < full
    read = accounting.matrix_weights(config) * 4
    assert full == pytest.approx(1e9 / read)


def test_scaling_laws():
    n, d = accounting.chinchilla_optimal(6e20)
    assert 6 * n * d == pytest.approx(6e20) and d == pytest.approx(20 * n)
    larger = accounting.chinchilla_optimal(100 * 6e20)
    assert larger[0] == pytest.approx(10 * n) and larger[1] == pytest.approx(10 * d)
    assert accounting.chinchilla_loss(70e9, 1.4e12) < accounting.chinchilla_loss(280e9, 300e9)
    assert accounting.compute_loss(1e24) < accounting.compute_loss(1e21)
    assert accounting.compute_loss(3.1e8 * 1e15 * 86400) == pytest.approx(1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: accounting.component_of("score.weight"), r"score\.weight is not a parameter of a GPT or a Llama"),
        (lambda: accounting.weight_bytes(10, "float8"), "unknown type 'float8'; known are float64"),
    ],
)
def test_unknown_names_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
