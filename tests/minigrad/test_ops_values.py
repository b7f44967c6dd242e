"""The ops beside their gradients: dtypes, NumPy's warnings, randomness, what is kept for backward, and erf."""

import math
import warnings

import numpy as np
import pytest

import minigrad
import minigrad.functional as F
from minigrad import Tensor, use_kernels
from minigrad.functional.activation import erf_of_array as erf

INF, NAN = math.inf, math.nan


# --- dtypes ---


@pytest.mark.parametrize("op", [F.add, F.sub, F.mul, F.div, F.pow, F.maximum, F.minimum, F.clip])
@pytest.mark.parametrize("number", [2, 2.5, True, np.float64(2.5), np.int64(2), np.float32(2.5)])
@pytest.mark.parametrize("shape", [(3,), ()])
def test_a_number_never_widens(op, number, shape):
    x = Tensor(np.ones(shape, np.float32))
    assert op(x, number).dtype == np.float32
    if op is not F.clip:
        assert op(number, x).dtype == np.float32
        assert op(Tensor(np.ones(shape, np.int32)), 2).dtype == (np.float32 if op is F.div else np.int32)


def test_an_array_without_dimensions_does_not_widen_one_with():
    x, double = Tensor(np.ones(3, np.float32)), Tensor(np.array(2.0))
    assert (x * double).dtype == (double * x).dtype == np.float32
    assert F.where(Tensor(np.ones(3, bool)), x, np.float64(0)).dtype == np.float32
    assert F.where(np.ones(3, bool), 1.0, 0.0).dtype == np.float32
    assert F.where(np.ones(3, bool), 1, 0).dtype == np.int64


def test_integers():
    x = Tensor(np.array([1, 2, 3], np.uint8))
    for whole in (x, x.to(np.int32), x > 0):
        assert F.sum(whole).dtype == F.cumsum(whole, 0).dtype == F.prod(whole).dtype == np.int64
    for index in (F.argmax(x), F.min(x, 0).indices, F.sort(x).indices, F.topk(x, 1).indices):
        assert index.dtype == np.int64
    assert F.sum(Tensor(np.ones(3, bool))).item() == 3
    assert F.exp(x).dtype == F.softmax(x, 0).dtype == F.dropout(x, 0.1).dtype == (x / x).dtype == np.float32
    assert F.max(x).dtype == F.relu(x).dtype == F.abs(x).dtype == np.uint8
    assert F.masked_fill(x, x > 1, 7.9).data.tolist() == [1, 7, 7]
    assert not F.max(x, 0).indices.requires_grad


def test_names_and_order_of_arguments():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert F.sum(x, dim=1, keepdim=True).shape == F.sum(x, 1, True).shape == (2, 1)
    assert F.min(x, 0, keepdim=True).values.shape == (1, 3)
    assert F.cat(tensors=[x, x], dim=-1).shape == (2, 6)
    assert [p.shape for p in F.split(x, split_size_or_sections=2, dim=1)] == [(2, 2), (2, 1)]
    assert F.pad(x, pad=(1, 1), mode="constant", value=1.0).shape == (2, 5)
    assert F.layer_norm(x, normalized_shape=[3], eps=1e-3).shape == (2, 3)
    assert F.tril(x, diagonal=-1).data.tolist() == [[0, 0, 0], [3, 0, 0]]


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
def test_many_numbers_of_little_precision(kernels):
    """Along all axes but the last, NumPy would add one number after the other."""
    tenths, ones = np.full((2**20, 2), 0.1, np.float32), np.ones((5000, 2), np.float16)
    with use_kernels(kernels):
        for op in (F.mean, lambda x, dim: F.sum(x, dim) / len(x.data), lambda x, dim: F.var(x * 10 + x, dim) + 0.1):
            np.testing.assert_allclose(op(Tensor(tenths), 0).data, 0.1, rtol=1e-6)
        assert F.sum(ones, 0).data.tolist() == [5000, 5000] and F.mean(np.ones(10**5, np.float16)).item() == 1
        np.testing.assert_allclose(F.cumsum(tenths, 0).data[-1], tenths.sum(0, np.float64), rtol=1e-6)
        bias = Tensor(np.zeros(2, np.float16), requires_grad=True)
        (ones + bias).backward(ones)
        assert bias.grad.tolist() == [5000, 5000] and bias.grad.dtype == np.float16
        gate, up = np.array([-12, -13], np.float16), np.array([1e4, 3e4], np.float16)
        np.testing.assert_allclose(F.swiglu(gate, up).data, [-0.737, -0.882], rtol=3e-3)


