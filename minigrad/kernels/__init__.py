"""How is the same computed faster? Twins of the hot operations, which compute in a different order.

    dispatch.py       use_kernels: the switch between the textbook forms and their twins
    accumulation.py   gradients that meet add up, in place where that is safe
    cpu/              blocked, threaded NumPy
    cuda/             hand-written CUDA through CuPy

How an op finds its twin each time it runs is told in minigrad/switches.py, in five steps.
"""

from .dispatch import use_kernels

__all__ = ["use_kernels"]
