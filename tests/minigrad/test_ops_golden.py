"""The cases of test_ops_torch.py against what PyTorch once gave (see make_golden.py), so without PyTorch."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor
from tests.minigrad.test_ops_torch import CASES, as_tuple, assert_equal, seed_of

GOLDEN = Path(__file__).parent / "golden" / "ops.npz"


@functools.cache
def golden():
    """case -> {"input 0": array, "result 0": array, "gradient 0": array, ...}"""
    with np.load(GOLDEN) as file:
        flat = {kind: file[kind] for kind in "fib"}
        index = str(file["index"]).split("\n")
    cases, starts = {}, dict.fromkeys(flat, 0)
    for line in index:
        name, dtype, sizes = line.split("|")
        shape = tuple(int(n) for n in sizes.split(",") if n)
        kind, size = np.dtype(dtype).kind, math.prod(shape)
        case, _, what = name.rpartition("/")
        piece = flat[kind][starts[kind] : starts[kind] + size]
        cases.setdefault(case, {})[what] = piece.reshape(shape).astype(dtype)
        starts[kind] += size
    return cases


def test_the_golden_arrays_are_those_of_the_cases():
    assert set(golden()) == set(CASES), "run tests/minigrad/make_golden.py"
    assert GOLDEN.stat().st_size < 200_000


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    expected, function = golden()[name], CASES[name][1]
    inputs = [array for what, array in expected.items() if what.startswith("input")]
    tensors = [Tensor(x, requires_grad=x.dtype == np.float64) for x in inputs]
    with np.errstate(all="ignore"):
        results = as_tuple(function(F, *tensors))
        for i, result in enumerate(results):
            assert_equal(result.numpy(), expected[f"result {i}"])
            if result.requires_grad:
                result.backward(seed_of(result), retain_graph=True)
    for i, tensor in enumerate(tensors):
        if tensor.grad is not None or f"gradient {i}" in expected:
            zeros = np.zeros(tensor.shape)
            assert_equal(zeros if tensor.grad is None else tensor.grad, expected.get(f"gradient {i}", zeros))
