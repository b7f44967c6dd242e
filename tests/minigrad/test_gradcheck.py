"""gradcheck passes what is right at any shape, fails what is wrong, and says clearly when it cannot tell."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Function, Tensor, autocast, manual_seed, no_grad
from minigrad.gradcheck.check import gradcheck
from minigrad.gradcheck.report import GradcheckError, band


class Twice(Function):
    """2x, with a gradient that can be spoilt at the elements where `at` is True."""

    @staticmethod
    def forward(ctx, x, error=0.0, at=True):
        ctx.error, ctx.at = error, at
        return 2 * x

    @staticmethod
    def backward(ctx, dout):
        return (dout * (2 + ctx.error * ctx.at),)


class ReluWith(Function):
    """relu, with a derivative of our choice at 0 and an error elsewhere."""

    @staticmethod
    def forward(ctx, x, at_zero, error):
        ctx.slope = np.where(x == 0, at_zero, x > 0) + error * (x != 0)
        return np.maximum(x, 0)

    @staticmethod
    def backward(ctx, dout):
        return (dout * ctx.slope,)


def random(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape)


def fails(fn, inputs, kind=None, **options):
    with pytest.raises(GradcheckError) as caught:
        gradcheck(fn, inputs, **options)
    if kind is not None:
        assert caught.value.diagnosis.kind == kind, str(caught.value)
    return caught.value


# What the report and the error say


def test_report_of_a_right_gradient():
    report = gradcheck(F.mul, [random(2, 3), random(3)])
    assert report.max_error < 1e-7
    assert band(report.max_error) == "right"
    assert [(x.name, x.shape, x.checked) for x in report.inputs] == [
        ("input 0 (x)", (2, 3), "6 elements"),
        ("input 1 (y)", (3,), "3 elements"),
    ]
    assert str(report).startswith("gradcheck of mul: largest relative error")
    assert report.inputs[0].numeric.shape == (6, 2, 3)
    assert_allclose(report.inputs[0].analytic, report.inputs[0].numeric, atol=1e-8)


def test_error_of_a_wrong_gradient():
    at = np.array([[False, False, True], [False, False, False]])
    error = fails(lambda n, x: (n, Twice.apply(x, error=1.0, at=at)), [random(2, 2), random(2, 3)])
    assert "d output 1[0, 2] / d input 1 (x)[0, 2] is 2 by central differences, and 3 by backward" in str(error)
    assert "(relative error 3.3e-01: wrong)" in str(error)
    assert "wrong: 1 of 6 elements of input 1 (x); right: input 0 (n)" in str(error)
    assert isinstance(error, AssertionError) and error.input_index == 1


@pytest.mark.parametrize("error", [1e-4, -1e-3, 0.1, 1e3])
def test_errors_of_any_size_are_found(error):
    fails(lambda x: Twice.apply(x, error=error), random(3, 4))
    fails(lambda x: Twice.apply(x, error=error), random(3, 4), method="complex")


def test_every_element_of_the_jacobian_counts():
    """Errors that cancel in the sum over the outputs are found."""

    class Cancelling(Function):
        forward = staticmethod(lambda ctx, x: 2 * x)
        backward = staticmethod(lambda ctx, dout: (2 * dout + np.array([1, -1]) * (dout[0] - dout[1]),))

    fails(Cancelling.apply, random(2))


def test_bands():
    bands = {2.0: "wrong", 1e-3: "suspicious", 1e-5: "high, unless there are kinks", 1e-9: "right", 0.0: "right"}
    assert {error: band(error) for error in bands} == bands and band(float("nan")) == "wrong"


class TwiceSum(Function):
    """The sum of 2x, with a gradient of which a function of dout is the factor."""

    @staticmethod
    def forward(ctx, x, of_dout, dim):
        ctx.shape = x.shape
        ctx.of_dout = of_dout
        ctx.dim = dim
        return 2 * x.sum(axis=dim)

    @staticmethod
    def backward(ctx, dout):
        dx = 2 * ctx.of_dout(dout)
        return (np.broadcast_to(dx if ctx.dim is None else np.expand_dims(dx, ctx.dim), ctx.shape),)


@pytest.mark.parametrize("dim", [None, 0, 1], ids=["a number", "one element", "two elements"])
@pytest.mark.parametrize(
    "of_dout, words",
    [
        (np.abs, "does not follow the sign"),
        (lambda dout: np.where(dout < 0, 3 * dout, dout), "does not follow the sign"),
        (lambda dout: np.clip(dout, -10, 10), "for some sizes of dout only"),
        (lambda dout: np.where(np.abs(dout) < 1e-3, 0, dout), "for some sizes of dout only"),
        (lambda dout: dout**2, "twice the dout must give twice the gradient"),
    ],
)
def test_backward_must_be_linear_in_dout(of_dout, words, dim):
    x = random(2, 1) if dim == 0 else random(2, 3)
    gradcheck(lambda x: TwiceSum.apply(x, of_dout=lambda dout: dout, dim=dim), x)
    assert words in str(fails(lambda x: TwiceSum.apply(x, of_dout=of_dout, dim=dim), x, "upstream"))


# What must pass: (fn, x, the places of its kinks). With a wrong gradient added, the same must fail.


def log_1_plus_exp(x):
    return F.log(1 + F.exp(-x))


RIGHT = {
    # saturated: the output may lie far below the rounding error of the values inside, as ln(1 + e^-40) is 0
    **{f"cross_entropy at {x}": (lambda x: F.cross_entropy(x, np.array([0])), [[x, 0, 0]]) for x in (33, 1000)},
    "ln(1 + e^-40)": (log_1_plus_exp, [40]),
    "ln(1 + e^-49)": (lambda x: log_1_plus_exp(x * x), [7]), "gelu at -8": (F.gelu, [-8]),
    "tanh gelu at -5": (lambda x: F.gelu(x, "tanh"), [-5]),
    "tanh gelu at -7.5": (lambda x: F.gelu(x, "tanh"), [-7.5]), "tanh": (F.tanh, [20]), "sigmoid": (F.sigmoid, [40]),
    "softmax": (lambda x: F.softmax(x, 1), [[40, 0, 0]]), "logsumexp": (lambda x: F.logsumexp(x, 1), [[40, 0, 0]]),
    "log_softmax": (lambda x: F.log_softmax(x, 1), [[40, 0, 0]]),
    "binary cross-entropy": (lambda x: F.binary_cross_entropy_with_logits(x, Tensor(np.ones(1))), [40]),
    # kinks
    "relu": (F.relu, [0, 1, -1], (0,)), "abs": (F.abs, [0, 1, 0, -1], (0,), (2,)),
    "max of an axis": (lambda x: F.max(x, 0)[0], [1, 3, 2, 3], (1,), (3,)), "max": (F.max, [1, 3, 2, 3], (1,), (3,)),
    "clip": (lambda x: F.clip(x, -1, 1), [-1, 0.5, 1], (0,), (2,)),
    "maximum": (lambda x: F.maximum(x, 2.0), [2, 3, 1], (0,)),
    "a kink in a sum": (lambda x: F.sum(F.relu(x) * 3 + x * x), [0, 1, -1], (0,)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes_and_what_is_added_fails(name):
    fn, x, *kinks = RIGHT[name]
    x = np.array(x, float)
    report = gradcheck(fn, x)
    assert [kink.element for kink in report.kinks] == kinks and ("kink at input 0" in str(report)) == bool(kinks)
    fails(lambda x: F.sum(fn(x)) + Twice.apply(x, error=1e-3), x)


SCALES = [F.exp, F.sigmoid, F.softplus, *(lambda x, s=s: F.tanh(x / 40) * s for s in (1e-12, 1e-9, 1e9))]


@pytest.mark.parametrize("fn", SCALES)
def test_a_small_or_large_output_excuses_nothing(fn):
    x = np.array([-50.0])
    gradcheck(fn, x)
    fails(lambda x: Twice.apply(fn(x), error=0.01), x)


# Inputs


def test_inputs_that_ask_are_checked_and_the_others_are_not():
    asks, other = Tensor(random(3), requires_grad=True), Tensor(random(3))
    assert [x.name for x in gradcheck(F.mul, [other, asks]).inputs] == ["input 1 (y)"]
    assert len(gradcheck(F.mul, [other, Tensor(random(3))]).inputs) == 2


def test_integers_and_anything_else_are_passed_through():
    ids, targets, logits = np.array([[0, 2], [2, 2]]), np.array([0, 4, 4, 1]), random(4, 5)
    gradcheck(F.embedding, [ids, random(3, 2)])
    gradcheck(lambda x, targets, how: F.cross_entropy(x, targets, reduction=how), [logits, targets, "sum"])
    gradcheck(F.where, [random(2, 3) > 0, random(2, 3), 2.0])


def test_float32_is_raised_and_said_so():
    report = gradcheck(F.tanh, Tensor(random(3).astype(np.float32)))
    assert report.max_error < 1e-7
    assert report.notes == ["input 0 (x) is float32: it was checked in float64"]


def test_one_tensor_given_twice_is_one_variable():
    x = Tensor(random(3))
    report = gradcheck(F.mul, [x, x])
    assert len(report.inputs) == 1
    assert_allclose(report.inputs[0].analytic.sum(0), 2 * x.data)


def test_outputs_that_do_not_depend_on_an_input():
    gradcheck(lambda x, y: (x * 2, Tensor(np.ones(2))), [random(2), random(3)])
    gradcheck(lambda x: Tensor(np.ones(2)), random(2))


def test_nothing_of_the_callers_is_changed():
    x, weight, other = Tensor(random(3), requires_grad=True), Tensor(random(3), requires_grad=True), random(3)
    before, gradient = x.data.copy(), np.ones(3)
    weight.grad = gradient
    gradcheck(lambda x, y: Twice.apply(x) * weight + y, [x, Tensor(other)])
    with pytest.raises(ZeroDivisionError):  # from fn
        gradcheck(lambda x: 1 / 0, x)
    fails(lambda x, y: Twice.apply(x, error=1.0) * weight + y, [x, Tensor(other)])
    assert x.grad is None
    assert weight.grad is gradient
    assert gradient.tolist() == [1, 1, 1]
    assert_array_equal(x.data, before)
    assert_array_equal(other, random(3))


def test_writing_to_an_input_is_found_and_does_no_harm():
    class InPlace(Function):
        forward = staticmethod(lambda ctx, x: x.__imul__(2))
        backward = staticmethod(lambda ctx, dout: (2 * dout,))

    x = random(3)
    assert "fn writes to its inputs" in str(fails(InPlace.apply, x, "in place"))
    assert_array_equal(x, random(3))


def test_recorded_and_not_rounded_whatever_is_switched_on():
    with no_grad(), autocast():
        assert gradcheck(F.matmul, [random(2, 3), random(3, 4)]).max_error < 1e-7
        fails(lambda x: Twice.apply(x, error=1.0), random(3))


def test_random_numbers_go_on_as_if_nothing_had_happened():
    manual_seed(5)
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    gradcheck(F.tanh, random(3))
    assert np.random.random() == expected


def test_the_memory_layout_reaches_fn_as_it_is():
    x = random(4, 3).T
    seen = set()

    def fn(x):
        seen.add(x.data.strides)
        return F.softmax(x, 0) * x

    gradcheck(fn, x)
    assert x.strides in seen


# Large functions


def test_large_outputs_are_mixed():
    gradcheck(F.tanh, random(20, 20))
    at = np.zeros((20, 20), bool)
    at[3, 4] = True
    error = fails(lambda x: Twice.apply(x, error=1.0, at=at), random(20, 20))
    assert "d (a random mixture of output) / d input 0 (x)[3, 4] is" in str(error)


def test_large_inputs_are_moved_in_directions():
    assert gradcheck(lambda x: F.mean(F.tanh(x)), random(60, 50)).inputs[0].checked == "6 directions"
    at = np.zeros((60, 50), bool)
    at[31, 7] = True
    error = fails(lambda x: F.sum(Twice.apply(x, error=-4.0, at=at)), random(60, 50))
    assert "d input 0 (x)[31, 7] is 2 by central differences" in str(error)
    error = fails(lambda x: F.sum(Twice.apply(x, error=-4.0)), random(60, 50), "sign")
    assert "wrong: 6 of 6 directions of input 0 (x)" in str(error)


def test_a_large_function_with_kinks():
    x = random(60, 50)
    x[::7] = 0
    assert gradcheck(lambda x: F.relu(x) + x, x).kinks
    x[3:] = np.abs(x[3:]) + 1  # few kinks: all of them can be isolated
    x[:3] = np.arange(-75, 75).reshape(3, 50)
    assert len(gradcheck(F.relu, x).kinks) == 1
    error = fails(lambda x: ReluWith.apply(x, at_zero=0, error=0.5 * (np.arange(3000) == 1234).reshape(60, 50)), x)
    assert "d input 0 (x)[24, 34] is" in str(error)


# Kinks


@pytest.mark.parametrize("x", [[0.0, 0.0], [0.0, 1e-7], [0.0, 1.0]])
@pytest.mark.parametrize("fn", [lambda x: F.relu(x) ** 2, lambda x: F.abs(x) * x])
def test_a_second_derivative_that_jumps_is_no_error(fn, x):
    gradcheck(fn, np.array(x))
    fails(lambda x: fn(x) + Twice.apply(x, error=1e-3) - 2 * x, np.array(x))


@pytest.mark.parametrize("distance", [1e-5, 3e-7, 6.1e-8, 2.0**-24, 5.8e-8, 1e-12])
@pytest.mark.parametrize("side", [-1, 1])
def test_beside_a_kink(distance, side):
    x = np.array([distance * side, 2.0])
    gradcheck(F.relu, x)
    gradcheck(lambda x: F.sum(F.abs(x)), x)
    fails(lambda x: F.relu(x) + x.detach(), x)


@pytest.mark.parametrize("slope", [0, 1e-3, 0.3, 0.999, 1])
def test_any_slope_between_both_sides_is_allowed_at_a_kink(slope):
    gradcheck(lambda x: ReluWith.apply(x, at_zero=slope, error=0), np.array([0.0, 1, -1]))
    alone = gradcheck(lambda x: ReluWith.apply(x, at_zero=slope, error=0), np.zeros(3))
    assert "every element is at a kink" in str(alone)  # which proves little


@pytest.mark.parametrize("slope", [-1e3, -1.1e-3, 1.0011, 2])
def test_no_other_slope_is_allowed_at_a_kink(slope):
    error = fails(lambda x: ReluWith.apply(x, at_zero=slope, error=0), np.array([0.0, 1, -1]), "partial")
    assert "d input 0 (x)[0] is" in str(error) and "it is wrong at kinks only" in str(error)


@pytest.mark.parametrize("error", [2e-3, -0.5, 1e3])
def test_a_kink_excuses_nothing_elsewhere(error):
    x = np.array([0.0, 1, -1, 0.5])
    fails(lambda x: ReluWith.apply(x, at_zero=0.5, error=error), x)
    fails(lambda x: F.sum(ReluWith.apply(x, at_zero=0.5, error=error)), x)


SMOOTH = [F.exp, F.tanh, F.sigmoid, lambda x: x * x * x, lambda x: F.softmax(x, 0), lambda x: F.sum(x * x * 10)]


@given(
    fn=st.sampled_from(SMOOTH),
    x=hnp.arrays(np.float64, st.integers(1, 5), elements=st.floats(-3, 3)),
    error=st.floats(-10, 10).filter(lambda error: abs(error) > 1e-2),
)
def test_a_wrong_gradient_is_never_taken_for_a_kink(fn, x, error):
    assert not gradcheck(fn, x).kinks
    fails(lambda x: fn(x) + Twice.apply(x, error=error), x)


def test_a_jump_is_no_kink():
    class Step(Function):
        forward = staticmethod(lambda ctx, x: (x > 0).astype(x.dtype))
        backward = staticmethod(lambda ctx, dout: (0 * dout,))

    gradcheck(Step.apply, np.array([1.0, -1.0]))
    fails(Step.apply, np.array([0.0]))


# What cannot be checked


class Nan(Function):
    forward = staticmethod(lambda ctx, x: x * 3)
    backward = staticmethod(lambda ctx, dout: (dout * np.nan,))


@pytest.mark.parametrize(
    "fn, x, words",
    [
        (F.log, [1.0, -1.0], "output[1] is nan; choose inputs inside fn's domain"),
        (F.sqrt, [1.0, 0.0], "not finite right beside input 0 (x)[1] = 0, at the edge of its domain"),
        (Nan.apply, [1.0, 2.0], "backward gives nan for input 0 (x)[0] = 1, where differences give 3"),
        (lambda x: x**1.5, [0.0, 1.0], "not finite right beside input 0 (x)[0] = 0, at the edge of its domain"),
    ],
)
def test_what_is_not_finite_is_named_with_its_place(fn, x, words):
    assert words in str(fails(fn, np.array(x), "non-finite"))


@pytest.mark.parametrize("fn", [F.log, F.sqrt])
def test_close_to_the_edge_smaller_steps_help(fn):
    gradcheck(fn, np.array([1e-6, 1.0]))


def test_masked_outputs_at_minus_infinity_do_not_change():
    mask = np.array([True, False, False])
    gradcheck(lambda x: F.masked_fill(x, mask, -np.inf), random(3))
    fails(lambda x: F.masked_fill(Twice.apply(x, error=1.0), mask, -np.inf), random(3), "factor")


def test_random_functions_are_found():
    assert "call manual_seed(0) inside fn" in str(fails(lambda x: F.dropout(x, 0.5), random(3, 4), "non-deterministic"))

    def seeded(x):
        manual_seed(0)
        return F.dropout(x, 0.5)

    gradcheck(seeded, random(3, 4))


@pytest.mark.parametrize(
    "fn, x, options, error, message",
    [
        (F.tanh, np.arange(3), {}, ValueError, "no input is a floating-point tensor"),
        (F.tanh, random(3) + 1j, {}, TypeError, "input 0 .* is complex"),
        (F.tanh, random(3), {"method": "forward"}, ValueError, "method must be 'central' or 'complex', got 'forward'"),
        (lambda x: 1.0, random(3), {}, TypeError, "must return a Tensor or a tuple of Tensors, it returned float"),
        (lambda x: x > 0, random(3), {}, TypeError, "fn returns no floating-point Tensor"),
        (lambda x: x.to(np.float32), random(3), {}, TypeError, r"fn turns float64 into float32.*look for a \.to\(\)"),
    ],
)
def test_what_is_not_for_gradcheck(fn, x, options, error, message):
    with pytest.raises(error, match=message):
        gradcheck(fn, x, **options)


def test_an_exception_in_backward_comes_through_with_its_place():
    class Raising(Function):
        forward = staticmethod(lambda ctx, x: x * 3)
        backward = staticmethod(lambda ctx, dout: (dout @ np.ones((7, 7)),))

    with pytest.raises(ValueError, match="matmul") as caught:
        gradcheck(Raising.apply, random(2, 3))
    assert "raised in backward" in caught.value.__notes__[0]


# The complex step


@pytest.mark.parametrize(
    "fn",
    [F.exp, F.tanh, F.sigmoid, F.silu, lambda x: F.softmax(x, 1), lambda x: F.layer_norm(x, 4), lambda x: F.var(x, 1)],
)
def test_complex_step_is_exact(fn):
    report = gradcheck(fn, random(3, 4), method="complex")
    assert report.method == "complex"
    assert report.max_error < 1e-12
    assert not report.notes


def test_slopes_that_cancel_leave_rounding_and_no_disagreement():
    assert not gradcheck(lambda x: F.sum(F.softmax(x, 1), 1), random(3, 4), method="complex").notes


def test_complex_step_falls_back_where_an_op_is_not_analytic():
    report = gradcheck(F.abs, random(3), method="complex")
    assert report.method == "central"
    assert "an op of fn is not analytic: central differences were used" in report.notes[0]

    class Halving(Function):  # throws the imaginary part away
        forward = staticmethod(lambda ctx, x: x.astype(np.float64) / 2)
        backward = staticmethod(lambda ctx, dout: (dout / 2,))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = gradcheck(Halving.apply, random(3), method="complex")
    assert report.method == "central"
    assert "does not take complex numbers" in report.notes[0]
