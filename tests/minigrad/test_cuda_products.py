"""Products on a GPU: cuBLAS's arguments, which an emulation takes literally; the linear layer; precision."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Tensor, autocast, switches, use_kernels
from minigrad.autograd import Context
from minigrad.backend import module_of, to_device, to_numpy
from minigrad.functional.linalg import Matmul
from minigrad.kernels.cuda.products import multiply
from minigrad.precision import bfloat16, round_bfloat16
from tests.minigrad.kernel_checks import SAMPLES, randn, run

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]


def on_gpu(x, layout="rows"):
    """x as it would lie in memory after a transposition, or as a part of something larger."""
    if layout == "columns":
        return to_device(np.ascontiguousarray(x.swapaxes(-1, -2)), "cuda").swapaxes(-1, -2)
    if layout == "part of rows":  # lines are further apart than they are long
        return to_device(np.concatenate([x, x], axis=-1), "cuda")[..., : x.shape[-1]]
    if layout == "every second column":
        return to_device(np.repeat(x, 2, axis=-1), "cuda")[..., ::2]
    return to_device(x, "cuda")


LAYOUTS = ["rows", "columns", "part of rows", "every second column"]
SIZES = [((), 3, 4, 5), ((2,), 3, 4, 5), ((3,), 31, 33, 65)]
SIZES += [((2,), 1, 1, 1), ((), 1, 7, 1), ((), 5, 1, 3), ((2,), 4, 3, 1)]


def check_product(lead, M, K, N, dtype, x_layout, y_layout):
    x, y = randn(*lead, M, K).astype(dtype), randn(*lead, K, N, seed=1).astype(dtype)
    out = multiply(on_gpu(x, x_layout), on_gpu(y, y_layout), scale=0.5)
    assert out.dtype == dtype
    assert_allclose(to_numpy(out), 0.5 * (x @ y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_multiply_reads_every_layout(size):
    for how in itertools.product([np.float32, np.float64], LAYOUTS, LAYOUTS):
        check_product(*size, *how)


def test_multiply_adds_to_a_part_of_an_array():
    whole, x, y = randn(3, 6, 5), randn(3, 2, 4), randn(3, 4, 5)
    out = to_device(whole, "cuda")
    assert multiply(to_device(x, "cuda"), to_device(y, "cuda"), out=out[:, 1:3], scale=2.0, add=True) is not None
    expected = whole.copy()
    expected[:, 1:3] += 2 * (x @ y)
    assert_allclose(to_numpy(out), expected)


def test_multiply_of_nothing():
    xp = module_of(to_device(np.zeros(1), "cuda"))
    ones, *empty = xp.ones((2, 3), np.float32), xp.zeros((2, 0), np.float32), xp.zeros((0, 3), np.float32)
    assert not to_numpy(multiply(*empty, out=ones.copy())).any()
    assert to_numpy(multiply(*empty, out=ones, add=True)).all()
    assert multiply(xp.zeros((0, 4)), xp.zeros((4, 3))).shape == (0, 3)


def test_multiply_says_what_does_not_fit():
    x, y = (to_device(randn(3, 3).astype(dtype), "cuda") for dtype in (np.float32, np.float64))
    with pytest.raises(TypeError, match="float32 @ float64 cannot be written to float32"):
        multiply(x, y)
    with pytest.raises(TypeError, match="float32 @ float32 cannot be written to float64"):
        multiply(x, x, out=y)
    with pytest.raises(TypeError, match=r"cannot be written to float32 with strides \(4, 12\)"):
        multiply(x, x, out=x.copy().T)


def test_bfloat16_is_summed_in_float32():
    x, y = (round_bfloat16(randn(7, 9).astype(np.float32)) for _ in range(2))
    out = multiply(*(to_device(z, "cuda").astype(bfloat16()) for z in (x, y.T)))
    assert out.dtype == np.float32
    assert_allclose(to_numpy(out), x @ y.T, rtol=1e-6, atol=1e-6)


# --- the linear layer ---


def test_products_of_float16_are_refused():
    with pytest.raises(TypeError, match="products on a GPU are of float32, float64, bfloat16, not float16"):
        multiply(*[to_device(np.ones((2, 2), np.float16), "cuda")] * 2)


@pytest.mark.parametrize("name", ["linear", "linear of a vector"])
def test_linear_in_mixed_precision(name):
    op, (x, weight, bias), options = SAMPLES[name]
    rounded = [round_bfloat16(z.astype(np.float32)) for z in (x, weight)]
    expected = run((op, [*rounded, bias], options), "textbook").arrays
    with autocast():
        found = run(SAMPLES[name], "fast", "cuda", np.float32).arrays
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == np.float32
        assert_allclose(a, b, rtol=0, atol=2**-7 * max(1, np.abs(b).max()))


def test_frozen_weights_cost_no_products(cublas_calls):
    x, weight = Tensor(randn(4, 5), device="cuda", requires_grad=True), Tensor(randn(3, 5), device="cuda")
    with use_kernels("fast"):
        out = F.linear(x, weight)
        cublas_calls.clear()
        out.sum().backward()
    assert len(cublas_calls) == 1
    assert x.grad.shape == (4, 5) and weight.grad is None


def test_a_vocabulary_of_odd_size_is_filled_up(cublas_calls):
    x, weight = (Tensor(randn(n, 8), device="cuda", requires_grad=True) for n in (4, 33))
    with use_kernels("fast"):
        F.linear_cross_entropy(x, weight, to_device(np.array([0, 32, 5, 5]), "cuda")).backward()
    assert [sorted(call[:3]) for call in cublas_calls] == [[4, 8, 40]] * 3
    assert weight.grad.shape == (33, 8) and weight.grad.flags.owndata


# --- leading axes ---


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 0, 5), (2, 3, 4, 5)])
def test_one_matrix_on_the_right_makes_one_matrix_of_the_left(shape, monkeypatch):
    """A batch of products would be slow on a GPU, and CuPy has none for bfloat16."""
    x, weight, dout = randn(*shape), randn(5, 3, seed=1), randn(*shape[:-1], 3, seed=2)
    array = type(to_device(x, "cuda"))
    axes = []
    matmul = array.__matmul__
    monkeypatch.setattr(array, "__matmul__", lambda x, y: axes.append(max(x.ndim, y.ndim)) or matmul(x, y))
    ctx = Context()
    out = Matmul.forward(ctx, *[to_device(z, "cuda") for z in (x, weight)])
    dx, dweight = Matmul.backward(ctx, to_device(dout, "cuda"))
    assert axes and max(axes) == 2
    assert_allclose(to_numpy(out), x @ weight)
    assert_allclose(to_numpy(dx), dout @ weight.T)
    assert_allclose(to_numpy(dweight), x.reshape(-1, 5).T @ dout.reshape(-1, 3), atol=1e-12)


# --- precision ---


def test_tf32_is_asked_for_in_the_block_only(cublas_calls):
    x = Tensor(randn(4, 5), dtype=np.float32, device="cuda", requires_grad=True)
    with use_kernels("fast"):
        F.linear(x, x)
        with autocast("tf32"):
            out = F.linear(x, x)
            with autocast("tf32", enabled=False):
                F.linear(x, x)
            out.sum().backward()
        F.linear(x.to(np.float64), x.to(np.float64))
    assert [compute for *_, compute in cublas_calls] == [68, 77, 68, 77, 77, 70]
    assert switches.tf32.get() is False
    exact = to_numpy(x.data) @ to_numpy(x.data).T
    assert 0 < np.abs(to_numpy(out.data) - exact).max() < 2**-10 * np.abs(exact).max()


def test_tf32_changes_nothing_on_the_cpu():
    x = Tensor(randn(4, 5), dtype=np.float32)
    with autocast("tf32"):
        inside = x @ x.T
    assert_array_equal(inside.data, (x @ x.T).data)


def test_precisions_do_not_add_up():
    with autocast():
        with autocast("tf32"):
            assert switches.tf32.get() and switches.autocast.get() is None
        assert not switches.tf32.get() and switches.autocast.get() is not None


def test_linear_keeps_half_as_much_in_mixed_precision():
    x, weight = (Tensor(randn(4, 5), dtype=np.float32, device="cuda", requires_grad=True) for _ in range(2))
    with use_kernels("fast"), autocast():
        saved = F.linear(x, weight).grad_fn.saved()
    assert saved["x"].dtype == saved["weight"].dtype == bfloat16()
