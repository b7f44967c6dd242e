"""Every op on a device "cuda", forward and backward: it gives what PyTorch once gave (tests/minigrad/golden/ops.npz)
and does not wait for the device."""

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor
from minigrad.backend import device_of, to_numpy
from tests.minigrad.test_ops_golden import golden
from tests.minigrad.test_ops_torch import CASES, as_tuple, assert_equal, seed_of

MASKS = ("getitem a mask", "getitem a list of booleans")  # how many are True, only the device knows


# A case that computes with NumPy itself cannot be asked to do it elsewhere.
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("rotary_embedding")])
def test_case(cuda, name):
    expected, function = golden()[name], CASES[name][1]
    inputs = [array for what, array in expected.items() if what.startswith("input")]
    tensors = [Tensor(x, requires_grad=x.dtype == np.float64, device="cuda") for x in inputs]
    cuda.reset()
    with np.errstate(all="ignore"):
        results = as_tuple(function(F, *tensors))
        for result in results:
            if result.requires_grad:
                result.backward(Tensor(seed_of(result), device="cuda"), retain_graph=True)
    assert cuda.synchronisations == 0 or name.startswith(MASKS)
    for i, result in enumerate(results):
        assert device_of(result.data) == "cuda:0"
        assert_equal(to_numpy(result.data), expected[f"result {i}"])
    for i, tensor in enumerate(tensors):
        if tensor.grad is not None or f"gradient {i}" in expected:
            zeros = np.zeros(tensor.shape)
            found = zeros if tensor.grad is None else to_numpy(tensor.grad)
            assert_equal(found, expected.get(f"gradient {i}", zeros))
