"""The switch between the textbook form of each op and its fast twin.

    minigrad.use_kernels("fast")                     # what scripts/train.py does; importing minigrad selects "textbook"
    minigrad.use_kernels({"softmax": MySoftmax})     # one op of your own, on top of the current choice
    with minigrad.use_kernels("textbook"): ...       # only here

The fast twin of an op, its kernel, is a Function with the same arguments and, up to rounding, the same result. This
file fills the tables {op: kernel}; minigrad/switches.py tells how an op finds its kernel in them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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

# Of an optimizer's step, and of what clips gradients, the fast twin is a function.
FAST_OPTIM: dict[Any, Any] = {
    optim.Adam: adam.update_all,
    optim.AdamW: adam.update_all,
    Muon: muon.update_all,
    optim.sum_of_squares: adam.sum_of_squares,
    optim.scale: adam.scale,
}


def fast_on_cpu() -> dict[Any, Any]:
    """The table that "fast" selects for NumPy arrays."""
    return {**_by_class(FAST), **FAST_OPTIM}


@functools.cache
def fast_on_cuda() -> dict[Any, Any]:
    """The table for a GPU. Called, and so imported, only when the first array on a GPU asks for a kernel."""
    from . import cuda

    return _by_class(cuda.CUDA)


class use_kernels:
    """Choose what runs when an op is called: "textbook", "fast", or {op name: Function}, which adds to the current
    choice.

    It takes effect at once, for all threads of the process; in a `with` statement, until the block ends. Raises
    ValueError for an unknown name.
    """

    def __init__(self, choice: str | Mapping[Any, type[Function]]):
        self._previous = switches.kernels, switches.cuda_kernels, switches.accumulate
        if choice == "textbook":
            _select(on_cpu={}, on_cuda=dict, accumulate=None)  # no kernels; dict() is an empty table for a GPU
        elif choice == "fast":
            _select(fast_on_cpu(), fast_on_cuda, add_in_place)
        elif isinstance(choice, Mapping):
            self._add(_by_class(choice))
        else:
            raise ValueError(f"kernels are 'textbook', 'fast' or a dictionary {{op name: Function}}, not {choice!r}")

    def _add(self, chosen: dict[type, type]) -> None:
        """Select these kernels on top of the current choice, each for the devices that it is made for."""
        on_cpu, on_cuda, accumulate = self._previous

        @functools.cache
        def with_chosen() -> dict[Any, Any]:  # called when the first array on a GPU comes
            return {**on_cuda(), **_usable_on("cuda", chosen)}

        _select({**on_cpu, **_usable_on("cpu", chosen)}, with_chosen, accumulate)

    def __enter__(self) -> use_kernels:
        return self

    def __exit__(self, *exc: object) -> None:
        _select(*self._previous)


def _usable_on(device: str, chosen: dict[type, type]) -> dict[type, type]:
    """Without the kernels in the folder of the other device. Your own, in neither folder, stay for both."""
    other = {"cpu": "cuda", "cuda": "cpu"}[device]
    return {op: f for op, f in chosen.items() if not f.__module__.startswith(f"{__package__}.{other}.")}


def _select(on_cpu: dict[Any, Any], on_cuda: Any, accumulate: Any) -> None:
    switches.kernels, switches.cuda_kernels, switches.accumulate = on_cpu, on_cuda, accumulate
    if any(kernel in FAST.values() for kernel in on_cpu.values()):  # is one of our multithreaded kernels selected?
        threads.start()
    else:
        threads.stop()


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
    """{op: kernel} with the ops as classes; they may be given by name, as classes or as functions of `F`."""
    known = textbook_functions()
    chosen: dict[type, type] = {}
    for op, kernel in choice.items():
        if isinstance(op, str):
            name = op
        elif isinstance(op, type):
            name = op_name(op)
        else:
            name = op.__name__
        if name not in known:
            raise ValueError(f"there is no op {name!r}; the ops are {', '.join(sorted(known))}")
        if not (isinstance(kernel, type) and issubclass(kernel, Function)):
            raise ValueError(f"the kernel for {name!r} must be a subclass of Function, not {kernel!r}")
        chosen[known[name]] = kernel
    return chosen
