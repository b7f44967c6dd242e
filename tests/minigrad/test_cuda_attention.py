"""Attention on a GPU: the kernels run in the emulation, the products in the stand-in's cuBLAS, both called as on a GPU,
and the results are those of the textbook form on the CPU."""

from unittest import mock

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, autocast, no_grad, use_kernels
from minigrad.backend import to_numpy
from minigrad.kernels.cuda import attention, one_query
from minigrad.precision import round_bfloat16
from tests.minigrad.kernel_checks import check, check_each_gradient_alone, mistake_is_found, randn, run

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]


def sample(inputs, **options):
    return "scaled_dot_product_attention", inputs, options


def qkv(lead, T, S=None, D=4, Dv=None, key_lead=None):
    """Query (..., T, D), key (..., S, D), value (..., S, Dv)."""
    S, Dv, key_lead = S or T, Dv or D, lead if key_lead is None else key_lead
    return [randn(*lead, T, D), randn(*key_lead, S, D, seed=1), randn(*key_lead, S, Dv, seed=2)]


def random_mask(*shape):
    return np.random.default_rng(0).random(shape) < 0.5


def padding(sequences, T, S):
    """(B, 1, T, S): what a batch of texts of different lengths may see; the third query of each sees nothing."""
    mask = np.random.default_rng([sequences, T, S]).random((sequences, 1, T, S)) < 0.6
    mask[:, :, 2] = False
    return mask


