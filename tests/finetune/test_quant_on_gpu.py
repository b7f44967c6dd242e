"""Quantized layers on a GPU (the stand-in, the kernels emulated) give what they give on the CPU."""

import numpy as np
import pytest

from finetune.quantization import on_gpu
from finetune.quantization.array import QuantizedArray
from finetune.quantization.blocks import BlockArray
from finetune.quantization.nf4 import nf4
from finetune.quantization.quantized_layers import QuantizedLinear
from finetune.quantization.rounding import absmax, zero_point
from minigrad import Tensor, nn, no_grad, use_kernels
from minigrad.backend import to_device, to_numpy
from tests.cuda_emulation import cublas

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
ORDER = np.random.default_rng(0).permutation(64)


def randn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def blocks(bits, zero, minimums):
    codes = np.random.default_rng(bits).integers(0, 16, (33, 64)).astype(np.uint8 if bits == 4 else np.int8)
    return BlockArray(codes, randn(33, 2), randn(33, 2, seed=1) if minimums else None, bits, zero)


def reordered():
    plain = zero_point(randn(33, 64), 4, 16)
    return QuantizedArray(plain.levels(), plain.scales, plain.zeros, 4, None, ORDER)


ARRAYS = {
    "8 bits": lambda: absmax(randn(33, 64)),
    "4 bits with zeros": lambda: zero_point(randn(33, 64), 4, 16),
    "nf4, double quantization": lambda: nf4(randn(33, 64)),
    "columns in another order": reordered,
    "Q8_0": lambda: blocks(8, 0, False),
    "Q4_0": lambda: blocks(4, 8, False),
    "Q4_1": lambda: blocks(4, 0, True),
}


def run(name, rows, device, kernels="fast", dtype=np.float32):
    layer = QuantizedLinear(ARRAYS[name](), nn.Parameter(randn(33, seed=3))).to(device).to(dtype)
    x = Tensor(randn(*rows, 64, seed=4), dtype=dtype, device=device, requires_grad=True)
    with use_kernels(kernels):
        out = layer(x)
        out.backward(to_device(randn(*out.shape, seed=5).astype(dtype), device))
    return [to_numpy(y) for y in (out.data, x.grad, layer.bias.grad)]


@pytest.mark.parametrize("rows", [(1, 1), (8,), (3, 5), (0,)])
@pytest.mark.parametrize("name", ARRAYS)
def test_equals_the_cpu(name, rows):
    for found, expected in zip(run(name, rows, "cuda"), run(name, rows, "cpu", "textbook"), strict=True):
        assert found.shape == expected.shape and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1))


@pytest.mark.parametrize(("kernels", "dtype"), [("textbook", np.float32), ("fast", np.float64)])
@pytest.mark.parametrize("name", ARRAYS)
def test_without_kernels_it_is_computed_as_on_the_cpu(name, kernels, dtype, monkeypatch):
    monkeypatch.setattr(on_gpu, "times_quantized", None)
    monkeypatch.setattr(on_gpu, "multiply", None)
    expected = run(name, (2, 3), "cpu", "textbook", dtype)
    for found, reference in zip(run(name, (2, 3), "cuda", kernels, dtype), expected, strict=True):
        np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("name", ARRAYS)
def test_a_token_costs_one_reading_of_the_codes_and_no_waiting(name, cuda):
    layer = QuantizedLinear(ARRAYS[name]()).to("cuda")
    x = Tensor(randn(1, 1, 64), device="cuda")
    with no_grad(), use_kernels("fast"):
        layer(x)  # what is needed once is brought to the GPU
        cuda.reset()
        cublas.calls.clear()
        layer(x)
    assert not cublas.calls
    assert cuda.synchronisations == cuda.to_host == cuda.to_device == 0
