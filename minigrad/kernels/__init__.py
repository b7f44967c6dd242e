"""How do the hot operations become fast? Each has a twin that computes the same result in a different order.

    dispatch.py       use_kernels: the switch between the textbook forms and their twins
    accumulation.py   gradients that meet add up, in place where that is safe
    cpu/              blocked, threaded NumPy
    cuda/             hand-written CUDA through CuPy
"""

from .dispatch import use_kernels

__all__ = ["use_kernels"]
