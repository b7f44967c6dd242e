"""The cases of test_ops_torch.py against what PyTorch once gave (see make_golden.py), so without PyTorch."""

import functools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, autocast, manual_seed, use_kernels
from tests.minigrad.test_ops_torch import CASES, as_tuple, compare, compute, seed_of

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


NOT_FINITE = {"std of one", "var of one", "sqrt at 0", "pow of special numbers", "logsumexp of +inf"}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    """NumPy has nothing to warn of, in forward and backward, but for a few."""
    wary = "ignore" if name in NOT_FINITE else "raise"
    with warnings.catch_warnings(), np.errstate(divide=wary, over=wary, invalid=wary):
        warnings.simplefilter("error")
        tensors, results = compute(name, golden()[name])
    compare(tensors, results, golden()[name])


def results_and_gradients(name, inputs, convert):
    tensors = [Tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    for tensor in tensors:
        tensor.data = convert(tensor.data)  # past the constructor, which would convert it back
    manual_seed(0)
    results = as_tuple(CASES[name][1](F, *tensors))
    for result in results:
        if result.requires_grad:
            result.backward(convert(seed_of(result)), retain_graph=True)
    assert all(result.dtype.isnative for result in results)
    return [result.data for result in results] + [tensor.grad for tensor in tensors if tensor.grad is not None]


# In these an input is converted before the op sees it, and the others are not: refused, because the dtypes differ.
MIXED = [name for name in CASES if "weighted" in name or name in ("nll_loss of one row", "attention, -inf in the mask")]


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in MIXED])
def test_arrays_in_the_other_byte_order_give_the_same_bits(name, kernels):
    arrays = [array for what, array in golden()[name].items() if what.startswith("input")]
    inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in arrays]
    with use_kernels(kernels), np.errstate(all="ignore"):
        for rounded in (False, True):
            with autocast(enabled=rounded):
                expected = results_and_gradients(name, inputs, np.copy)
                found = results_and_gradients(name, inputs, lambda x: x.astype(x.dtype.newbyteorder()))
            for x, y in zip(found, expected, strict=True):
                np.testing.assert_array_equal(x, y)
