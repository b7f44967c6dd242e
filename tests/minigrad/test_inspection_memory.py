"""memory(): against counts by hand, and against what Python says is allocated."""

import gc
import tracemalloc

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, no_grad
from minigrad.inspection import memory
from minigrad.kernels.dispatch import use_kernels


def leaf(*shape):
    return Tensor(np.linspace(0.1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape), requires_grad=True)


def by_name(report):
    return {f"{row.op}.{row.saved}": (row.at_peak, row.current) for row in report.rows}


def test_a_count_by_hand():
    with memory() as report:
        x = leaf(10)
        y = x.exp()  # saves its result: 40 bytes
        assert report.current == 40
        z = y.tanh()  # saves its result: 40 bytes
        assert report.current == 80
        out = y * z  # saves both, which are held already
        assert report.current == 80
        loss = out.sum()  # saves shapes
        assert (report.current, report.peak) == (80, 80)
        loss.backward()
        assert (report.current, report.peak) == (0, 80)
    assert by_name(report) == {"Exp.out": (40, 0), "Tanh.out": (40, 0)}


def test_parameters_and_data_are_not_held_by_the_graph():
    x, weight, bias = Tensor(np.ones((5, 3), np.float32)), leaf(4, 3), leaf(4)
    with memory() as report:
        F.linear(x, weight, bias)
        leaf(5, 3) @ weight.T  # a view of a parameter is the parameter
        x.reshape(15) * leaf(15)
        F.embedding(np.array([0, 1]), weight)
        with no_grad():
            leaf(10).exp()
    assert report.peak == 0 and report.rows == []


def test_views_share_one_buffer():
    with memory() as report:
        y = leaf(6, 4).exp()  # 96 bytes
        parts = F.split(y, 2, dim=1)
        (parts[0] @ parts[1].T).sum()
    assert report.peak == 96


def test_what_several_ops_hold_is_let_go_by_the_last():
    with memory() as report:
        y = leaf(10).exp()
        first, second = (y * y).sum(), y.tanh().sum()
        assert report.current == 80
        second.backward(retain_graph=True)
        assert report.current == 80
        second.backward()  # goes through exp too, whose result the product still holds
        assert report.current == 40
        del first
        assert report.current == 0


def test_a_graph_that_nobody_holds_is_not_held():
    with memory() as report:
        for _ in range(3):
            leaf(20).exp().sum()
        loss = leaf(10).exp().sum()
    assert (report.current, report.peak) == (40, 80)  # the graphs came one after the other
    loss.backward()
    assert (report.current, report.peak) == (0, 80)


def test_arrays_in_tuples_are_found():
    with memory() as report:
        x, y = leaf(3, 4) * 1.0, leaf(4, 5) * 1.0
        F.einsum("ij,jk->ik", x, y)
    assert report.peak == 4 * (12 + 20) and by_name(report) == {"Einsum.operands": (128, 0)}


def test_arrays_in_objects_are_found():
    with use_kernels("fast"), memory() as report:
        q, k, v = (leaf(2, 50, 4) * 1.0 for _ in range(3))
        F.scaled_dot_product_attention(q, k, v, is_causal=True)
    held = {row.saved.split(".")[-1]: row.at_peak for row in report.rows}
    assert {held[name] for name in ("q", "k", "v", "out")} == {4 * 400} and held["logsumexp"] == 4 * 100


def test_the_table_adds_up():
    with memory() as report:
        loss = F.softmax(leaf(100, 100).tanh() @ leaf(100, 100), -1).sum()
        lines = str(report).splitlines()
    assert lines[0].split() == ["held", "for", "backward", "at", "peak", "%", "now"]
    assert [line.split() for line in lines[2:4]] == [
        ["Tanh.out", "40", "kB", "50.0", "40", "kB"],
        ["Softmax.out", "40", "kB", "50.0", "40", "kB"],
    ]
    assert lines[-1].split() == ["all", "80", "kB", "80", "kB"]
    assert sum(row.at_peak for row in report.rows) == report.peak
    loss.backward()
    assert str(report).splitlines()[-1].split() == ["all", "80", "kB", "0", "B"]


def test_it_agrees_with_what_python_has_allocated():
    batch, time, width, vocabulary = 4, 64, 64, 200
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, time))
    wte, wide, narrow = leaf(vocabulary, width), leaf(4 * width, width), leaf(width, 4 * width)
    weight, bias = leaf(width), leaf(width)

    def forward():
        x = F.embedding(ids, wte)
        h = F.layer_norm(x, width, weight, bias)
        x = x + F.dropout(F.scaled_dot_product_attention(h, h, h, is_causal=True), 0.1)
        x = x + F.linear(F.gelu(F.linear(x, wide), "tanh"), narrow)
        return F.cross_entropy(F.linear(x, wte).reshape(-1, vocabulary), ids.reshape(-1))

    forward()  # whatever is made once
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with memory() as report:
        loss = forward()
        allocated = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert report.current > 1_000_000
    assert allocated == pytest.approx(report.current, rel=0.05)
    assert loss.item() > 0
