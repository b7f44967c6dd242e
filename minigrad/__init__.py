"""Where do gradients come from? An autograd engine in NumPy that can be read in an evening, in this order:

    autograd.py           Function, Context and the backward walk: the whole idea
    functional/           the ops: forward beside backward (elementwise.py first)
    tensor.py             Tensor: data, grad, operators and methods
    creation.py           new tensors: tensor, zeros, ones, randn, arange
    nn/                   layers, and models made of them
    optim.py              SGD, Adam, clipping, the schedule (groups of parameters: parameter_groups.py)
    muon.py               Muon: orthogonalized momentum for hidden matrices
    gradcheck/            finite differences, and what is wrong with a gradient

What these pages call, each in one line:

    graph_checks.py       mistakes in a graph, and in what a backward returns
    numpy_operands.py     what NumPy does with a tensor: array * tensor
    in_place.py           p -= lr * p.grad, and which arrays have been overwritten since forward
    switches.py           is the graph recorded, which kernel runs, who is watching
    dtypes.py             which dtype a result has
    fused.py              ops that do the work of several ops, where there is a kernel for it
    backend.py            NumPy or CuPy: the one file that knows
    notebook.py           how a notebook shows tensors, modules and reports
    precision.py          matrix products from bfloat16 numbers
    kernels/              fast twins of the hot ops, for the CPU and for CUDA
    inspection/           the graph as a picture, time, memory, and where a NaN came from
    torch_names.py        what to write for PyTorch's names that are not here
"""

# ruff: noqa: F401, F403
# mypy: implicit-reexport
import sys

from numpy import float16, float32, float64, int32, int64

from . import functional, inspection, nn, optim, torch_names
from .autograd import Context, Function
from .backend import manual_seed
from .creation import arange, ones, randn, tensor, zeros
from .functional import *  # PyTorch has its functions here too: mg.cat, mg.tril
from .functional import clip as clamp
from .gradcheck.check import gradcheck
from .gradcheck.report import GradcheckError
from .kernels.dispatch import use_kernels
from .precision import autocast
from .switches import no_grad
from .tensor import Tensor

__version__ = "1.0.0"  # setup.cfg reads it here
torch_names.answer_in(sys.modules[__name__], functional, nn, optim, Tensor, nn.Module, Context)

__all__ = [
    "Function", "GradcheckError", "Tensor", "arange", "autocast", "functional", "gradcheck", "inspection",
    "manual_seed", "nn", "no_grad", "ones", "optim", "randn", "tensor", "use_kernels", "zeros",
]  # fmt: skip
