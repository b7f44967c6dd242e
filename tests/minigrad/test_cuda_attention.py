"""Attention on a GPU: the kernels run in the emulation, the products in the stand-in's cuBLAS, both called as on a GPU,
and the results are those of the textbook form on the CPU."""

from unittest import mock

import numpy as np
import pytest

from minigrad import autocast
from minigrad.functional import attention as functional_attention
from minigrad.kernels.cuda import attention as cuda_attention
from minigrad.precision import round_bfloat16
from tests.minigrad.kernel_checks import (
    ATTENTION,
    assert_close,
    attention,
    check,
    check_each_gradient_alone,
    run,
)

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small cases have several of each kind."""
    monkeypatch.setattr(cuda_attention, "QUERIES", 64)
    monkeypatch.setattr(cuda_attention, "TILE", 3 * 64 * 64)


# A GPU draws other random numbers than the CPU: see test_dropout.
@pytest.mark.parametrize("case", [case for case, (*_, how) in ATTENTION.items() if how.get("dropout_p", 0) in (0, 1)])
def test_equals_the_textbook(case):
    for dtype in (np.float32, np.float64):
        check(ATTENTION[case], "cuda", dtype)


def test_scores_that_exp_cannot_hold():
    op, (q, k, v), options = attention((1, 2), 9, is_causal=True)
    check((op, [q * 1e3, k * 1e3, v], options), "cuda")


def test_nan_is_not_hidden():
    op, (q, k, v), options = attention((1, 1), 5, is_causal=True)
    k[0, 0, 2] = np.nan
    out = run((op, [q, k, v], options), "fast", "cuda").arrays[0]
    assert np.isfinite(out[..., :2, :]).all() and np.isnan(out[..., 2:, :]).all()


def test_only_the_gradients_that_are_wanted_are_computed():
    check_each_gradient_alone(ATTENTION["padding"], "cuda")


def assert_near(found, expected):
    """To the rounding of operands to bfloat16."""
    for got, reference in zip(found, expected, strict=True):
        assert got.dtype == np.float32 and np.abs(got - reference).max() > 0
        np.testing.assert_allclose(got, reference, rtol=0, atol=2**-7 * np.abs(reference).max())


@pytest.mark.parametrize("case", ["tiles of queries", "2 heads share 1, tiles", "padding"])
def test_dropout(case):
    """Values that are one-hot show which weights are left. With these, the textbook's ops give the same gradients."""
    op, (q, k, v), options = ATTENTION[case]
    v = np.broadcast_to(np.eye(k.shape[-2]), (*k.shape[:-1], k.shape[-2])).copy()
    sample = op, [q, k, v], {**options, "dropout_p": 0.3}
    found = run(sample, "fast", "cuda").arrays
    probs = run((op, [q, k, v], options), "textbook").arrays[0]
    kept = (found[0] != 0) / 0.7
    assert 0.2 < (kept[probs > 0] == 0).mean() < 0.4
    np.testing.assert_allclose(found[0], probs * kept, rtol=1e-6)
    with mock.patch.object(functional_attention, "attention_dropout", lambda q, shape, *_: kept.reshape(shape)):
        assert_close(found, run(sample, "textbook").arrays, np.float64)
    with autocast():
        assert_near(run(sample, "fast", "cuda", np.float32).arrays, found)


@pytest.mark.parametrize("case", ["tiles of queries", "padding", "9 heads share 3"])
def test_mixed_precision_multiplies_bfloat16_arrays(case):
    op, inputs, options = ATTENTION[case]
    rounded = op, [round_bfloat16(x.astype(np.float32)) for x in inputs], options
    with autocast(), mock.patch.object(cuda_attention, "multiply", wraps=cuda_attention.multiply) as multiply:
        found = run(ATTENTION[case], "fast", "cuda", np.float32).arrays
    assert multiply.called
    assert_near(found, run(rounded, "textbook", dtype=np.float32).arrays)


# --- what it is for ---


def test_work_and_memory_of_a_causal_mask(cublas_calls, monkeypatch):
    """Nothing above the diagonal's tiles is multiplied, and no more than a tile of scores exists at a time."""
    flops = {}
    sizes = []
    multiply = cuda_attention.multiply

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
