"""Attention on a GPU: the kernels run in the emulation, the products in the stand-in's cuBLAS, both called as on a GPU,
and the results are those of the textbook form on the CPU."""

from unittest import mock

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, autocast, no_grad, use_kernels
from minigrad.backend import to_numpy
from minigrad.kernels.cuda import attention as cuda_attention
from minigrad.kernels.cuda import one_query
from minigrad.precision import round_bfloat16
from tests.minigrad.kernel_checks import (
    ATTENTION,
    SHARED_DROPOUT,
    assert_close,
    attention,
    check,
    check_each_gradient_alone,
    mask,
    mistake_is_found,
    randn,
    run,
)

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small cases have several of each kind."""
    monkeypatch.setattr(cuda_attention, "QUERIES", 64)
    monkeypatch.setattr(cuda_attention, "TILE", 3 * 64 * 64)


@pytest.mark.parametrize("case", ATTENTION)
def test_equals_the_textbook(case):
    for dtype in (np.float32, np.float64):
        check(ATTENTION[case], "cuda", dtype)


@pytest.mark.parametrize("size", [1, 31, 64, 80, 256])
@pytest.mark.parametrize("keys", [1, 5, 33, 200])
def test_one_query(keys, size):
    """Without gradients, as in generation."""
    for dtype in (np.float32, np.float64):
        check(attention((2, 3), 1, keys, D=size, Dv=min(size, 40)), "cuda", dtype, wanted=())


def test_one_query_with_a_mask_and_shared_heads():
    seen = mask(2, 1, 1, 37)
    seen[1] = False
    for options in ({"attn_mask": seen}, {}, {"is_causal": True}):
        sample = attention((2, 9), 1, 37, key_lead=(2, 3), enable_gqa=True, **options)
        check(sample, "cuda", wanted=())
        assert output(sample, wanted=())[1].any() == ("attn_mask" not in options)


def output(case, **how):
    return run(case, "fast", "cuda", **how).arrays[0]


def test_one_query_reads_a_cache_where_it_lies():
    """The keys of a cache with room for more have gaps between the heads."""
    op, (q, k, v), options = attention((2, 3), 1, 40)
    cache = [Tensor(x, device="cuda") for x in (k, v)]
    with no_grad(), use_kernels("fast"):
        out = F.scaled_dot_product_attention(Tensor(q, device="cuda"), *[Tensor(x.data[:, :, :7]) for x in cache])
    np.testing.assert_allclose(to_numpy(out.data), output((op, [q, k[:, :, :7], v[:, :, :7]], options), wanted=()))


def test_scores_that_exp_cannot_hold():
    for T in (9, 1):
        op, (q, k, v), options = attention((1, 2), T, 9, is_causal=T > 1)
        check((op, [q * 1e3, k * 1e3, v], options), "cuda", wanted=None if T > 1 else ())


def test_nan_is_not_hidden():
    op, (q, k, v), options = attention((1, 1), 5, is_causal=True)
    k[0, 0, 2] = np.nan
    for wanted in (None, ()):
        out = output((op, [q, k, v], options), wanted=wanted)
        assert np.isfinite(out[..., :2, :]).all() and np.isnan(out[..., 2:, :]).all()
    assert np.isnan(output((op, [q[:, :, :1], k, v], {}), wanted=())).all()


def test_only_the_gradients_that_are_wanted_are_computed():
    check_each_gradient_alone(ATTENTION["padding"], "cuda")


# --- dropout ---


def with_dropout(case, p):
    op, inputs, options = ATTENTION[case]
    return op, inputs, {**options, "dropout_p": p}


@pytest.mark.parametrize("case", ["tiles of queries", "more keys than queries", "2 heads share 1, tiles", "padding"])
def test_dropout_is_that_of_the_cpu(case):
    check(with_dropout(case, 0.3), "cuda")
    assert (output(ATTENTION[case]) != output(with_dropout(case, 0.3))).mean() > 0.3


@pytest.mark.parametrize("case", SHARED_DROPOUT)
def test_dropout_that_values_share_is_that_of_the_textbook_form(case):
    found, expected = (run(SHARED_DROPOUT[case], kernels, "cuda").arrays for kernels in ("fast", "textbook"))
    assert_close(found, expected, np.float64)


# --- bfloat16 ---


def rounded(case):
    op, inputs, options = case
    return op, [round_bfloat16(x.astype(np.float32)) for x in inputs], options


@pytest.mark.parametrize("case", ["tiles of queries", "padding", "9 heads share 3"])
def test_mixed_precision_multiplies_bfloat16_arrays(case):
    expected = run(rounded(ATTENTION[case]), "textbook", dtype=np.float32).arrays
    with autocast(), mock.patch.object(cuda_attention, "multiply", wraps=cuda_attention.multiply) as multiply:
        found = run(ATTENTION[case], "fast", "cuda", np.float32).arrays
    assert multiply.called
    for got, reference in zip(found, expected):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, reference, rtol=0, atol=2**-7 * np.abs(reference).max())
        assert np.abs(got - reference).max() > 0


def test_mixed_precision_with_one_query_and_with_a_mask_of_floats():
    for case in (attention((2, 3), 1, 40), attention((2, 3), 4, 9, attn_mask=randn(4, 9))):
        expected = run(rounded(case), "textbook", dtype=np.float32, wanted=()).arrays[0]
        with autocast():
            found = output(case, dtype=np.float32, wanted=())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2**-7)


# --- what it is for ---


def test_work_and_memory_of_a_causal_mask(cublas_calls, monkeypatch):
    """Nothing above the diagonal's tiles is multiplied, and no more than a tile of scores exists at a time."""
    flops, sizes, multiply = {}, [], cuda_attention.multiply

    def noted(*args, **options):
        product = multiply(*args, **options)
        sizes.append(product.size)
        return product

    monkeypatch.setattr(cuda_attention, "multiply", noted)
    for is_causal in (False, True):
        cublas_calls.clear()
        run(attention((1, 6), 256, D=8, is_causal=is_causal), "fast", "cuda")
        flops[is_causal] = sum(m * n * k * batch for m, n, k, batch, _ in cublas_calls)
    assert flops[True] / flops[False] == (1 + 2 + 3 + 4) / 16
    assert max(sizes) == 256 * 64  # one head's: it fits in no tile with another's


