"""The tests a second time, on the stand-in: `pytest --device=cuda tests/minigrad tests/gpt tests/finetune`.

A test says what a user would: it makes tensors, models and optimizers, and looks at numbers. On the second device

* what a test makes (a Tensor, a Module) is on the device at once, as if it had called `.to("cuda")`;
* arrays that a test hands to an op are moved there first, as a user would have to do;
* a test may look at a device array as if it were a NumPy array.

All of this holds only for code in tests/: for the library the stand-in is as strict as ever. Kernels are the textbook
and generic forms; the CUDA kernels have tests of their own. Tests about NumPy's arrays or about the CPU are left out:
cpu_only.py names them, or they carry `@pytest.mark.cpu_only("why")`.
"""

import contextlib
import functools
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, backend, nn
from minigrad.kernels.cuda import CUDA

from . import arrays
from .cpu_only import CPU_ONLY
from .installing import installed

ROOT = Path(__file__).parents[2]
TESTS = str(ROOT / "tests") + os.sep
PROJECT = (TESTS, *[str(ROOT / package) + os.sep for package in ("minigrad", "gpt", "finetune", "scripts")])
PASSED_THROUGH = (
    str(Path(__file__).parent),
    str(ROOT / "minigrad" / "tensor.py"),  # `x + y` in a test calls F.add there
    str(ROOT / "minigrad" / "in_place.py"),  # and `x += y` there
    str(ROOT / "minigrad" / "creation.py"),
)
TENSOR = sys.modules["minigrad.tensor"]  # `minigrad.tensor` is the function
METHODS = [name for name in F.__all__ if vars(Tensor).get(name) is getattr(F, name)]


def asked_by_test():
    """Whether the code that led here is a test's own: the nearest of this project's files on the stack is in tests/."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PROJECT) and not path.startswith(PASSED_THROUGH):
            return path.startswith(TESTS)
        frame = frame.f_back
    return False


def moved(value, known=None):
    """`value` with the NumPy arrays and the constant tensors in it on the device; what was one array stays one."""
    known = {} if known is None else known
    if isinstance(value, np.ndarray) and value.dtype.char in arrays.DTYPES:
        if id(value) not in known:
            known[id(value)] = backend.to_device(value, "cuda:0")
        return known[id(value)]
    if isinstance(value, Tensor) and value.device == "cpu" and not value.requires_grad:
        return Tensor(moved(value.data, known))
    if type(value) in (tuple, list):
        return type(value)(moved(part, known) for part in value)
    return value


def _moving_tensor(original):
    def __init__(self, data, requires_grad=False, dtype=None, device=None):  # noqa: N807
        device = "cuda:0" if device is None and asked_by_test() else device
        original(self, data, requires_grad, dtype, device)

    return __init__


def _moving_arguments(original):
    @functools.wraps(original)
    def run(*args, **options):
        if asked_by_test():
            args, options = moved(args), {name: moved(value) for name, value in options.items()}
        return original(*args, **options)

    return run


def _moving_call(original):
    moving = _moving_arguments(original)

    def __call__(self, *args, **options):  # noqa: N807
        takes_host_arrays = type(self).__module__.startswith(("gpt", "finetune"))  # models move their ids themselves
        return (original if takes_host_arrays else moving)(self, *args, **options)

    return __call__


def _on_the_cpu(original):
    """A function that quantizes a model on the CPU: the model moves there before and back afterwards."""

    @functools.wraps(original)
    def run(model, *args, **options):
        if not asked_by_test():
            return original(model, *args, **options)
        nn.Module.to(model, "cpu")
        try:
            return original(model, *args, **options)
        finally:
            nn.Module.to(model, "cuda:0")

    return run


def _approx(original):
    def approx(expected, *args, **options):
        return original(np.asarray(expected) if isinstance(expected, arrays.ndarray) else expected, *args, **options)

    return approx


def _moving_gradient(original):
    def run(self, gradient=None, retain_graph=False):
        gradient = moved(gradient) if self.device != "cpu" and asked_by_test() else gradient
        return original(self, gradient, retain_graph)

    return run


def _moving_module(original):
    @functools.wraps(original)
    def __init__(self, *args, **options):  # noqa: N807
        original(self, *args, **options)
        if asked_by_test():
            nn.Module.to(self, "cuda:0")

    return __init__


def _moving_parameter(original):
    def __init__(self, data, requires_grad=True):  # noqa: N807
        original(self, data, requires_grad)
        self.data = backend.to_device(self.data, "cuda:0") if asked_by_test() else self.data

    return __init__


def _moving_grad(slot):
    def set_grad(tensor, value):
        slot.__set__(tensor, moved(value) if tensor.device != "cpu" and asked_by_test() else value)

    return property(slot.__get__, set_grad)


# What test modules have imported by name.
IN_TESTS = {"gradcheck": _moving_arguments, "quantize": _on_the_cpu, "apply_qlora": _on_the_cpu}


def _subclasses(kind):
    return {kind, *[below for direct in kind.__subclasses__() for below in _subclasses(direct)]}


def why_not(item):
    """Why a test of pytest is left out on the second device: its mark says so, or cpu_only.py. None for most."""
    mark = item.get_closest_marker("cpu_only")
    if mark is not None:
        return mark.args[0]
    return next((why for pattern, why in CPU_ONLY.items() if fnmatchcase(item.nodeid, f"tests/{pattern}")), None)


@contextlib.contextmanager
def second_device(test_module):
    """Within the block, what tests make is on the stand-in's device."""
    with contextlib.ExitStack() as patches:
        counters = patches.enter_context(installed())
        for thing, name, wrapper in (
            (Tensor, "__init__", _moving_tensor),
            (Tensor, "backward", _moving_gradient),
            (Tensor, "grad", _moving_grad),
            (pytest, "approx", _approx),
            (nn.Parameter, "__init__", _moving_parameter),
            (nn.Module, "__call__", _moving_call),
            (TENSOR, "_compare", _moving_arguments),
            *((test_module, name, wrapper) for name, wrapper in IN_TESTS.items() if hasattr(test_module, name)),
            *((F, name, _moving_arguments) for name in F.__all__),
            *((Tensor, name, _moving_arguments) for name in METHODS),
            *((kind, "__init__", _moving_module) for kind in _subclasses(nn.Module) if "__init__" in vars(kind)),
        ):
            patches.enter_context(mock.patch.object(thing, name, wrapper(getattr(thing, name))))
        patches.enter_context(
            mock.patch.dict(TENSOR._UFUNCS, {n: _moving_arguments(f) for n, f in TENSOR._UFUNCS.items()})
        )
        patches.enter_context(mock.patch.dict(CUDA, clear=True))
        patches.enter_context(mock.patch.object(arrays, "lenient", asked_by_test))
        yield counters
