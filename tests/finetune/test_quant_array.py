"""Quantized matrices: packing, rounding to nearest, groups, and NF4 beside bitsandbytes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from finetune.quantization import absmax, zero_point
from finetune.quantization.array import pack, unpack
from finetune.quantization.nf4 import dynamic_levels, nf4, quantize_scales
from tests.finetune.small import GOLDEN, normal
from tests.gpt.small import golden_arrays


@pytest.fixture(scope="module")
def golden():
    return golden_arrays(GOLDEN / "nf4")


# --- codes ---


@given(st.integers(0, 5), st.integers(0, 9), st.integers(0, 2**32))
def test_unpacking_reverses_packing(rows, half, seed):
    codes = np.random.default_rng(seed).integers(0, 16, (rows, 2 * half)).astype(np.uint8)
    packed = pack(codes)
    assert packed.shape == (rows, half) and packed.dtype == np.uint8
    assert_array_equal(unpack(packed), codes)


def test_four_bits_are_half_a_byte_in_memory():
    weight = normal(64, 128)
    q = absmax(weight, bits=4, group_size=64)
    assert q.codes.nbytes == weight.size // 2 and absmax(weight).codes.nbytes == weight.size
    assert q.nbytes == weight.size // 2 + 64 * 2 * 4
    assert nf4(weight, double_quant=True).nbytes == weight.size // 2 + 64 * 2 + 4 + 4


@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([2, 4, 6]), st.sampled_from([4, 8]), st.booleans())
def test_rounding_is_off_by_at_most_half_a_step(rows, groups, size, bits, symmetric):
    weight = normal(rows, groups * size, seed=bits) * 10.0 ** np.arange(-3, rows - 3)[:, None].astype(np.float32)
    q = (absmax if symmetric else zero_point)(weight, bits, size)
    off = np.abs(q.dequantize() - weight).reshape(rows, groups, size)
    # with a zero-point, 0 is rounded to a level, and the ends of the range move by up to half a step
    assert (off <= (0.5 if symmetric else 1.0) * q.scales[..., None] * (1 + 1e-4)).all()
    assert q.dequantize().dtype == np.float32 and q.scales.shape == (rows, groups)


@pytest.mark.parametrize("method", [absmax, zero_point, nf4])
def test_zeros_stay_zeros(method):
    weight = normal(3, 64)
    weight[1] = 0
    weight[0, ::3] = 0
    options = {} if method is nf4 else {"bits": 4}
    for q in (method(weight, group_size=16, **options), method(weight, group_size=-1, **options)):
        values = q.dequantize()
        if method is not nf4 or isinstance(q.scales, np.ndarray):
            assert (values[1] == 0).all()
        assert (values[0, ::3] == 0).all() and np.isfinite(values).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e37, 1e38])
@pytest.mark.parametrize("method", [absmax, zero_point, nf4])
def test_extreme_numbers_stay_finite(method, scale):
    weight = np.array([[1.0, -1.0, 0.5, 0.0]], np.float32) * np.float32(scale)
    values = method(weight, group_size=4).dequantize()
    assert np.isfinite(values).all()
    if scale > 1e-40:
        assert_allclose(values, weight, atol=0.1 * scale)


OF_11_ROWS = [
    *(method(normal(11, 24), *how) for method in (absmax, zero_point) for how in itertools.product((4, 8), (-1, 0, 8))),
    *(nf4(normal(11, 24), group_size, double_quant=True) for group_size in (0, 8)),
]


@pytest.mark.parametrize("q", OF_11_ROWS)
def test_rows_are_rows_of_the_whole(q):
    whole = q.dequantize()
    assert_array_equal(q.dequantize_rows(slice(3, 8)), whole[3:8])
    picked = np.array([7, 0, 0, 10])
    assert_array_equal(q.dequantize_rows(picked), whole[picked])
    assert q.dequantize_rows(slice(0, 0)).shape == (0, 24)


@pytest.mark.parametrize(
    "values, options, words",
    [
        (normal(2, 6), {"bits": 3}, "3 bits are not supported; choose 8 or 4"),
        (normal(2, 6), {"group_size": 4}, "group_size 4 does not divide rows of 6; use a divisor"),
        (normal(2, 5), {"bits": 4}, "rows of 5 cannot be paired; use 8 bits"),
        (normal(2, 3, 4), {}, r"must be a matrix of floats, got float32 of shape \(2, 3, 4\)"),
        (np.arange(6).reshape(2, 3), {}, "must be a matrix of floats, got int64"),
        (np.array([[1.0, np.inf]]), {}, "not finite"),
        (normal(0, 4), {}, "only matrices with numbers in them are quantized"),
    ],
)
def test_bad_input_is_named(values, options, words):
    for method in (absmax, zero_point):
        with pytest.raises(ValueError, match=words):
            method(values, **options)


# --- NF4 ---


def test_codes_and_values_are_those_of_bitsandbytes(golden):
    q = nf4(golden["weight"], double_quant=False)
    assert_array_equal(q.codes, golden["codes"])
    assert_array_equal(q.scales, golden["scales"])
    assert_allclose(q.dequantize()[:8], golden["values"], rtol=2e-6, atol=1e-7)


def test_double_quantization_is_that_of_bitsandbytes(golden):
    assert_allclose(dynamic_levels(), golden["scale_levels"], rtol=0, atol=1e-7)
    q = nf4(golden["weight"], double_quant=True)
    assert_array_equal(q.codes, golden["codes"])
    assert_allclose(q.scales.absmax, golden["scale_absmax"], rtol=1e-6)
    assert_allclose(q.scales.offset, golden["scale_offset"], rtol=1e-6)
    # The two tables differ in last bits, so that a number in the middle of two levels may go to either.
    different = np.abs(q.scales.codes.astype(int) - golden["scale_codes"])
    assert different.max() <= 1 and (different > 0).mean() < 0.01
    same_rows = (different == 0)[:8].all(axis=1)
    assert_allclose(q.dequantize()[:8][same_rows], golden["nested_values"][same_rows], rtol=1e-5, atol=1e-6)


def test_scales_survive_eight_bits():
    scales = np.abs(normal(40, 20, seed=1)) + 0.1
    q = quantize_scales(scales)
    assert_allclose(q.rows(), scales, atol=0.01 * np.abs(scales - scales.mean()).max() * 2)
    assert_array_equal(q.rows(slice(7, 9)), q.rows()[7:9])
    assert_array_equal(q.rows(np.array([39, 3])), q.rows()[[39, 3]])
    assert q.absmax.shape == (4,)  # 800 scales in blocks of 256
    assert_allclose(quantize_scales(np.full((1, 3), 0.5, np.float32)).rows(), 0.5)