# --- checks that can fail ---

MUTANTS = {  # module -> what is wrong: the right source and the wrong one
    cuda_attention: {
        "the diagonal is hidden": ("key <= query", "key < query"),
        "the mask is not looked at": ("(!HAS_MASK || mask[key])", "true"),
        "the mask of the first sequence": ("(long long)(head / heads_per_mask)", "0ll"),
        "a block's queries start at 0": ("row.query = first_query +", "row.query ="),
        "query head and query are mixed up": ("first_query + in_head / group", "first_query + in_head % tile_queries"),
        "the largest is not subtracted": ("largest = warp_max(largest);", "largest = 0;"),
        "a lane's sum": ("sum = warp_sum(sum);", ""),
        "not normalized": ("1 / sum", "1"),
        "the logarithm without the largest": ("largest + log(sum)", "log(sum)"),
        "one row too many": ("number < (long long)heads * rows", "number <= (long long)heads * rows"),
        "one key too many": ("key < columns", "key <= columns"),
        "softmax's sum is missing in backward": ("dot = warp_sum(dot) * inverse;", "dot = 0;"),
        "rows far from 0 are not normalized": ("inverse = 1 / warp_sum(sum);", ""),
        "the same logsumexp for all": ("logsumexp[row.saved];", "logsumexp[0];"),
        "dropout's bits of the next key": ("row.kept + key", "row.kept + key + 1"),
        "dropout's bits of another row": ("in_head / group % DROPOUT_ROWS)", "0)"),
        "dropout is not undone": ("ddropped[key] * kept_of - dot", "ddropped[key] - dot"),
    },
    one_query: {
        "no barrier before the warps' results are read": ("__syncthreads();", ""),
        "what was summed does not shrink": ("total * shrink", "total"),
        "the warps' largest scores are taken as one": (
            "sum += warp_weighted[w][d] * exp(warp_largest[w] - largest)",
            "sum += warp_weighted[w][d]",
        ),
        "half of the elements of a head": ("lane + 32 * i < D) score", "lane + 32 * i < D / 2) score"),
        "keys without gaps": ("k += head * k_head", "k += head * keys * D"),
        "a warp passes over keys": ("key += WARPS", "key += WARPS + 1"),
        "no scale": ("* scale : real(0)", ": real(0)"),
    },
}


@pytest.mark.parametrize(("module", "mutant"), [(module, mutant) for module in MUTANTS for mutant in MUTANTS[module]])
def test_planted_mistakes_are_found(module, mutant):
    with mistake_is_found(module, *MUTANTS[module][mutant]):
        if module is one_query:
            test_one_query(33, 80)
            test_one_query_reads_a_cache_where_it_lies()
        else:
            check(with_dropout("2 heads share 1, tiles", 0.3), "cuda")
            check(ATTENTION["padding"], "cuda")
            check(ATTENTION["equal scores far from 0"], "cuda", np.float32)
            test_scores_that_exp_cannot_hold()
