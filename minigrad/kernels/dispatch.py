"""Choose the code that runs when an op is called.

Each op has a textbook form, the Function that you read in functional/. The ops that take most of the time also have a
kernel: a second Function with the same arguments and, up to rounding, the same result, written for speed. A table
{op: kernel} decides. An op that is in the table runs its kernel, and any other op runs itself. So a kernel of your own
takes the place of an op like this:

>>> import numpy as np
>>> from minigrad import Tensor
>>> class LoudExp(Function):
...     @staticmethod
...     def forward(ctx, x):
...         print("LoudExp runs")
...         ctx.out = np.exp(x)
...         return ctx.out
...     @staticmethod
...     def backward(ctx, dout):
...         return dout * ctx.out
>>> x = Tensor([0.0])
>>> with use_kernels({"exp": LoudExp}):
...     functional.exp(x).item()
LoudExp runs
1.0
>>> functional.exp(x).item()  # the textbook form again
1.0

    minigrad.use_kernels("fast")        # all kernels of the two tables below; scripts/train.py calls it
    minigrad.use_kernels("textbook")    # none; this is what you have after `import minigrad`

This file fills the tables. minigrad/switches.py keeps them and looks an op up at each call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from .. import functional, optim, switches
from ..autograd import Function
from ..dtypes import op_name
from ..muon import Muon
from .accumulation import add_in_place
from .cpu import adam, muon, threads
from .cpu.attention import FastSplitHeads, TiledAttention
from .cpu.cross_entropy import FastLinearCrossEntropy
from .cpu.embedding import FastEmbedding
from .cpu.layer_norm import FastLayerNorm, FastRmsNorm
from .cpu.linear import FastGelu, FastLinear, FastLinearGelu
from .cpu.swiglu import FastSwiglu

FAST: dict[str, type[Function]] = {
    "embedding": FastEmbedding,
    "gelu": FastGelu,
    "layer_norm": FastLayerNorm,
    "linear": FastLinear,
    "linear_cross_entropy": FastLinearCrossEntropy,
    "linear_gelu": FastLinearGelu,
    "rms_norm": FastRmsNorm,
    "scaled_dot_product_attention": TiledAttention,
    "split_heads": FastSplitHeads,
    "swiglu": FastSwiglu,
}

# "fast" adds these: in an optimizer's step and in clipping, a function takes the place of another one, or of a class.
FAST_OPTIM: dict[Any, Any] = {
    optim.Adam: adam.update_all,
    optim.AdamW: adam.update_all,
    Muon: muon.update_all,
    optim.sum_of_squares: adam.sum_of_squares,
    optim.scale: adam.scale,
}


def _select(on_cpu: dict[Any, Any], on_cuda: Callable[[], Mapping[Any, Any]], accumulate: Any) -> None:
    """Put the tables in place. on_cuda returns the table for a GPU; it is called when the first array on a GPU comes.

    accumulate: what adds up gradients in place of `autograd.add_up`.
    """
    switches.kernels, switches.cuda_kernels, switches.accumulate = on_cpu, on_cuda, accumulate
    if any(kernel in FAST.values() for kernel in on_cpu.values()):  # is one of our multithreaded kernels selected?
        threads.start()
    else:
        threads.stop()


class use_kernels:
    """Choose what runs when an op is called: "textbook", "fast", or {op: Function}, which adds to the current choice.

    An op is given by its name, as in the example above, or as the class or the function. The choice takes effect at
    once, for all threads of the process; in a `with` statement, until the block ends. Raises ValueError for an unknown
    name.
    """

    def __init__(self, choice: str | Mapping[Any, type[Function]]):
        self._previous = switches.kernels, switches.cuda_kernels, switches.accumulate
        if choice == "textbook":
            _select(on_cpu={}, on_cuda=dict, accumulate=None)  # two empty tables: dict() is {}
        elif choice == "fast":
            _select(fast_on_cpu(), fast_on_cuda, add_in_place)
        elif isinstance(choice, Mapping):
            on_cpu, on_cuda, accumulate = self._previous
            chosen = _by_class(choice)
            # Our own CPU kernels stay out of the GPU's table, and the GPU's out of this one; yours go into both. The
            # table for a GPU is made when the first array on a GPU comes.
            on_cuda_too = functools.cache(lambda: {**on_cuda(), **_without_those_for("cpu", chosen)})
            _select({**on_cpu, **_without_those_for("cuda", chosen)}, on_cuda_too, accumulate)
        else:
            raise ValueError(f"kernels are 'textbook', 'fast' or a dictionary {{op name: Function}}, not {choice!r}")

    def __enter__(self) -> use_kernels:
        return self

    def __exit__(self, *exc: object) -> None:
        _select(*self._previous)


def fast_on_cpu() -> dict[Any, Any]:
    """The table that "fast" selects for NumPy arrays."""
    return {**_by_class(FAST), **FAST_OPTIM}


def only_fast() -> bool:
    """Return True if the fast kernels for the CPU are selected, and no others for it."""
    return switches.kernels == fast_on_cpu()


def textbook_functions() -> dict[str, type[Function]]:
    """Every Function of `minigrad.functional` by its op name, such as "layer_norm"."""
    prefix = functional.__name__ + "."
    return {op_name(function): function for function in _subclasses(Function) if function.__module__.startswith(prefix)}


def _subclasses(function: type[Function]) -> list[type[Function]]:
    direct = function.__subclasses__()
    return direct + [below for subclass in direct for below in _subclasses(subclass)]


def _by_class(choice: Mapping[Any, type[Function]]) -> dict[type, type]:
    """{op: kernel} with the ops as classes, as `Function.apply` looks them up."""
    known = textbook_functions()
    chosen: dict[type, type] = {}
    for op, kernel in choice.items():
        if isinstance(op, str):
            name = op
        elif isinstance(op, type):  # a class: LayerNorm is "layer_norm"
            name = op_name(op)
        else:  # a function: functional.layer_norm
            name = op.__name__
        if name not in known:
            raise ValueError(f"there is no op {name!r}; the ops are {', '.join(sorted(known))}")
        if not (isinstance(kernel, type) and issubclass(kernel, Function)):
            raise ValueError(f"the kernel for {name!r} must be a subclass of Function, not {kernel!r}")
        chosen[known[name]] = kernel
    return chosen


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@functools.cache
def fast_on_cuda() -> dict[Any, Any]:
    """The table that "fast" selects for arrays on a GPU. Only here are the CUDA files imported."""
    from . import cuda  # has run in an emulation only, not on a GPU yet: see there

    return _by_class(cuda.CUDA)


def _without_those_for(device: str, chosen: dict[type, type]) -> dict[type, type]:
    """The chosen kernels, except for those in the folder of `device`. Your own are in no such folder, and stay."""
    folder = f"{__package__}.{device}."
    return {op: kernel for op, kernel in chosen.items() if not kernel.__module__.startswith(folder)}
