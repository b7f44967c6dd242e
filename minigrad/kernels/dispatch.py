"""The switch between the textbook form of each op and its fast twin.

    minigrad.use_kernels("fast")                     # what scripts/train.py does; importing minigrad selects "textbook"
    minigrad.use_kernels({"softmax": MySoftmax})     # one op of your own, on top of the current choice
    with minigrad.use_kernels("textbook"): ...       # only here

A twin is a Function with the same arguments and, up to rounding, the same result. `Function.apply` looks it up each
time an op runs, for the device that holds the arrays. A recorded op keeps the Function that ran forward, so forward and
backward always match.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import functional, optim, switches
from ..autograd import Function
from ..dtypes import op_name
from .accumulation import add_in_place
from .cpu import threads
from .cpu.adam import scale, sum_of_squares, update_all
from .cpu.attention import FastSplitHeads, TiledAttention
from .cpu.cross_entropy import FastLinearCrossEntropy
from .cpu.embedding import FastEmbedding
from .cpu.layer_norm import FastLayerNorm, FastRmsNorm
from .cpu.linear import FastGelu, FastLinear, FastLinearGelu
from .cpu.swiglu import FastSwiglu
from .cuda import CUDA, CUDA_OPTIM

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

FAST_OPTIM = {optim.Adam: update_all, optim.AdamW: update_all, optim.sum_of_squares: sum_of_squares, optim.scale: scale}


class use_kernels:
    """Choose what runs when an op is called: "textbook", "fast", or {op name: Function}, which adds to the current
    choice.

    It takes effect at once, for all threads of the process; in a `with` statement, until the block ends. Raises
    ValueError for an unknown name.
    """

    def __init__(self, choice: str | Mapping[Any, type[Function]]):
        accumulate = switches.accumulate
        if choice == "textbook":
            accumulate = None
            on_cpu: dict[Any, Any] = {}
            on_cuda: dict[Any, Any] = {}
        elif choice == "fast":
            accumulate = add_in_place
            on_cpu, on_cuda = {**_by_class(FAST), **FAST_OPTIM}, {**_by_class(CUDA), **CUDA_OPTIM}
        elif isinstance(choice, Mapping):
            chosen = _by_class(choice)
            on_cpu = {**switches.kernels, **_without(CUDA, chosen)}
            on_cuda = {**switches.cuda_kernels, **_without(FAST, chosen)}
        else:
            raise ValueError(f"kernels are 'textbook', 'fast' or a dictionary {{op name: Function}}, not {choice!r}")
        self._previous = switches.kernels, switches.cuda_kernels, switches.accumulate
        _select(on_cpu, on_cuda, accumulate)

    def __enter__(self) -> use_kernels:
        return self

    def __exit__(self, *exc: object) -> None:
        _select(*self._previous)


def _without(twins: dict[str, type[Function]], chosen: dict[type, type]) -> dict[type, type]:
    """The chosen Functions without the twins that are made for the other device."""
    return {op: function for op, function in chosen.items() if function not in twins.values()}


def _select(on_cpu: dict[Any, Any], on_cuda: dict[Any, Any], accumulate: Any) -> None:
    switches.kernels, switches.cuda_kernels, switches.accumulate = on_cpu, on_cuda, accumulate
    if any(kernel in FAST.values() for kernel in on_cpu.values()):
        threads.start()
    else:
        threads.stop()


def only_fast() -> bool:
    """Are the fast kernels selected, and nothing else?"""
    fast: dict[Any, Any] = {**_by_class(FAST), **FAST_OPTIM}
    return switches.kernels == fast


def textbook_functions() -> dict[str, type[Function]]:
    """Every Function of `minigrad.functional` by its op name, such as "layer_norm"."""
    prefix = functional.__name__ + "."
    return {op_name(function): function for function in _subclasses(Function) if function.__module__.startswith(prefix)}


def _subclasses(function: type[Function]) -> list[type[Function]]:
    direct = function.__subclasses__()
    return direct + [below for subclass in direct for below in _subclasses(subclass)]


def _by_class(choice: Mapping[Any, type[Function]]) -> dict[type, type]:
    known = textbook_functions()
    chosen: dict[type, type] = {}
    for op, function in choice.items():
        name = op if isinstance(op, str) else op_name(op) if isinstance(op, type) else op.__name__
        if name not in known:
            raise ValueError(f"there is no op {name!r}; the ops are {', '.join(sorted(known))}")
        if not (isinstance(function, type) and issubclass(function, Function)):
            raise ValueError(f"the kernel for {name!r} must be a subclass of Function, not {function!r}")
        chosen[known[name]] = function
    return chosen
