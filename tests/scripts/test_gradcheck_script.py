"""scripts/gradcheck.py: the table of all ops, one op in detail, and what happens when a gradient is wrong."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Function, use_kernels
from minigrad.gradcheck.check import gradcheck
from scripts.gradcheck import main, op_samples

ROOT = Path(__file__).resolve().parent.parent.parent


class Wrong(Function):
    """tanh with a wrong sign."""

    @staticmethod
    def forward(ctx, x):
        ctx.out = np.tanh(x)
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        return (dout * (ctx.out**2 - 1),)


def run(*arguments, **environment):
    """The script as its own process."""
    command = [sys.executable, str(ROOT / "scripts" / "gradcheck.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, env=env, cwd=ROOT)


def test_no_op_is_missing():
    ops = {name for name in F.__all__ if inspect.isfunction(getattr(F, name))}
    assert ops - set(op_samples()) == set()
    assert set(op_samples()) - ops == set()


def test_each_sample_really_calls_its_op(monkeypatch):
    """A sample under the wrong name would prove another op."""
    for op, of_op in op_samples().items():
        names = {fn.__name__ if fn.__name__ == op else None for fn, _ in of_op} | {
            name for fn, _ in of_op for name in [*fn.__code__.co_names]
        }
        assert op in names, op


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_ops_are_right(capsys, seed):
    assert main(["--seed", str(seed)]) == 0
    table = capsys.readouterr().out
    assert f"{len(op_samples())} ops, " in table
    assert table.count("  right\n") == sum(map(len, op_samples().values()))


def test_the_complex_step_is_the_second_witness_of_nearly_all_ops():
    fallen_back = [
        op
        for op, of_op in op_samples().items()
        if any(gradcheck(fn, inputs, method="complex").method == "central" for fn, inputs in of_op)
    ]
    assert set(fallen_back) == {"abs"}


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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sofmax"], "there is no op 'sofmax'; did you mean softmax or log_softmax?"),
        (["xyzzy"], "there is no op 'xyzzy'; without a name, all ops are listed"),
        (["--seed", "x"], "argument --seed: invalid integer value: 'x'"),
        (["--seed", "-1"], "argument --seed: must be an integer >= 0, got -1"),
        (["--sed", "1"], "unrecognized arguments: --sed"),
        (["mul", "add"], "unrecognized arguments: add"),
    ],
)
def test_bad_arguments_get_one_sentence(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1


def test_as_a_process_on_a_windows_console():
    done = run("log_softmax", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert b"log_softmax" in done.stdout
    done = run("sofmax")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