CASES = {
    "no leading axes": sample(qkv((), 5)),
    "one of everything": sample(qkv((1, 1), 1, D=1)),
    "rows of 31, 32 and 33 keys": sample(qkv((2, 3), 33, D=8), is_causal=True),
    "tiles of queries": sample(qkv((1, 2), 130, D=5, Dv=3), is_causal=True),
    "heads of 64": sample(qkv((1, 2), 65, D=64), is_causal=True),
    "heads of 80": sample(qkv((2, 1), 9, D=80, Dv=33), scale=0.3),
    "more keys than queries": sample(qkv((2, 2), 9, 40)),
    "more keys than queries, causal": sample(qkv((2, 2), 9, 40), is_causal=True),
    "more queries than keys, causal": sample(qkv((2, 2), 70, 9), is_causal=True),
    "padding": sample(qkv((3, 2), 7, 35), attn_mask=padding(3, 7, 35)),
    "padding of keys": sample(qkv((3, 2), 7, 35), attn_mask=padding(3, 3, 35)[:, :, 1:2]),
    "one query, padding": sample(qkv((3, 2), 1, 35), attn_mask=padding(3, 3, 35)[:, :, 1:2]),
    "a mask for all": sample(qkv((3, 2), 7, 35), attn_mask=padding(1, 7, 35)[0, 0]),
    "9 heads share 3": sample(qkv((2, 9), 33, key_lead=(2, 3)), is_causal=True, enable_gqa=True),
    "9 heads share 3, padding": sample(
        qkv((2, 9), 7, 8, key_lead=(2, 3)), attn_mask=padding(2, 7, 8), enable_gqa=True
    ),
    "2 heads share 1, tiles": sample(qkv((1, 2), 70, key_lead=(1, 1)), is_causal=True, enable_gqa=True),
    "keys broadcast": sample(qkv((2, 3), 5, 6, key_lead=(3,))),
    "three leading axes": sample(qkv((2, 2, 3), 5, 6)),
    "no keys": sample([randn(2, 3, 4), randn(2, 0, 4), randn(2, 0, 5)]),
    "no queries": sample([randn(2, 0, 4), randn(2, 3, 4), randn(2, 3, 5)]),
    # what the kernels leave to the textbook form
    "a mask of floats": sample(qkv((3, 2), 7, 35), attn_mask=randn(7, 35)),
    "another mask for each head": sample(qkv((3, 2), 7, 35), attn_mask=random_mask(3, 2, 7, 35)),
    "another mask for each head of all sequences": sample(qkv((3, 2), 7, 35), attn_mask=random_mask(2, 1, 1)),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small cases have several of each kind."""
    monkeypatch.setattr(attention, "QUERIES", 64)
    monkeypatch.setattr(attention, "TILE", 3 * 64 * 64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_textbook(case, dtype):
    check(CASES[case], "cuda", dtype)


def check_one_query(inputs, dtype=np.float64, **options):
    """Without gradients, as in generation."""
    check(sample(inputs, **options), "cuda", dtype, wanted=())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 31, 64, 80, 256])
@pytest.mark.parametrize("keys", [1, 5, 33, 200])
def test_one_query(keys, size, dtype):
    check_one_query(qkv((2, 3), 1, keys, D=size, Dv=min(size, 40)), dtype)


def test_one_query_with_a_mask_and_shared_heads():
    mask = random_mask(2, 1, 1, 37)
    mask[1] = False
    inputs = qkv((2, 9), 1, 37, key_lead=(2, 3))
    check_one_query(inputs, attn_mask=mask, enable_gqa=True)
    check_one_query(inputs, enable_gqa=True)
    check_one_query(inputs, is_causal=True, enable_gqa=True)
    assert not output(sample(inputs, attn_mask=mask, enable_gqa=True), wanted=())[1].any()


def output(case, **how):
    return run(case, "fast", "cuda", **how).arrays[0]


def test_one_query_reads_a_cache_where_it_lies():
    """The keys of a cache with room for more have gaps between the heads."""
    q, k, v = qkv((2, 3), 1, 40)
    cache = [Tensor(x, device="cuda") for x in (k, v)]
    with no_grad(), use_kernels("fast"):
        out = F.scaled_dot_product_attention(Tensor(q, device="cuda"), *[Tensor(x.data[:, :, :7]) for x in cache])
    np.testing.assert_allclose(to_numpy(out.data), output(sample([q, k[:, :, :7], v[:, :, :7]]), wanted=()))


def test_scores_that_exp_cannot_hold():
    q, k, v = qkv((1, 2), 9, D=4)
    check(sample([q * 1e3, k * 1e3, v], is_causal=True), "cuda")
    check_one_query([q[:, :, :1] * 1e3, k * 1e3, v])


def test_nan_is_not_hidden():
    q, k, v = qkv((1, 1), 5)
    k[0, 0, 2] = np.nan
    for wanted in (None, ()):
        out = output(sample([q, k, v], is_causal=True), wanted=wanted)
        assert np.isfinite(out[..., :2, :]).all() and np.isnan(out[..., 2:, :]).all()
    assert np.isnan(output(sample([q[:, :, :1], k, v]), wanted=())).all()


def test_only_the_gradients_that_are_wanted_are_computed():
    check_each_gradient_alone(sample(qkv((1, 2), 5)), "cuda")


# --- dropout ---


def with_dropout(case, p):
    op, inputs, options = CASES[case]
    return op, inputs, {**options, "dropout_p": p}


@pytest.mark.parametrize("case", ["tiles of queries", "more keys than queries", "2 heads share 1, tiles", "padding"])
def test_dropout_is_that_of_the_cpu(case):
    check(with_dropout(case, 0.3), "cuda")
    assert (output(CASES[case]) != output(with_dropout(case, 0.3))).mean() > 0.3


def test_all_drops_out():
    assert not any(x.any() for x in run(with_dropout("padding", 1.0), "fast", "cuda").arrays)


# --- bfloat16 ---


def rounded(case):
    op, inputs, options = case
    return op, [round_bfloat16(x.astype(np.float32)) for x in inputs], options


@pytest.mark.parametrize("case", ["tiles of queries", "padding", "9 heads share 3"])
def test_mixed_precision_multiplies_bfloat16_arrays(case):
    expected = run(rounded(CASES[case]), "textbook", dtype=np.float32).arrays
    with autocast(), mock.patch.object(attention, "multiply", wraps=attention.multiply) as multiply:
        found = run(CASES[case], "fast", "cuda", np.float32).arrays
    assert multiply.called
    for got, reference in zip(found, expected):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, reference, rtol=0, atol=2**-7 * np.abs(reference).max())
        assert np.abs(got - reference).max() > 0


def test_mixed_precision_with_one_query_and_with_a_mask_of_floats():
    for case in (sample(qkv((2, 3), 1, 40)), sample(qkv((2, 3), 4, 9), attn_mask=randn(4, 9))):
        expected = run(rounded(case), "textbook", dtype=np.float32, wanted=()).arrays[0]
        with autocast():
            found = output(case, dtype=np.float32, wanted=())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2**-7)


# --- what it is for ---


def test_work_and_memory_of_a_causal_mask(cublas_calls, monkeypatch):
    """Nothing above the diagonal's tiles is multiplied, and no more than a tile of scores exists at a time."""
    flops, sizes, multiply = {}, [], attention.multiply

    def noted(*args, **options):
        product = multiply(*args, **options)
        sizes.append(product.size)
        return product

    monkeypatch.setattr(attention, "multiply", noted)
    for is_causal in (False, True):
        cublas_calls.clear()
        run(sample(qkv((1, 6), 256, D=8), is_causal=is_causal), "fast", "cuda")
        flops[is_causal] = sum(m * n * k * batch for m, n, k, batch, _ in cublas_calls)
    assert flops[True] / flops[False] == (1 + 2 + 3 + 4) / 16
    assert max(sizes) == 256 * 64  # one head's: it fits in no tile with another's


# --- checks that can fail ---

MUTANTS = {
    "the diagonal is hidden": (attention, "key <= query", "key < query"),
    "the mask is not looked at": (attention, "(!HAS_MASK || mask[key])", "true"),
    "the mask of the first sequence": (attention, "(long long)(head / heads_per_mask)", "0ll"),
    "a block's queries start at 0": (attention, "row.query = first_query +", "row.query ="),
    "query head and query are mixed up": (
        attention,
        "first_query + in_head / group",
        "first_query + in_head % tile_queries",
    ),
    "the largest is not subtracted": (attention, "largest = warp_max(largest);", "largest = 0;"),
    "a lane's sum": (attention, "sum = warp_sum(sum);", ""),
    "not normalized": (attention, "1 / sum", "1"),
    "the logarithm without the largest": (attention, "largest + log(sum)", "log(sum)"),
    "one row too many": (attention, "number < (long long)heads * rows", "number <= (long long)heads * rows"),
    "one key too many": (attention, "key < columns", "key <= columns"),
    "softmax's sum is missing in backward": (attention, "dot = warp_sum(dot);", "dot = 0;"),
    "the same logsumexp for all": (attention, "logsumexp[row.saved];", "logsumexp[0];"),
    "dropout's bits of the next key": (attention, "row.kept + key", "row.kept + key + 1"),
    "dropout's bits of another row": (attention, "in_head / group % DROPOUT_ROWS)", "0)"),
    "dropout is not undone": (attention, "ddropped[key] * kept_of - dot", "ddropped[key] - dot"),
    "no barrier before the warps' results are read": (one_query, "__syncthreads();", ""),
    "what was summed does not shrink": (one_query, "total * shrink", "total"),
    "the warps' largest scores are taken as one": (
        one_query,
        "sum += warp_weighted[w][d] * exp(warp_largest[w] - largest)",
        "sum += warp_weighted[w][d]",
    ),
    "half of the elements of a head": (one_query, "lane + 32 * i < D) score", "lane + 32 * i < D / 2) score"),
    "keys without gaps": (one_query, "k += head * k_head", "k += head * keys * D"),
    "a warp passes over keys": (one_query, "key += WARPS", "key += WARPS + 1"),
    "no scale": (one_query, "* scale : real(0)", ": real(0)"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_mistakes_are_found(mutant):
    module, right, wrong = MUTANTS[mutant]
    with mistake_is_found(module, right, wrong):
        if module is one_query:
            test_one_query(33, 80, np.float64)
            test_one_query_reads_a_cache_where_it_lies()
        else:
            check(with_dropout("2 heads share 1, tiles", 0.3), "cuda")
            check(CASES["padding"], "cuda")
            test_scores_that_exp_cannot_hold()
