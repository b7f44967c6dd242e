"""Layers with quantized weights: the product, its gradient, how little memory it takes, and LLM.int8()'s split."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from finetune.quantization import QuantizedEmbedding, QuantizedLinear, absmax, int8_product, outlier_columns, zero_point
from finetune.quantization import quantized_layers as module
from finetune.quantization.array import QuantizedArray
from finetune.quantization.gptq import gptq
from finetune.quantization.nf4 import nf4
from finetune.quantization.rounding import relative_error
from minigrad import Tensor, autocast, nn, use_kernels
from minigrad.precision import round_bfloat16
from tests.finetune.small import dequantized, normal
from tests.helpers import peak_below


def reordered(weight):
    inputs = normal(50, weight.shape[1], seed=5) * np.arange(1, weight.shape[1] + 1)
    return gptq(weight, inputs.T @ inputs, 4, 4, act_order=True)


QUANTIZERS = {
    "int8 row": absmax,
    "int8 array": lambda w: absmax(w, 8, 0),
    "int8 groups": lambda w: absmax(w, 8, 4),
    "int8 zero-point": zero_point,
    "int4 groups": lambda w: absmax(w, 4, 4),
    "int4 zero-point": lambda w: zero_point(w, 4, 4),
    "nf4": lambda w: nf4(w, 4, double_quant=False),
    "nf4 double": lambda w: nf4(w, 4, double_quant=True),
    "nf4 row double": lambda w: nf4(w, -1, double_quant=True),
    "gptq act-order": reordered,
}


@pytest.mark.parametrize("tile", [1, 30, 10**6])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_product_is_that_of_the_dequantized_weight(quantizer, tile, kernels, monkeypatch):
    monkeypatch.setattr(QuantizedArray, "in_one_piece", 0)
    monkeypatch.setattr(module, "TILE", tile)  # numbers of the weight at a time: a row, some rows, all of it
    layer = QuantizedLinear(QUANTIZERS[quantizer](normal(7, 12)), nn.Parameter(normal(7, seed=2)))
    layer.to(np.float64)
    plain = dequantized(layer)
    dout = normal(2, 3, 7, seed=4).astype(np.float64)
    results = []
    use_kernels(kernels)
    for linear in (layer, plain):
        linear.bias.grad = None
        x = Tensor(normal(2, 3, 12, seed=3).astype(np.float64), requires_grad=True)
        out = linear(x)
        out.backward(dout)
        results.append((out.data, x.grad, layer.bias.grad))
    for found, expected in zip(*results, strict=True):
        assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_floats_of_the_weight_never_exist_at_once(kernels, monkeypatch):
    monkeypatch.setattr(QuantizedArray, "in_one_piece", 0)
    monkeypatch.setattr(module, "TILE", 16 * 1024)
    use_kernels(kernels)
    layer = QuantizedLinear(absmax(normal(2048, 512), 4, 64))
    x = Tensor(normal(1, 512), requires_grad=True)
    whole = 2048 * 512 * 4
    layer(x)  # makes the table of what pairs of bytes stand for: 1 MiB, once for all weights
    with peak_below(whole / 5):
        layer(x).sum().backward()


def test_in_mixed_precision_what_goes_in_and_out_is_rounded(kernels):
    layer = QuantizedLinear(nf4(normal(7, 12), 4))
    weight, dout = layer.weight.dequantize(), normal(3, 7, seed=4)
    x = Tensor(normal(3, 12, seed=3), requires_grad=True)
    with use_kernels(kernels), autocast():
        out = layer(x)
        out.backward(dout)
    expected = round_bfloat16(x.data) @ weight.T, round_bfloat16(dout) @ weight
    for found, exact in zip((out.data, x.grad), expected, strict=True):
        assert_array_equal(found, round_bfloat16(found))
        assert_allclose(found, exact, rtol=2**-8)


def test_embedding_and_output_layer_share_one_array():
    table = absmax(normal(11, 6))
    embedding, head = QuantizedEmbedding(table), QuantizedLinear(table)
    ids = np.array([[3, 3, 0], [10, 1, 2]])
    assert_array_equal(embedding(ids).data, table.dequantize()[ids])
    assert_array_equal(embedding(Tensor(ids)).data, embedding(ids).data)
    hidden = normal(2, 6)
    assert_allclose(head(Tensor(hidden)).data, hidden @ table.dequantize().T, atol=1e-5)
    for wrong in (-1, 11):
        with pytest.raises(IndexError, match="outside 0..10 of the vocabulary"):
            embedding(np.array([wrong]))


# --- LLM.int8() ---


def test_outliers_ruin_the_naive_product_and_not_the_split_one():
    """One feature, 60 times as large in every token, as in large language models."""
    x, weight = normal(64, 128), normal(32, 128, seed=1)
    exact = x @ weight.T
    assert relative_error(int8_product(x, weight, np.inf), exact) < 0.02
    x[:, 17] = 60 + normal(64, seed=2)
    weight[:, 17] *= 0.05  # which the model has learned to use with care
    exact = x @ weight.T
    naive, split = (relative_error(int8_product(x, weight, threshold), exact) for threshold in (np.inf, 6.0))
    assert outlier_columns(x).tolist() == [17]
    assert naive > 0.1 and split < 0.02


def test_the_split_product_is_exact_if_all_are_outliers():
    x = normal(3, 4) + 100
    weight = normal(5, 4)
    assert_array_equal(int8_product(x, weight), x @ weight.T)
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match="x has numbers that are not finite"):
        int8_product(x, weight)


def test_the_integer_product_is_one_of_integers():
    x, weight = normal(9, 1000), normal(4, 1000, seed=1)
    x8, weight8 = absmax(x), absmax(weight)
    exact = x8.codes.astype(np.int64) @ weight8.codes.astype(np.int64).T
    assert_allclose(int8_product(x, weight, np.inf), exact * (x8.scales * weight8.scales.T), rtol=1e-6)
