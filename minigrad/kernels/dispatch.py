"""The switch between the textbook form of each op and its fast twin.

    minigrad.use_kernels("fast")                     # what scripts/train.py does; importing minigrad selects "textbook"
    minigrad.use_kernels({"softmax": MySoftmax})     # one op of your own, on top of the current choice
    with minigrad.use_kernels("textbook"): ...       # only here

A twin is a Function with the same arguments and, up to rounding, the same result. How one is found, each time an op
runs: `Function.apply` asks `switches.choose`, which looks into the table of the device that holds the arrays; the
tables are filled here. A twin that is made for some arrays only says so in `suits`; for others, the op itself runs. A
recorded op keeps the Function that ran forward, so forward and backward always match.
"""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Callable, Mapping
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


class CudaKernels(UserDict[Any, Any]):
    """{op: kernel} for arrays on a GPU, made when the first such array asks for a kernel.

    Only then are the CUDA files imported: a machine without a GPU never reads them.
    """

    def __init__(self, make: Callable[[], dict[Any, Any]]):
        self._make = make

    @functools.cached_property
    def data(self) -> dict[Any, Any]:  # type: ignore[override]
        """The dictionary that a UserDict looks into."""
        return self._make()

    def get(self, op: Any, default: Any = None) -> Any:  # UserDict's own raises a KeyError first, which takes longer
        return self.data.get(op, default)


def _fast_on_cuda() -> dict[Any, Any]:
    from . import cuda

    return {**_by_class(cuda.CUDA), **cuda.CUDA_OPTIM}


class use_kernels:
    """Choose what runs when an op is called: "textbook", "fast", or {op name: Function}, which adds to the current
    choice.

    It takes effect at once, for all threads of the process; in a `with` statement, until the block ends. Raises
    ValueError for an unknown name.
    """

    def __init__(self, choice: str | Mapping[Any, type[Function]]):
        accumulate = switches.accumulate
        on_cpu: dict[Any, Any] = {}
        on_cuda: Mapping[Any, Any] = {}
        if choice == "textbook":
            accumulate = None
        elif choice == "fast":
            on_cpu, on_cuda, accumulate = {**_by_class(FAST), **FAST_OPTIM}, CudaKernels(_fast_on_cuda), add_in_place
        elif isinstance(choice, Mapping):
            chosen, before = _by_class(choice), switches.cuda_kernels
            on_cpu = {**switches.kernels, **_not_from("cuda", chosen)}
            on_cuda = CudaKernels(lambda: {**before, **_not_from("cpu", chosen)})
        else:
            raise ValueError(f"kernels are 'textbook', 'fast' or a dictionary {{op name: Function}}, not {choice!r}")
        self._previous = switches.kernels, switches.cuda_kernels, switches.accumulate
        _select(on_cpu, on_cuda, accumulate)

    def __enter__(self) -> use_kernels:
        return self

    def __exit__(self, *exc: object) -> None:
        _select(*self._previous)


def _not_from(folder: str, chosen: dict[type, type]) -> dict[type, type]:
    """The chosen Functions without the twins that are made for the other device."""
    return {op: f for op, f in chosen.items() if not f.__module__.startswith(f"{__package__}.{folder}.")}


def _select(on_cpu: dict[Any, Any], on_cuda: Mapping[Any, Any], accumulate: Any) -> None:
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
