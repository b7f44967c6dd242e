"""The cases of test_ops_torch.py against what PyTorch once gave (see make_golden.py), so without PyTorch."""

import functools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.minigrad.test_ops_torch import CASES, compare, compute

GOLDEN = Path(__file__).parent / "golden" / "ops.npz"


@functools.cache
def golden():
    """case -> {"input 0": array, "result 0": array, "gradient 0": array, ...}"""
    with np.load(GOLDEN) as file:
        flat = {kind: file[kind] for kind in "fib"}
        index = str(file["index"]).split("\n")
    cases = {}
    starts = dict.fromkeys(flat, 0)
    for line in index:
        name, dtype, sizes = line.split("|")
        shape = tuple(int(n) for n in sizes.split(",") if n)
        kind = np.dtype(dtype).kind
        size = math.prod(shape)
        case, _, what = name.rpartition("/")
        piece = flat[kind][starts[kind] : starts[kind] + size]
        cases.setdefault(case, {})[what] = piece.reshape(shape).astype(dtype)
        starts[kind] += size
    return cases


def test_the_golden_arrays_are_those_of_the_cases():
    assert set(golden()) == set(CASES), "run tests/minigrad/make_golden.py"
    assert GOLDEN.stat().st_size < 200_000


NOT_FINITE = {"std of one", "sqrt at 0", "pow of special numbers", "logsumexp of +inf"}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    """NumPy has nothing to warn of, in forward and backward, but for a few."""
    wary = "ignore" if name in NOT_FINITE else "raise"
    with warnings.catch_warnings(), np.errstate(divide=wary, over=wary, invalid=wary):
        warnings.simplefilter("error")
        tensors, results = compute(name, golden()[name])
    compare(tensors, results, golden()[name])
