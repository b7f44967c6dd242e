"""minigrad: an autograd engine in NumPy that can be read in an evening.

Read in this order: autograd.py (the idea), functional/elementwise.py (forward beside backward), tensor.py (operators),
nn/ and optim.py.
"""

from . import functional, inspection, nn, optim
from .autograd import Function
from .backend import manual_seed
from .gradcheck.check import GradcheckError, gradcheck
from .kernels.dispatch import use_kernels
from .precision import autocast
from .switches import no_grad
from .tensor import Tensor

__all__ = [
    "Function",
    "GradcheckError",
    "Tensor",
    "autocast",
    "functional",
    "gradcheck",
    "inspection",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "use_kernels",
]
