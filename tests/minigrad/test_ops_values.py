"""The ops beside their gradients: dtypes, NumPy's warnings, randomness, what is kept for backward, and erf."""

import math
import sys
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad
import minigrad.functional as F
from minigrad import Tensor, use_kernels
from minigrad.functional.error_function import erf_of_array as erf

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


WEIGHT, ZEROS = Tensor([0.5, 2.0]), np.zeros(300_000, int)  # of two channels or classes, the first of which is right
# What adds up the n rows of x (n, 2), forward or backward; to compare, w (2) is an input, too.
SUMS = {
    "sum": lambda x, w: F.sum(x, 0),
    "mean": lambda x, w: F.mean(x, 0),
    "var": lambda x, w: F.var(x, 0),
    "logsumexp": lambda x, w: F.logsumexp(x, 0),
    "softmax": lambda x, w: F.softmax(x, 0),
    "cumsum": lambda x, w: F.cumsum(x, 0),
    "amax": lambda x, w: F.amax(x * 0 + w, 0),
    "layer_norm of all": lambda x, w: F.layer_norm(x, x.shape),
    "rms_norm of all": lambda x, w: F.rms_norm(x, x.shape, eps=1e-5),
    "layer_norm": lambda x, w: F.layer_norm(x, 2, w, w),
    "rms_norm": lambda x, w: F.rms_norm(x, 2, w, 1e-5),
    "linear": lambda x, w: F.linear(x, F.reshape(w, (2, 1)) * w, w),
    "linear_gelu": lambda x, w: F.linear_gelu(x, F.reshape(w, (2, 1)) * w, w),
    "matmul": lambda x, w: x.T @ x,
    "einsum": lambda x, w: F.einsum("nc,c->n", x, w),
    "einsum of rows": lambda x, w: F.einsum("nc->c", x),
    "broadcasting": lambda x, w: (x + w) * w,
    "expand": lambda x, w: F.expand(w, x.shape),
    "embedding": lambda x, w: F.embedding(ZEROS[: len(x)], F.reshape(w, (1, 2))),
    "getitem": lambda x, w: w[ZEROS[: len(x)]],
    "gather": lambda x, w: F.gather(w, 0, ZEROS[: len(x)]),
    "attention": lambda x, w: F.scaled_dot_product_attention(F.reshape(w, (1, 2)), x[:70_000], x[:70_000]),
    "mse_loss": lambda x, w: F.mse_loss(x, x * 0),
    "cross_entropy": lambda x, w: F.cross_entropy(x, ZEROS[: len(x)]),
    "cross_entropy, class weights": lambda x, w: F.cross_entropy(x, ZEROS[: len(x)], WEIGHT.to(x.dtype)),
    "cross_entropy, smoothed": lambda x, w: F.cross_entropy(x, ZEROS[: len(x)], label_smoothing=0.5),
    "linear_cross_entropy": lambda x, w: F.linear_cross_entropy(x, F.reshape(w, (2, 1)) * w, ZEROS[: len(x)]),
    "nll_loss": lambda x, w: F.nll_loss(x, ZEROS[: len(x)]),
    "kl_div": lambda x, w: F.kl_div(-x, Tensor(x.data / 2), "batchmean"),
    "binary_cross_entropy": lambda x, w: F.binary_cross_entropy_with_logits(x, x * 0),
}


@pytest.mark.parametrize("dtype, n, rtol", [("float16", 70_000, 4e-3), ("float32", 300_000, 5e-4)])
@pytest.mark.parametrize("name", SUMS)
def test_sums_of_many_numbers(name, dtype, n, rtol, kernels):
    """Results and gradients beside those in float64: along the first axis NumPy adds one number after the other."""
    x, w = np.resize(np.array([0.1, 0.4, 0.2, 0.3], dtype), (n, 2)), np.array([0.75, 0.5], dtype)
    found = {}
    for precision in (dtype, "float64"):
        inputs = [Tensor(array.astype(precision), requires_grad=True) for array in (x, w)]
        with use_kernels(kernels):
            out = SUMS[name](*inputs)
            dout = np.resize(np.array([0.3, 0.1, 0.4], dtype), out.shape)
            dout *= 1 if n in out.shape else 500  # not too small for float16
            out.backward(dout.astype(precision))
        found[precision] = [out.data, *(p.grad for p in inputs if p.grad is not None)]
    rtol *= 10 if sys.platform == "emscripten" else 1  # without a BLAS, products add up one after the other
    for ours, expected in zip(found[dtype], found["float64"], strict=True):
        assert ours.dtype == dtype
        atol = rtol * np.abs(expected).max() + (6e-8 if dtype == "float16" else 0)  # its smallest number
        assert_allclose(ours, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    "op",
    [
        *(F.gelu, F.var, lambda x: F.gelu(x, "tanh"), lambda x: F.swiglu(x, x * 0 + 1), lambda x: F.logsumexp(x, 0)),
        *(lambda x: F.layer_norm(x, 4), lambda x: F.rms_norm(x, 4, eps=1e-5)),
        lambda x: F.linear_gelu(x, Tensor(np.eye(4)).to(x.dtype)),
    ],
)
def test_squares_and_powers_do_not_overflow_in_float16(op, kernels):
    x = np.array([[-12, 300, 20, 70], [-300, 2, 1, -5]], np.float16)
    found = {}
    for dtype in ("float16", "float64"):
        tensor = Tensor(x.astype(dtype), requires_grad=True)
        with use_kernels(kernels):
            out = op(tensor) / 100
            out.backward(np.ones(out.shape, dtype))
        found[dtype] = out.data, tensor.grad
    for ours, expected in zip(found["float16"], found["float64"]):
        assert_allclose(ours, expected, rtol=2e-3, atol=1e-5)


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dropout(dtype):
    x = Tensor(np.ones((200, 500), dtype), requires_grad=True)
    out = F.dropout(x, 0.3)
    kept = out.data != 0
    assert abs(kept.mean() - 0.7) < 0.01
    assert (out.data[kept] == dtype(1 / 0.7)).all()
    q, k, v = (Tensor(x.astype(dtype)) for x in (np.zeros((400, 1, 4)), np.zeros((400, 5, 4)), np.eye(5)))
    for kernels in ("textbook", "fast"):
        with use_kernels(kernels):
            dropped = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3).data
        assert abs((dropped != 0).mean() - 0.7) < 0.05
        assert_allclose(dropped[dropped != 0], 0.2 / 0.7, rtol=np.finfo(dtype).eps)
    out.backward(np.ones(x.shape, dtype))
    assert_array_equal(x.grad, out.data)  # the same elements, in the same scale

    assert not np.array_equal(F.dropout(x, 0.3).data, out.data)
    minigrad.manual_seed(1)
    first = F.dropout(x, 0.3).data
    minigrad.manual_seed(1)
    assert_array_equal(F.dropout(x, 0.3).data, first)

    assert F.dropout(x, 0.3, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert not F.dropout(x, 1.0).data.any()


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
    expected = np.array([math.erf(value) for value in x]).astype(np.float32)
    assert erf(x).dtype == np.float32
    assert_array_equal(erf(x.reshape(50, 100).T[::-2]), expected.reshape(50, 100).T[::-2])


def test_erf_of_special_numbers():
    x = np.array([NAN, INF, -INF, 0.0, -0.0, 5e-324, -5e-324, 1e-310])
    assert_array_equal(erf(x), [math.erf(value) for value in x])
    assert math.copysign(1, erf(np.array(-0.0))) == -1
    assert erf(np.array(0.3)).shape == () and erf(np.zeros((0, 3))).shape == (0, 3)
