"""The stand-in's devices, and `RawKernel`, which checks a launch and hands it to the emulation of CUDA on the CPU."""

import types

import numpy as np

from tests.cuda_emulation import cublas
from tests.cuda_emulation.run import compiled, launch

from . import arrays

cuda = types.SimpleNamespace(
    Device=arrays.Device,
    runtime=types.SimpleNamespace(getDeviceCount=lambda: arrays.device_count),
    is_available=lambda: arrays.device_count > 0,
    cublas=cublas,
    get_cublas_handle=lambda: cublas.HANDLE,
)


class RawKernel:
    """A CUDA kernel, given as source, run by the emulation on the CPU. It is stricter than CuPy, which passes on what
    it gets: NumPy arrays are refused, and the emulation refuses Python numbers, of which CuPy passes 8 bytes each.
    """

    def __init__(self, code, name):
        self.code, self.name = code, name

    @property
    def max_threads_per_block(self):
        compiled(self.code)
        return 1024

    def __call__(self, grid, block, args):
        arrays.device_arrays(*args)
        launch(self.code, self.name, grid, *block, [self._host(arg) for arg in args])

    def _host(self, arg):
        if isinstance(arg, arrays.ndarray):
            return arg._host
        if isinstance(arg, np.ndarray):
            raise TypeError(f"{self.name}: Unsupported type <class 'numpy.ndarray'>, which is not on the device")
        return arg
