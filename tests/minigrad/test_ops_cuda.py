"""Every op on a device "cuda", forward and backward: it gives what PyTorch once gave (tests/minigrad/golden/ops.npz)
and does not wait for the device."""

import numpy as np
import pytest

from minigrad.backend import device_of
from tests.minigrad.test_ops_golden import golden
from tests.minigrad.test_ops_torch import CASES, compare, compute

MASKS = ("getitem a mask", "getitem a list of booleans")  # how many are True, only the device knows


# A case that computes with NumPy itself cannot be asked to do it elsewhere.
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("rotary_embedding")])
def test_case(cuda, name):
    cuda.reset()
    with np.errstate(all="ignore"):
        tensors, results = compute(name, golden()[name], device="cuda")
    assert cuda.synchronisations == 0 or name.startswith(MASKS)
    assert all(device_of(result.data) == "cuda:0" for result in results)
    compare(tensors, results, golden()[name])
