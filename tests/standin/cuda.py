"""The stand-in's devices, and `RawKernel`, which checks a launch and hands it to the emulation of CUDA on the CPU."""

import functools
import importlib
import types

import numpy as np

from . import arrays, counters

device_count = 1

SHARED_BYTES = 48 * 1024  # of a block; a kernel can be allowed more, but none of ours is


class CUDARuntimeError(RuntimeError):
    """An error that the CUDA driver reports."""


class Device:
    """`with Device(1): ...` makes new arrays there."""

    def __init__(self, device=None):
        self.id = arrays._devices[-1] if device is None else int(device)
        if not 0 <= self.id < device_count:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self):
        arrays._devices.append(self.id)
        return self

    def __exit__(self, *exc):
        arrays._devices.pop()

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def use(self):
        """New arrays are made here from now on."""
        arrays._devices[-1] = self.id

    def synchronize(self):
        """Wait."""
        counters.synchronise()


class CudaModule:
    """`cupy.cuda`."""

    Device = Device
    runtime = types.SimpleNamespace(getDeviceCount=lambda: device_count)

    def is_available(self):
        return device_count > 0

    @functools.cached_property
    def cublas(self):
        return importlib.import_module("tests.cuda_emulation.cublas")

    def get_cublas_handle(self):
        return self.cublas.HANDLE


cuda = CudaModule()


class RawKernel:
    """A CUDA kernel, given as source, run by the emulation on the CPU. It is stricter than CuPy, which passes on what
    it gets: NumPy arrays are refused. Python numbers become what CuPy makes of them (8 bytes each), which the emulation
    refuses unless the kernel expects that.
    """

    def __init__(self, code, name):
        self.code, self.name = code, name

    def __call__(self, grid, block, args, *, shared_mem=0):
        from tests.cuda_emulation.run import launch

        if shared_mem > SHARED_BYTES:
            raise CUDARuntimeError(f"{self.name}: {shared_mem} bytes of shared memory, {SHARED_BYTES} allowed")
        arrays.device_arrays(*args)
        launch(self.code, self.name, grid, block, [self._host(arg) for arg in args], shared_mem)

    def _host(self, arg):
        if isinstance(arg, arrays.ndarray):
            return arg._host  # perhaps with gaps, if the kernel is told the strides: see minigrad.kernels.cuda.launch
        if isinstance(arg, np.ndarray):
            raise TypeError(f"{self.name}: Unsupported type <class 'numpy.ndarray'>, which is not on the device")
        passed_as = {bool: np.bool_, int: np.int64, float: np.float64, complex: np.complex128}
        return passed_as[type(arg)](arg) if type(arg) in passed_as else arg