# --- NumPy's warnings ---


def test_no_warnings_where_there_is_nothing_to_see():
    """Where PyTorch gives nan, and so beside the cases of test_ops_golden.py."""
    hidden = np.array([[0.0, -INF], [-INF, -INF]])
    q, none = (Tensor(np.ones(shape), requires_grad=True) for shape in ((2, 3), (0, 3)))
    with warnings.catch_warnings(), np.errstate(divide="raise", over="raise", invalid="raise"):
        warnings.simplefilter("error")
        F.logsumexp(Tensor(hidden, requires_grad=True), 1).backward(np.ones(2))
        for key, mask in ((q, hidden), (q, hidden == 0), (none, None)):
            F.scaled_dot_product_attention(q, key, key, mask).sum().backward()


# --- what is kept for backward ---


@pytest.mark.parametrize("op", [F.mul, F.div, F.pow, F.matmul, F.linear, lambda x, y: F.einsum("ij,kj->ik", x, y)])
def test_a_frozen_operand_costs_nothing(op):
    """For d out / d x only y is needed, and no gradient of y is computed."""
    x, y = Tensor(np.full((3, 3), 2.0), requires_grad=True), Tensor(np.full((3, 3), 3.0))
    out = op(x, y)
    returned = out.grad_fn.function.backward(out.grad_fn, np.ones((3, 3)))
    assert returned[0] is not None and all(other is None for other in returned[1:])
    if op in (F.mul, F.div, F.matmul, F.linear):
        assert not any(value is x.data or value is out.data for value in out.grad_fn.saved().values())


# --- randomness ---


def test_dropout():
    x = Tensor(np.ones((200, 500), np.float32), requires_grad=True)
    out = F.dropout(x, 0.3)
    kept = out.data != 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(out.data[kept], 1 / 0.7, rtol=1e-6)
    out.backward(np.ones(x.shape, np.float32))
    np.testing.assert_array_equal(x.grad, out.data)  # the same elements, in the same scale

    assert not np.array_equal(F.dropout(x, 0.3).data, out.data)
    minigrad.manual_seed(1)
    first = F.dropout(x, 0.3).data
    minigrad.manual_seed(1)
    np.testing.assert_array_equal(F.dropout(x, 0.3).data, first)

    assert F.dropout(x, 0.3, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert not F.dropout(x, 1.0).data.any()


def test_attention_dropout_keeps_the_expected_value():
    q = Tensor(np.zeros((50, 1, 64)))
    values = Tensor(np.ones((50, 64, 4)))
    k = Tensor(np.zeros((50, 64, 64)))
    out = F.scaled_dot_product_attention(q, k, values, dropout_p=0.4).data
    assert abs(out.mean() - 1) < 0.03 and out.std() > 0.05


# --- erf ---


def ulps_from_libm(x):
    expected = np.array([math.erf(value) for value in x])
    return np.abs(erf(x).view(np.int64) - expected.view(np.int64)).max()


def test_erf_is_right_to_rounding():
    rng = np.random.default_rng(0)
    assert ulps_from_libm(rng.uniform(0, 6.5, 20_000)) <= 1
    assert ulps_from_libm(10 ** rng.uniform(-323, 1, 20_000)) <= 1
    assert ulps_from_libm(-rng.uniform(0, 6.5, 2_000)) <= 1
    edges = np.arange(0, 6.5, 1 / 16)  # between two entries of the table
    assert ulps_from_libm(np.concatenate([edges, np.nextafter(edges, 9), np.nextafter(edges, -9)])) <= 1


def test_erf_of_float32():
    x = np.random.default_rng(0).normal(size=5_000).astype(np.float32) * 3
    assert erf(x).dtype == np.float32
    np.testing.assert_array_equal(erf(x), np.array([math.erf(value) for value in x]).astype(np.float32))
    np.testing.assert_array_equal(erf(x[::-2]), erf(x)[::-2])
    np.testing.assert_array_equal(erf(x.reshape(50, 100).T), erf(x).reshape(50, 100).T)


def test_erf_of_special_numbers():
    x = np.array([NAN, INF, -INF, 0.0, -0.0, 5e-324, -5e-324, 1e-310])
    np.testing.assert_array_equal(erf(x), [math.erf(value) for value in x])
    assert math.copysign(1, erf(np.array(-0.0))) == -1
    assert erf(np.array(0.3)).shape == () and erf(np.zeros((0, 3))).shape == (0, 3)
