"""bfloat16: rounding bit by bit, and autocast, which rounds what goes through matrix products and nothing else."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Function, Tensor, autocast, nn, optim, switches
from minigrad.kernels.dispatch import FAST, textbook_functions, use_kernels
from minigrad.precision import bfloat16, round_bfloat16


def is_bfloat16(x):
    return x.dtype == np.float32 and not (np.ascontiguousarray(x).view(np.uint32) & 0xFFFF).any()


def randn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


# --- rounding ---


def test_every_bfloat16_is_rounded_as_ml_dtypes_does():
    """To even at ties, into the exponent, among denormals and to infinity; nan stays nan, whatever its bits."""
    pytest.importorskip("ml_dtypes", reason="a browser has none")
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    given = (np.arange(2**16, dtype=np.uint32)[:, None] << 16 | low).view(np.float32)
    with np.errstate(invalid="ignore"):  # nan
        rounded, expected = round_bfloat16(given), given.astype(bfloat16()).astype(np.float32)
    is_nan = np.isnan(given)
    assert_array_equal(rounded[~is_nan].view(np.uint32), expected[~is_nan].view(np.uint32))
    assert np.isnan(rounded[is_nan]).all() and is_bfloat16(rounded)


def test_rounding_of_any_layout():
    x = randn(6, 8)
    expected = round_bfloat16(x)
    assert_array_equal(round_bfloat16(x[::-1, ::2]), expected[::-1, ::2])
    assert_array_equal(round_bfloat16(x.T), expected.T)
    assert_array_equal(round_bfloat16(np.broadcast_to(x[:1], (3, 8))), expected[[0, 0, 0]])
    for shape in ((), (0,), (2, 0, 3)):
        assert round_bfloat16(np.ones(shape, np.float32)).shape == shape
    assert round_bfloat16(np.float32(3.14159265)) == 3.140625
    with pytest.raises(TypeError, match="round_bfloat16 takes float32, not float64"):
        round_bfloat16(np.zeros(2))
    before = x.copy()
    assert not np.shares_memory(round_bfloat16(x), x)
    assert_array_equal(x, before)


# --- autocast ---

PRODUCTS = {
    "matmul": (lambda x, w: x @ w, [(2, 3, 4), (4, 5)]),
    "linear": (F.linear, [(2, 3, 4), (5, 4), (5,)]),
    "einsum": (lambda x, w: F.einsum("bij,jk->bki", x, w), [(2, 3, 4), (4, 5)]),
    "attention": (F.scaled_dot_product_attention, [(2, 3, 4)] * 3),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_and_their_gradients_are_rounded(product, kernels):
    function, shapes = PRODUCTS[product]
    inputs = [Tensor(randn(*shape, seed=i), requires_grad=True) for i, shape in enumerate(shapes)]
    rounded = [Tensor(round_bfloat16(x.data), requires_grad=True) for x in inputs]
    with use_kernels(kernels):
        with autocast():
            out = function(*inputs)
        expected = function(*rounded)
    dout = randn(*out.shape, seed=9)
    out.backward(dout)  # outside of the block: a node keeps what it ran with
    expected.backward(round_bfloat16(dout))
    assert_array_equal(out.data, round_bfloat16(expected.data))
    for x, reference in zip(inputs, rounded):
        assert x.grad.dtype == np.float32 and not is_bfloat16(x.data)
        assert_array_equal(x.grad, round_bfloat16(reference.grad))


def test_nothing_else_is_rounded():
    x, double = Tensor(randn(4, 6), requires_grad=True), Tensor(randn(2, 3).astype(np.float64))
    weight, dout = Tensor(randn(6, seed=1)), randn(4, 6, seed=2)
    with autocast():
        same, product = x * 1.0, double @ double.T
        results = [same, F.softmax(x, -1), F.layer_norm(x, 6, weight), F.gelu(x), x.sum()]
        results += [F.cross_entropy(x, np.zeros(4, np.int64)), F.embedding(np.array([1, 2]), x)]
    for result in results:
        assert not is_bfloat16(result.data)
    same.backward(dout)
    assert_array_equal(x.grad, dout)
    assert_array_equal(product.data, double.data @ double.data.T)


def test_autocast_nests_and_ends_with_an_exception():
    x = Tensor(randn(3, 3))

    def rounds():
        return is_bfloat16((x @ x).data)

    assert not rounds()
    with autocast():
        assert rounds()
        with autocast(enabled=False):
            assert not rounds()
            with autocast():
                assert rounds()
        assert rounds()
        with pytest.raises(KeyError), autocast(enabled=False):
            raise KeyError
        assert rounds()
    assert not rounds() and switches.autocast.get() is None
    assert is_bfloat16(autocast()(lambda: x @ x)().data)  # as a decorator
    with pytest.raises(ValueError, match="autocast knows 'bfloat16' and 'tf32', not 'float16'"), autocast("float16"):
        pass


class LossyGelu(Function):
    """A fused kernel that cannot round in the middle."""

    @staticmethod
    def forward(ctx, x, weight, bias, approximate):
        raise AssertionError("would skip the rounding between the product and the gelu")


def test_a_fused_op_runs_as_its_parts():
    x, weight, bias = Tensor(randn(3, 4)), Tensor(randn(5, 4, seed=1)), Tensor(randn(5, seed=2))
    targets = np.array([0, 4, 2])
    with autocast():
        expected = F.gelu(F.linear(x, weight, bias), "tanh").data
        expected_loss = F.cross_entropy(F.linear(x, weight), targets).data
        with use_kernels("fast"), use_kernels({"linear_gelu": LossyGelu, "gelu": textbook_functions()["gelu"]}):
            assert_allclose(F.linear_gelu(x, weight, bias).data, expected, rtol=1e-5)
            assert_allclose(F.linear_cross_entropy(x, weight, targets).data, expected_loss, rtol=1e-6)


def test_kernels_are_still_found_after_autocast():
    x = Tensor(randn(2, 4), requires_grad=True)
    with autocast():
        F.linear(x, x)  # makes a rounding Linear, which must not be taken for the textbook's
    with use_kernels("fast"):
        assert F.linear(x, x).grad_fn.function is FAST["linear"]


class MLP(nn.Module):
    def __init__(self):
        self.up, self.norm, self.down = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x):
        return self.down(F.gelu(self.norm(self.up(x)), "tanh"))


def test_master_weights_stay_float32_and_take_small_steps():
    model = MLP()
    optimizer = optim.SGD(model.parameters(), lr=1e-5)
    for p in model.parameters():
        p.data[...] = 1.0
    with autocast():
        model(Tensor(randn(4, 6))).sum().backward()
    optimizer.step()
    bias = model.down.bias
    assert bias.dtype == bias.grad.dtype == np.float32
    assert (bias.data == np.float32(1) - np.float32(4e-5)).all()  # lost in bfloat16, whose next number is 0.996
