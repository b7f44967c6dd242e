"""Quantized layers on a GPU (the stand-in, the kernels emulated) give what they give on the CPU."""

import numpy as np
import pytest

from finetune.quantization import on_gpu
from finetune.quantization.array import QuantizedArray
from finetune.quantization.nf4 import nf4
from finetune.quantization.quantized_layers import QuantizedLinear
from finetune.quantization.rounding import absmax, zero_point
from minigrad import Tensor, nn, no_grad, use_kernels
from minigrad.backend import to_device, to_numpy
from tests.cuda_emulation import cublas
from tests.finetune.small import normal
from tests.finetune.test_quant_blocks import KINDS, block_array

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
ORDER = np.random.default_rng(0).permutation(64)


def reordered():
    plain = zero_point(normal(33, 64), 4, 16)
    return QuantizedArray(plain.levels(), plain.scales, plain.zeros, 4, None, ORDER)


ARRAYS = {
    "8 bits": lambda: absmax(normal(33, 64)),
    "4 bits with zeros": lambda: zero_point(normal(33, 64), 4, 16),
    "nf4, double quantization": lambda: nf4(normal(33, 64)),
    "columns in another order": reordered,
    **{kind: lambda kind=kind: block_array(kind, 33, 2)[0] for kind in KINDS},
}


def run(name, rows, device, kernels="fast", dtype=np.float32):
    layer = QuantizedLinear(ARRAYS[name](), nn.Parameter(normal(33, seed=3))).to(device).to(dtype)
    x = Tensor(normal(*rows, 64, seed=4), dtype=dtype, device=device, requires_grad=True)
    with use_kernels(kernels):
        out = layer(x)
        out.backward(to_device(normal(*out.shape, seed=5).astype(dtype), device))
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
    x = Tensor(normal(1, 1, 64), device="cuda")
    with no_grad(), use_kernels("fast"):
        layer(x)  # what is needed once is brought to the GPU
        cuda.reset()
        cublas.calls.clear()
        layer(x)
    assert not cublas.calls
    assert cuda.synchronisations == cuda.to_host == cuda.to_device == 0
