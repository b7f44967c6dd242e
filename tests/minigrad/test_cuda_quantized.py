"""Products with weights of 4 and 8 bits on a GPU: the kernels run in the emulation, on weights quantized in every way
that there is, against the floats that the codes stand for."""

import numpy as np
import pytest

from finetune.quantization.blocks import BlockArray
from finetune.quantization.nf4 import DYNAMIC_LEVELS, QuantizedScales, nf4
from finetune.quantization.rounding import absmax, zero_point
from minigrad.backend import to_device, to_numpy
from minigrad.kernels.cuda import quantized
from minigrad.kernels.cuda.quantized import MOST_ROWS, BlockMatrix, QuantizedMatrix, dequantize, times_quantized
from minigrad.precision import bfloat16
from tests.minigrad import kernel_checks
from tests.minigrad.kernel_checks import mistake_is_found

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]


def randn(*shape, seed=0):
    return kernel_checks.randn(*shape, seed=seed).astype(np.float32)


WEIGHTS = {
    "8 bits, a scale per row": lambda: absmax(randn(5, 8)),
    "8 bits, one scale": lambda: absmax(randn(33, 12), 8, 0),
    "8 bits, zeros, a scale per number": lambda: zero_point(randn(1, 4), 8, 1),
    "8 bits, zeros, one scale": lambda: zero_point(randn(9, 64) + 1, 8, 0),
    "4 bits, groups of 12": lambda: absmax(randn(7, 132), 4, 12),
    "4 bits, zeros, groups of 3": lambda: zero_point(randn(33, 96) + 0.5, 4, 3),
    "4 bits, a scale per row, zeros": lambda: zero_point(randn(3, 1028), 4),
    "nf4, double quantization": lambda: nf4(randn(9, 256), 64),
    "nf4, more scales than share a block": lambda: nf4(randn(70, 256), 32),
    "nf4, float scales": lambda: nf4(randn(9, 64), -1, double_quant=False),
}


def on_gpu(array):
    """A QuantizedArray's arrays, as the kernels want them."""
    scales, double = array.scales, None
    if isinstance(scales, QuantizedScales):
        double = tuple(to_device(x, "cuda") for x in (scales.codes, DYNAMIC_LEVELS, scales.offset))
        scales = scales.absmax
    others = (array.zeros, array.codebook if array.bits == 4 else None)
    return QuantizedMatrix(
        *[None if x is None else to_device(x, "cuda") for x in (array.codes, scales, *others)], double=double
    )


def check(name, batch):
    array = WEIGHTS[name]()
    weight, floats, x = on_gpu(array), array.dequantize(), randn(batch, array.shape[1], seed=1)
    assert weight.fits() and weight.shape == array.shape
    np.testing.assert_allclose(to_numpy(dequantize(weight)), floats, rtol=1e-6, atol=1e-7)
    out = times_quantized(to_device(x, "cuda"), weight)
    assert out.dtype == np.float32 and out.shape == (batch, len(floats))
    np.testing.assert_allclose(to_numpy(out), x @ floats.T, rtol=1e-5, atol=2e-5 * np.abs(floats).max())


@pytest.mark.parametrize("batch", [0, 1, 3, MOST_ROWS])
@pytest.mark.parametrize("name", WEIGHTS)
def test_equals_the_product_with_floats(name, batch):
    check(name, batch)


def test_floats_in_bfloat16():
    weight = on_gpu(WEIGHTS["nf4, double quantization"]())
    rounded = to_numpy(dequantize(weight).astype(bfloat16()))
    np.testing.assert_array_equal(to_numpy(dequantize(weight, bfloat16())), rounded)


@pytest.mark.parametrize("batch", [1, 3, MOST_ROWS])
@pytest.mark.parametrize("rows", [1, 31, 33])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_equal_the_product_with_floats(kind, rows, batch):
    rng, K = np.random.default_rng(rows), 32 * 9
    bits, zero = (8, 0) if kind == "Q8_0" else (4, 8 if kind == "Q4_0" else 0)
    codes = rng.integers(*((-128, 128) if bits == 8 else (0, 16)), (rows, K)).astype(np.int8 if bits == 8 else np.uint8)
    array = BlockArray(codes, randn(rows, 9), randn(rows, 9, seed=1) if kind == "Q4_1" else None, bits, zero)
    arrays = [None if a is None else to_device(a, "cuda") for a in (array.codes, array.scales, array.minimums)]
    weight, floats, x = BlockMatrix(*arrays, zero=zero), array.dequantize(), randn(batch, K)
    assert weight.fits() and weight.shape == array.shape
    out = times_quantized(to_device(x, "cuda"), weight)
    np.testing.assert_allclose(to_numpy(out), x @ floats.T, rtol=1e-4, atol=1e-4 * np.abs(floats).max())


@pytest.mark.parametrize(
    ("array", "fits"),
    [(absmax(randn(3, 8)), True), (absmax(randn(3, 6)), False), (absmax(randn(3, 6), 4), False)],
    ids=["8 columns", "6 columns", "6 columns of 4 bits"],
)
def test_rows_of_other_lengths_are_not_for_the_kernels(array, fits):
    assert on_gpu(array).fits() is fits


MUTANTS = {
    "the codes of a byte the wrong way round": ("pair & 15 : pair >> 4", "pair >> 4 : pair & 15"),
    "codes without a sign": ("(signed char)(codes", "(unsigned char)(codes"),
    "zeros are left out": ("level - groups.zeros[group]", "level"),
    "the offset of the scales is left out": ("+ *groups.scale_offset", ""),
    "the next block of scales": ("group / SCALES_PER_BLOCK", "(group + 1) / SCALES_PER_BLOCK"),
    "the group of the first of four": ("(4 * four + i) / GROUP_SIZE", "4 * four / GROUP_SIZE"),
    "one row too many": ("if (row >= rows) return;", "if (row > rows) return;"),
    "one thread too many": ("if (at >= (long long)rows * fours) return;", ""),
    "a lane's sum": ("warp_sum(sums[n])", "sums[n]"),
    "half of the columns": ("four < fours", "four < fours / 2"),
    "no barrier behind the codebook": ("__syncthreads();", ""),
    "the first vector for all": ("[n * fours + four]", "[four]"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_mistakes_are_found(mutant):
    with mistake_is_found(quantized, *MUTANTS[mutant]):
        check("4 bits, zeros, groups of 3", 3)
        check("nf4, more scales than share a block", 1)
        check("8 bits, a scale per row", 1)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("8 * i + j", "4 * j + i"),
        ("- ZERO", ""),
        ("+ minimum;", ";"),
        ("b < blocks && row < rows", "b < blocks"),
        ("n < BATCH && row < rows", "n < BATCH"),
        ("b += WARPS", "b += WARPS + 1"),
        ("__syncthreads();", ""),
    ],
)
def test_planted_mistakes_with_blocks_are_found(right, wrong):
    with mistake_is_found(quantized, right, wrong, "BLOCKS"):
        test_blocks_equal_the_product_with_floats("Q4_0", 33, 3)
        test_blocks_equal_the_product_with_floats("Q4_1", 33, 3)
