"""scripts/gradcheck.py: the table of all ops, one op in detail, and what happens when a gradient is wrong."""

import inspect

import minigrad.functional as F
from minigrad import use_kernels
from minigrad.functional.activation import Tanh
from scripts.gradcheck import main, op_samples


class Wrong(Tanh):
    """Backward with a wrong sign."""

    @staticmethod
    def backward(ctx, dout):
        return (dout * (ctx.out**2 - 1),)


def test_no_op_is_missing():
    assert {name for name in F.__all__ if inspect.isfunction(getattr(F, name))} == set(op_samples())


def test_each_sample_really_calls_its_op():
    """A sample under the wrong name would prove another op."""
    for op, of_op in op_samples().items():
        assert all(op in (fn.func.__name__, *fn.func.__code__.co_names) for fn, _ in of_op), op


def test_all_ops_are_right(capsys):
    assert main(["--seed", "1"]) == 0
    table = capsys.readouterr().out
    assert f"{len(op_samples())} ops, " in table
    assert [line.split()[0] for line in table.splitlines() if "   -  " in line] == ["abs"]  # has no complex step
    assert table.count("  right\n") == sum(map(len, op_samples().values()))


def test_one_op_in_detail(capsys):
    assert main(["softmax"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("softmax: e^x / Σ e^x")
    assert "input 0 (x) (3, 4): 12 elements" in out
    assert "complex step" in out
    assert "backward       differences  relative error" in out


def test_wrong_gradients_are_shown_and_counted(capsys):
    with use_kernels({"tanh": Wrong}):
        assert main([]) == 1
        table = capsys.readouterr().out
        assert main(["tanh"]) == 1
        details = capsys.readouterr().out
    assert "WRONG: sign" in table
    for out in (table, details):
        assert "diagnosis: the sign is flipped" in out
