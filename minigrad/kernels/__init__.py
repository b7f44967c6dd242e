"""How do the hot operations get fast? A twin of each computes the same, in another order of steps.

    dispatch.py   use_kernels: the switch between the textbook forms and their twins
    cpu/          blocked, threaded NumPy
    cuda/         hand-written CUDA through CuPy
"""

from .dispatch import use_kernels

__all__ = ["use_kernels"]
