"""GPTQ and AWQ on single layers: against the algorithm without its shortcuts, and against rounding to nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.quantization import absmax, output_error, search_scales
from finetune.quantization.awq import clipped
from finetune.quantization.gptq import gptq
from finetune.quantization.rounding import grid, round_to_nearest, to_levels


def layer(rows=12, columns=32, samples=400, seed=0):
    """A weight, and the gram of inputs that go together and differ in size, as those of a trained network do."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) * np.exp(rng.standard_normal(columns))
    inputs = rng.standard_normal((samples, columns)) @ mixing
    return rng.standard_normal((rows, columns)).astype(np.float32), inputs.T @ inputs, inputs


def one_column_at_a_time(weight, hessian, bits, group_size, symmetric, order, damping):
    """Optimal brain quantization in a fixed order (Frantar et al. 2022, equation 2), with an inverse per column."""
    columns = weight.shape[1]
    hessian = hessian + damping * np.diag(hessian).mean() * np.eye(columns)
    hessian = hessian[np.ix_(order, order)]
    left = weight[:, order].astype(np.float64)
    rounded = np.zeros_like(left)
    if group_size <= 0:
        scales, zeros = grid(left.reshape(1, -1) if group_size == 0 else left, bits, symmetric)
    for q in range(columns):
        if group_size > 0 and q % group_size == 0:
            scales, zeros = grid(left[:, q : q + group_size], bits, symmetric)
        levels = to_levels(left[:, q], scales, zeros, bits)
        rounded[:, q] = scales * (levels if zeros is None else levels - zeros)
        inverse = np.linalg.inv(hessian[q:, q:])
        left[:, q:] -= np.outer((left[:, q] - rounded[:, q]) / inverse[0, 0], inverse[0])
    out = np.empty_like(rounded)
    out[:, order] = rounded
    return out


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits, group_size, columns", [(4, 8, 32), (4, -1, 150), (8, 0, 20), (4, 50, 150)])
def test_gptq_is_the_algorithm_without_shortcuts(bits, group_size, columns, symmetric, act_order):
    weight, hessian, _ = layer(5, columns)
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(columns)
    expected = one_column_at_a_time(weight, hessian, bits, group_size, symmetric, order, 0.01)
    before = weight.copy(), hessian.copy()
    found = gptq(weight, hessian, bits, group_size, symmetric, act_order)
    assert (weight == before[0]).all() and (hessian == before[1]).all()  # nothing is written to the arguments
    np.testing.assert_allclose(found.dequantize(), expected, rtol=1e-5, atol=1e-6)
    assert (found.order is not None) == act_order and (found.zeros is None) == symmetric


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_loses_less_than_rounding_where_inputs_go_together(symmetric, act_order):
    ratios = []
    for seed in range(30):
        weight, hessian, _ = layer(16, 32, seed=seed)
        nearest = round_to_nearest(weight, 4, 16, symmetric).dequantize()
        found = gptq(weight, hessian, 4, 16, symmetric, act_order).dequantize()
        ratios.append(output_error(weight, found, hessian) / output_error(weight, nearest, hessian))
    assert max(ratios) < 1 and np.mean(ratios) < (0.5 if act_order else 0.7)


def test_the_output_error_is_that_of_the_outputs():
    weight, hessian, inputs = layer()
    rounded = absmax(weight, 4, 8).dequantize()
    expected = np.square(inputs @ (weight - rounded).T).sum() / np.square(inputs @ weight.T).sum()
    assert output_error(weight, rounded, hessian) == pytest.approx(expected, rel=1e-6)
    assert output_error(np.zeros((2, 2)), np.ones((2, 2)), np.eye(2)) == 0


def test_a_singular_hessian_is_damped_until_it_is_none():
    weight, _, _ = layer()
    few = np.random.default_rng(0).standard_normal((3, 32))  # 3 inputs for 32 columns
    hessian = few.T @ few
    exact = gptq(weight, hessian, 4, 8, damping=0.0).dequantize()
    nearest = absmax(weight, 4, 8).dequantize()
    assert np.isfinite(exact).all()
    assert output_error(weight, exact, hessian) < 0.3 * output_error(weight, nearest, hessian)


def test_inputs_that_are_always_zero_get_no_weight():
    weight, hessian, _ = layer()
    hessian[[3, 20]] = 0
    hessian[:, [3, 20]] = 0
    found = gptq(weight, hessian, 4, 8).dequantize()
    assert (found[:, [3, 20]] == 0).all() and np.isfinite(found).all() and (found != 0).any()
    assert (gptq(weight, np.zeros((32, 32)), 4, 8).dequantize() == 0).all()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w, h: (w, np.eye(32) - 2 * np.ones((32, 32)) + 2 * np.eye(32)), "not positive definite"),
        (lambda w, h: (w * np.inf, h), "the weight has numbers that are not finite"),
        (lambda w, h: (w[:, :31], h[:31, :31]), "cannot be paired"),
    ],
)
def test_bad_input_is_named(change, words):
    weight, hessian, _ = layer()
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=words):
        gptq(*change(weight, hessian), group_size=8)
    with pytest.raises(ValueError, match="group_size 5 does not divide rows of 32"):
        gptq(weight, hessian, group_size=5)


# --- AWQ ---


def rounding(weight):
    return absmax(weight, 4, 16)


def awq(weight, gram, inputs):
    return search_scales(weight, gram, np.abs(inputs).mean(axis=0), rounding)


@given(st.integers(0, 10**6))
def test_scales_never_lose_more_than_rounding_as_it_is(seed):
    weight, gram, inputs = layer(seed=seed)
    scales, alpha = awq(weight, gram, inputs)
    error = output_error(weight, rounding(weight * scales).dequantize() / scales, gram)
    assert error <= output_error(weight, rounding(weight).dequantize(), gram) and 0 <= alpha <= 1
    assert scales.shape == (32,) and (scales > 0).all()


def test_scales_protect_the_weights_of_large_inputs():
    weight, _, _ = layer()
    inputs = np.random.default_rng(1).standard_normal((300, 32))
    inputs[:, 7] *= 30
    gram = inputs.T @ inputs
    scales, alpha = awq(weight, gram, inputs)
    assert alpha > 0 and scales.argmax() == 7
    before = rounding(weight).dequantize()
    after = rounding(weight * scales).dequantize() / scales
    assert np.abs(after - weight)[:, 7].mean() < 0.5 * np.abs(before - weight)[:, 7].mean()
    assert output_error(weight, after, gram) < 0.5 * output_error(weight, before, gram)


def test_inputs_that_are_always_zero_have_scales_too():
    weight, gram, inputs = layer()
    inputs[:, 5] = 0
    assert np.isfinite(awq(weight, gram, inputs)[0]).all()
    scales, alpha = awq(weight, np.zeros_like(gram), np.zeros((1, 32)))
    assert (scales == 1).all() and alpha == 0


def test_clipping_never_loses_more_of_a_group():
    weight, gram, _ = layer()
    weight[:, 3] *= 3
    cut = clipped(weight, gram, rounding, 2)
    for group in (slice(0, 16), slice(16, 32)):
        own = gram[group, group]
        before, after = (output_error(weight[:, group], rounding(w).dequantize()[:, group], own) for w in (weight, cut))
        assert after <= before + 1e-12
    assert (np.abs(cut) <= np.abs(weight)).all() and (cut != weight).any()
