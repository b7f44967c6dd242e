"""detect_anomaly(): stops where a NaN is made, names this file's line, and is silent about masks."""

import inspect

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, nn, switches
from minigrad.inspection import AnomalyError, detect_anomaly, memory, profile

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own remark about each NaN


def leaf(values):
    return Tensor(values, requires_grad=True)


def here(offset):
    """How a message names the line `offset` below the one that calls this."""
    return f"{__file__}:{inspect.currentframe().f_back.f_lineno + offset}, in "


def caught(run):
    """The message of the AnomalyError that `run` raises in anomaly mode."""
    with pytest.raises(AnomalyError) as error, detect_anomaly():
        run()
    return str(error.value)


# --- where a NaN comes from ---

DATA = "had it, and no op of the block made it (data? a parameter?)"
GIVEN = "had it, and no op of the block made it (passed to backward(), or a sum that overflowed)"


def test_forward_names_op_place_values_and_line():
    x = leaf([[1.0, 2.0], [3.0, -1.0]])
    with pytest.raises(RuntimeError) as error, detect_anomaly():
        y = x * 1.0
        line = here(1)
        F.log(y)
    assert str(error.value).splitlines() == [
        "Log made nan in forward",
        "  out (2, 2) float32: 1 of 4 elements, the first at [1, 1]",
        "  there: x -1",
        "  Log(x (2, 2) float32) -> (2, 2) float32",
        f"  called at {line}test_forward_names_op_place_values_and_line",
        "      F.log(y)",
    ]


@pytest.mark.parametrize(
    "run, what",
    [
        (lambda: leaf([0.0]).log(), "Log made inf in forward"),
        (lambda: leaf([0.0]) / 0.0, "Div made nan in forward"),
        (lambda: Tensor(np.array([1e300])).to(np.float32), "To made inf in forward"),  # without a graph
        (lambda: F.cross_entropy(leaf([[1.0, 2.0]]), np.array([-100])), "CrossEntropy made nan in forward"),
        (lambda: leaf([np.inf]) * leaf([0.0]), "Mul made nan in forward, of the infinity in x"),
        (lambda: F.softmax(leaf([-np.inf, -np.inf]), 0), "Softmax made nan in forward, of the infinity in x"),
        (lambda: (F.sqrt(leaf([0.0])) * 0.0).sum().backward(), "Sqrt made nan in backward"),  # 0 / (2 * 0)
        # what was there before is no fault of the op
        (lambda: F.linear(Tensor([[np.nan]]), leaf([[1.0]])), f"nan reached Linear in forward: x {DATA}"),
        (lambda: F.linear(Tensor([[1.0]]), leaf([[np.nan]])), f"nan reached Linear in forward: weight {DATA}"),
        (lambda: leaf([1.0]).exp().backward(np.float32([np.nan])), f"nan reached Exp in backward: dout {GIVEN}"),
    ],
)
def test_what_an_op_makes_of_finite_numbers_must_be_finite(run, what):
    assert caught(run).splitlines()[0] == what


def test_the_line_is_the_users_and_not_that_of_a_module():
    layer = nn.Linear(2, 2)
    layer.weight.data[...] = 3e38
    x = Tensor(np.full((1, 2), 3e38, np.float32))
    with pytest.raises(AnomalyError, match="Linear made inf in forward") as in_module, detect_anomaly():
        line = here(1)
        nn.Sequential(layer, nn.GELU())(x)
    assert f"called at {line}" in str(in_module.value)
    with pytest.raises(AnomalyError, match="Mul made inf") as in_loss, detect_anomaly():
        line = here(1)
        F.mse_loss(leaf([1e30]), Tensor([0.0]))
    assert f"called at {line}" in str(in_loss.value)


# --- no false alarm ---


