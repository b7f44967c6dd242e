"""Make `import cupy` find the stand-in, so that minigrad has a device "cuda"."""

import contextlib
import functools
import sys
import types
from unittest import mock

import numpy as np
import pytest

from minigrad import backend

from . import arrays, counters, cuda
from .functions import OWN, Ufunc, function
from .generators import random
from .signatures import NAMES

arrays.ndarray.__module__ = "cupy"
arrays.ndarray.__qualname__ = "ndarray"


class Module(types.ModuleType):
    """`cupy`: what is asked of it must be a name that the real one has (names.json)."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = _named(name)
        setattr(self, name, value)
        return value


def _named(name):
    if name in OWN:
        return OWN[name]
    if name in NAMES["ufuncs"]:
        return Ufunc(name)
    if name in NAMES["functions"]:
        return function(name)
    if name in NAMES["constants"] or name in NAMES["types"] or name == "newaxis":
        return getattr(np, name)
    raise AttributeError(f"module 'cupy' has no attribute {name!r}")


@functools.cache
def module():
    """The stand-in for the module `cupy`."""
    cupy = Module("cupy")
    cupy.cuda = cuda.cuda
    cupy.random = random
    cupy.RawKernel = cuda.RawKernel
    cupy.__version__ = NAMES["version"]
    return cupy


@contextlib.contextmanager
def installed(devices=1):
    """Within the block there are `devices` GPUs, as far as minigrad can tell; gives the counters."""
    cupy = module()
    with (
        pytest.MonkeyPatch.context() as patch,
        mock.patch.object(arrays, "device_count", devices),
        mock.patch.object(arrays, "_current", [0]),
        mock.patch.object(backend, "_load_cupy", functools.cache(backend._load_cupy.__wrapped__)),
        mock.patch.object(backend, "cuda_problem", functools.cache(backend.cuda_problem.__wrapped__)),
        mock.patch.dict(backend._modules),
    ):
        patch.setitem(sys.modules, "cupy", cupy)  # this name alone: what the block imports first stays imported
        problem = backend.cuda_problem()
        if devices and problem is not None:
            raise RuntimeError(f"the stand-in does not work: {problem}")
        counters.reset()
        yield counters
