"""What the tests of fast kernels share: random arrays, and mistakes planted in the source of a CUDA kernel."""

import contextlib

import numpy as np
import pytest

from minigrad.kernels.cuda import launch
from tests.cuda_emulation.run import KernelError


def randn(*shape, seed=0):
    return np.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


@contextlib.contextmanager
def mistake_is_found(module, right, wrong, source="SOURCE"):
    """Put `wrong` in the place of `right` in a module's CUDA source: what is then checked in the block has to fail."""
    text = getattr(module, source)
    assert right in text
    launch.compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch, pytest.raises((AssertionError, KernelError)), np.errstate(all="ignore"):
        patch.setattr(module, source, text.replace(right, wrong))
        yield
    launch.compiled.cache_clear()
