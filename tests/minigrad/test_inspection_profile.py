"""profile(): FLOPs and bytes to the number, times that add up, and nothing left behind."""

import itertools

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Function, Tensor, no_grad, switches
from minigrad.inspection import profile, profiler
from minigrad.inspection.flops import MOVES, PRODUCTS
from minigrad.inspection.observers import watching
from minigrad.kernels.dispatch import textbook_functions, use_kernels
from minigrad.precision import autocast


@pytest.fixture
def clock(monkeypatch):
    """The profiler's clock, in nanoseconds: it stands still, and a test moves `clock[0]`."""
    now = [1000]
    monkeypatch.setattr(profiler, "perf_counter_ns", lambda: now[0])
    return now


B, T, C, V = 2, 3, 4, 7


def array(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 1.5, shape).astype(np.float32)


def leaf(*shape):
    return Tensor(array(*shape), requires_grad=True)


def rows_of(report):
    return {(row.op, row.phase): row for row in report.rows}


def run(make):
    with profile() as report:
        out = make()
        out.backward(np.ones(out.shape, out.dtype))
    return rows_of(report)


N = B * T * C  # elements of an activation
LINEAR = 2 * B * T * C * V  # multiply-adds of (B T, C) @ (C, V)
CASES = {  # what runs, FLOPs of op forward, FLOPs of op backward
    "Matmul": (lambda: leaf(5, 3) @ leaf(3, 2), 2 * 5 * 3 * 2, 2 * 2 * 5 * 3 * 2),
    "Matmul batched": (lambda: leaf(B, T, C) @ leaf(B, C, V), LINEAR, 2 * LINEAR),
    "Matmul, right side constant": (lambda: leaf(5, 3) @ Tensor(array(3, 2)), 60, 60),
    "Matmul of vectors": (lambda: leaf(5) @ leaf(5), 2 * 5, 2 * 2 * 5),
    "Linear": (lambda: F.linear(leaf(B, T, C), leaf(V, C), leaf(V)), LINEAR, 2 * LINEAR),
    "Linear, frozen weight": (lambda: F.linear(leaf(B, T, C), Tensor(array(V, C))), LINEAR, LINEAR),
    "Linear, input without gradient": (lambda: F.linear(Tensor(array(B, T, C)), leaf(V, C)), LINEAR, LINEAR),
    "Linear, only its bias": (lambda: F.linear(Tensor(array(B, T, C)), Tensor(array(V, C)), leaf(V)), LINEAR, 0),
    "Einsum": (lambda: F.einsum("btc,cv->btv", leaf(B, T, C), leaf(C, V)), LINEAR, 2 * LINEAR),
    "Einsum of three": (lambda: F.einsum("i,ij,j->", leaf(3), leaf(3, 5), leaf(5)), 2 * 15, 3 * 2 * 15),
    "ScaledDotProductAttention": (
        lambda: F.scaled_dot_product_attention(leaf(B, T, C), leaf(B, 5, C), leaf(B, 5, V)),
        B * T * 5 * (2 * C + 2 * V),
        B * T * 5 * (4 * C + 4 * V),
    ),
    "LayerNorm": (lambda: F.layer_norm(leaf(B, T, C), C, leaf(C), leaf(C)), N, N),
    "Gelu tanh": (lambda: F.gelu(leaf(B, T, C), "tanh"), N, N),
    "Add of a bias": (lambda: leaf(T, C) + leaf(C), T * C, T * C),
    "Sum": (lambda: leaf(T, C).sum(), T * C, T * C),
    "Embedding": (lambda: F.embedding(np.array([[1, 2, 1]]), leaf(V, C)), 0, 0),
    "Reshape": (lambda: leaf(T, C).reshape(-1), 0, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_flops_to_the_number(case):
    make, forward, backward = CASES[case]
    rows = run(make)
    op = case.replace(",", " ").split(" ")[0]
    assert (rows[op, "forward"].flops, rows[op, "backward"].flops) == (forward, backward)
    out = make()
    with profile() as report:  # of backward alone
        out.backward(np.ones(out.shape, out.dtype))
    assert [(row.phase, row.flops) for row in report.rows] == [("backward", backward)]


def test_every_name_of_a_formula_is_an_op():
    assert {*PRODUCTS, *MOVES} <= {function.__name__ for function in textbook_functions().values()}


@pytest.mark.parametrize("case", ["Linear", "LayerNorm", "ScaledDotProductAttention", "Gelu tanh", "Embedding"])
def test_a_fast_kernel_counts_as_the_op_that_it_replaces(case):
    make, forward, backward = CASES[case]
    with use_kernels("fast"):
        rows = run(make)
    assert {row.phase: row.flops for row in rows.values()} == {"forward": forward, "backward": backward}


def test_fused_kernels_count_what_they_fuse():
    ids = np.array([1, 2, 3])
    with use_kernels("fast"):
        gelu = run(lambda: F.linear_gelu(leaf(B, T, C), leaf(V, C), leaf(V)))
        loss = run(lambda: F.linear_cross_entropy(leaf(T, C), leaf(V, C), ids))
    for rows, product in ((gelu, LINEAR), (loss, 2 * T * V * C)):
        assert {row.phase: row.flops for row in rows.values()} == {"forward": product, "backward": 2 * product}


def test_composite_ops_are_seen_as_their_parts():
    with autocast():
        rows = run(lambda: F.linear_gelu(leaf(B, T, C), leaf(V, C), leaf(V)))
    assert {op for op, _ in rows} == {"Linear", "Gelu"} and rows["Linear", "forward"].flops == LINEAR


class Double(Function):
    forward = staticmethod(lambda ctx, x: x * 2)
    backward = staticmethod(lambda ctx, dout: (dout * 2,))


def test_an_unknown_function_has_a_dash_not_a_zero():
    with profile() as report:
        (Double.apply(leaf(4)) + 1.0).sum().backward()
    row = rows_of(report)["Double", "forward"]
    assert (row.flops, row.intensity, row.gflops_per_second, row.calls, row.bytes) == (None, None, None, 1, 32)
    line = next(line for line in str(report).splitlines() if line.startswith("Double  "))
    assert line.split()[5] == "-" and line.split()[-2:] == ["-", "-"]
    assert report.total.flops == 4 * 4 and report.total.calls == 6
    assert "not in the sums of FLOP and bytes, as their FLOPs are not known: Double" in str(report)


def test_the_op_of_an_exercise_counts_as_what_it_replaces():
    class MyNeg(Function):
        forward = staticmethod(lambda ctx, x: -x)
        backward = staticmethod(lambda ctx, dout: (-dout,))

    with use_kernels({"neg": MyNeg}):
        assert run(lambda: -leaf(6))["MyNeg", "forward"].flops == 6


def test_bytes_are_inputs_and_outputs():
    rows = run(lambda: F.linear(leaf(5, 3), leaf(2, 3), leaf(2)))
    x, weight, bias, out = 4 * 15, 4 * 6, 4 * 2, 4 * 10
    assert rows["Linear", "forward"].bytes == x + weight + bias + out
    assert rows["Linear", "backward"].bytes == out + x + weight + (x + weight + bias)  # dout, saved, gradients
    x = leaf(8)
    rows = run(lambda: x * x)
    assert rows["Mul", "forward"].bytes == 2 * 32  # one array, read once
    rows = run(lambda: leaf(3, 4).transpose(0, 1).reshape(-1).reshape(2, 6))
    assert rows["Permute", "forward"].bytes == 0  # a view moves nothing
    assert rows["Reshape", "forward"].bytes == 2 * 48  # of the two, the first has to copy
    assert rows["Reshape", "forward"].calls == 2


def test_intensity_and_rate_are_quotients(monkeypatch):
    monkeypatch.setattr(profiler, "perf_counter_ns", itertools.count(0, 7).__next__)  # each look takes 7 ns
    row = run(CASES["Matmul"][0])["Matmul", "forward"]
    assert row.intensity == 60 / (4 * (15 + 6 + 10)) and row.gflops_per_second == 60 / 7
    assert (row.nanoseconds, row.seconds) == (7, 7e-9)


@pytest.fixture
def slow(clock):
    """x, in 30 ns forward and 500 ns backward."""

    class Slow(Function):
        @staticmethod
        def forward(ctx, x):
            clock[0] += 30
            return x

        @staticmethod
        def backward(ctx, dout):
            clock[0] += 500
            return (dout,)

    return Slow


def test_times_are_those_of_the_ops_and_the_rest_is_outside(clock, slow):
    fails = type("Fails", (Function,), {"forward": staticmethod(lambda ctx, x: 1 / 0)})
    with profile() as report:
        slow.apply(slow.apply(leaf(3))).exp().backward(np.ones(3, np.float32))
        clock[0] += 7000
        with pytest.raises(ZeroDivisionError):  # an op that failed is not measured
            fails.apply(leaf(3))
    clock[0] += 10**6  # it has stopped
    times = {(row.op, row.phase): (row.calls, row.nanoseconds) for row in report.rows}
    exps = {("Exp", "forward"): (1, 0), ("Exp", "backward"): (1, 0)}
    assert times == {("Slow", "backward"): (2, 1000), ("Slow", "forward"): (2, 60), **exps}
    assert [row.op for row in report.rows[:2]] == ["Slow", "Slow"]  # the slowest first
    assert report.total.nanoseconds == 1060 and report.seconds == pytest.approx(8060e-9)


def test_an_op_that_runs_others_is_measured_without_them(clock, slow):
    class Outer(Function):
        @staticmethod
        def forward(ctx, x):
            slow.apply(x)
            clock[0] += 5
            return x

    with profile() as report:
        Outer.apply(leaf(3))
    assert [(row.op, row.nanoseconds) for row in report.rows] == [("Slow", 30), ("Outer", 5)]


def test_the_table_shows_every_row_the_total_and_the_rest():
    with profile() as report:
        F.softmax(leaf(100, 100) @ leaf(100, 100), -1).sum().backward()
    lines = str(report).splitlines()
    assert lines[0].split() == ["op", "phase", "calls", "ms", "%", "FLOP", "bytes", "FLOP/byte", "GFLOP/s"]
    assert sorted(line.split()[0] for line in lines[2:8]) == ["Matmul", "Matmul", "Softmax", "Softmax", "Sum", "Sum"]
    product = next(line for line in lines if line.startswith("Matmul") and "forward" in line)
    assert " 2 M " in product and " 120 k " in product and " 16.67 " in product
    assert [line.split()[0] for line in lines[9:]] == ["all", "outside", "wall"]
    assert max(len(line) for line in lines) < 110
    str(report).encode("cp1252")


# --- in and out ---


def test_profiles_nest():
    with profile() as outer, no_grad():  # ops without a graph are measured too
        leaf(3).exp()
        with profile() as inner:
            leaf(3).exp()
        leaf(3).exp()
        assert switches.observers == [outer]
    assert switches.observers == []
    assert (outer.total.calls, inner.total.calls) == (3, 1)


def test_the_innermost_profiler_measures_no_other_observer(clock):
    class Slow(switches.Observer):
        def before(self, phase, ctx, arrays):
            clock[0] += 20

    with watching(Slow()), profile() as report:
        leaf(3).exp()
    assert report.total.seconds == 0 < report.seconds