def test_masks_are_no_anomaly():
    time = 4
    causal = np.tri(time, dtype=bool)
    additive = np.where(causal, 0, -np.inf).astype(np.float32)
    rng = np.random.default_rng(0)
    q, k, v = (leaf(rng.normal(0, 1, (2, time, 3)).astype(np.float32)) for _ in range(3))
    with detect_anomaly():
        scores = q @ k.transpose(1, 2)
        outs = [
            F.softmax(F.masked_fill(scores, ~causal, -np.inf), -1),
            F.softmax(F.where(causal, scores, -np.inf), -1),
            F.softmax(scores + additive, -1),
            F.logsumexp(scores + additive, -1),
            F.max(scores + additive, -1)[0],
            F.softmax(F.pad(scores, (0, 2), value=-np.inf), -1),
            F.where(causal, F.log_softmax(scores + additive, -1), 0.0),
            F.scaled_dot_product_attention(q, k, v, is_causal=True),
            F.cross_entropy(F.masked_fill(leaf([[1.0, 2.0]]), np.array([[False, True]]), -np.inf), np.array([0])),
        ]
        for mask in (causal, additive, np.zeros((time, time), bool)):
            outs.append(F.scaled_dot_product_attention(q, k, v, Tensor(mask)))
        sum(out.sum() for out in outs).backward()
    for tensor in (q, k, v):
        assert np.isfinite(tensor.grad).all()


# --- backward ---


def test_backward_names_the_line_of_forward():
    x = leaf([4.0, 0.0])
    with pytest.raises(AnomalyError) as error, detect_anomaly():
        line = here(1)
        y = F.sqrt(x)
        y.sum().backward()
    assert str(error.value).splitlines() == [
        "Sqrt made inf in backward",
        "  dx (2,) float32: 1 of 2 elements, the first at [1]",
        "  there: dout 1, ctx.out 0",
        "  Sqrt(x (2,) float32) -> (2,) float32",
        f"  whose forward was called at {line}test_backward_names_the_line_of_forward",
        "      y = F.sqrt(x)",
    ]


def test_forward_before_the_block():
    y = F.sqrt(leaf([0.0]))
    message = caught(lambda: y.sum().backward())
    assert "Sqrt made inf in backward" in message and "forward ran outside of detect_anomaly()" in message


# --- saved arrays that change ---


def test_writing_to_a_saved_array_is_caught():
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    with pytest.raises(AnomalyError) as error, detect_anomaly():
        line = here(1)
        out = x * y
        x.data[0] = 5
        out.sum().backward()
    message = str(error.value)
    assert message.startswith("ctx.x, (2,), which Mul saved for backward, was changed before backward used it")
    assert f"whose forward was called at {line}" in message and "Mul(x (2,) float32, y (2,) float32)" in message


@pytest.mark.parametrize(
    "op",
    [
        lambda x: x.exp(),
        lambda x: F.softmax(x * 1.0, -1),
        lambda x: F.einsum("ij,ij->i", x, x),
        lambda x: x[Tensor(np.array([0, 1]))] * x,
    ],
)
def test_writing_to_a_result_or_into_a_tuple_is_caught(op):
    def run():
        x = leaf([[1.0, 2.0], [3.0, 4.0]])
        out = op(x)
        out.data += 1
        x.data.T[0] *= 2  # through a view
        out.sum().backward()

    assert "was changed before backward used it" in caught(run)


def test_what_no_backward_needs_may_change_and_be_nan():
    with detect_anomaly():
        x, y, empty = leaf([1.0, np.nan]), leaf([2.0, 3.0]), leaf(np.ones((0, 3), np.float32))
        out = y + 1.0
        y.data[0] = 5
        out.data[0] = 5
        total = F.where(np.array([True, False]), x, 0.0).sum() + out.sum() + (empty * empty).sum()
        total.backward(retain_graph=True)
        total.backward()
    assert y.grad.tolist() == [2, 2]


# --- in and out ---


@pytest.mark.parametrize("watch", [detect_anomaly, memory, profile])
def test_nobody_watches_after_the_block(watch):
    with pytest.raises(ZeroDivisionError), watch():
        leaf([1.0]).exp()
        raise ZeroDivisionError
    assert switches.observers == []
    with watch(), watch():
        assert len(switches.observers) == 2
    assert switches.observers == []
