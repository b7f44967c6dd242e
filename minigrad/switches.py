"""Switches that `Function.apply` reads each time it runs: is the graph recorded, which kernel runs, who is watching?

Recording (`no_grad`) and mixed precision (`autocast`) are switched for one thread, as in PyTorch. The choice of kernels
and the observers hold for all threads of the process.

How an op finds its kernel, a faster Function with the same arguments and, up to rounding, the same result:

1. `use_kernels("fast")` fills two tables {op: kernel}, one for NumPy arrays and one for a GPU (kernels/dispatch.py).
2. For each call, `choose_kernel` looks the op up in the table of the device that holds the arrays. (An optimizer finds
   a kernel that updates all parameters at once in the same tables: parameter_groups.py.)
3. A kernel that is made for some inputs only has a method `suits`. Where it returns False, or the table has no kernel,
   the op itself runs: its textbook form. (That of a fused op consists of several ops: fused.py.)
4. For float16, an op may have `widens_float16`: then one that computes in float32 takes its place (dtypes.py).
5. Inside `autocast`, a Function that rounds to bfloat16 takes the place of the chosen one (precision.py).
6. The node that is recorded keeps the Function that ran forward, so backward always matches it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from .backend import is_array, module_of
from .dtypes import in_float32

F = TypeVar("F", bound=Callable[..., Any])


class Observer:
    """Base of classes that watch every op of all threads while they are in `observers`: a profiler, for example."""

    def before(self, phase: str, ctx: Any, arrays: list[Any]) -> None:
        """`phase` is "forward" or "backward"; `arrays` are what the Function is about to get."""

    def after(self, phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> None:
        """`results` are the outputs of forward, or the gradients that backward returned."""


# Each thread has its own value of a ContextVar, and starts with the default.
# `recording` is a stack, and its last entry counts: no_grad pushes False.
recording: ContextVar[tuple[bool, ...]] = ContextVar("recording", default=(True,))
# (textbook, chosen Function) -> the one to run; see precision.py
autocast: ContextVar[Callable[[type, type], type] | None] = ContextVar("autocast", default=None)
tf32 = ContextVar("tf32", default=False)  # do a GPU's products of float32 keep 10 bits of the mantissa?

kernels: dict[Any, Any] = {}  # op -> the kernel to run in its place
# The same for arrays on a GPU. A function makes the table, so the CUDA files are read when the first such array comes.
cuda_kernels: Callable[[], Mapping[Any, Any]] = dict
accumulate: Callable[..., None] | None = None  # what runs in place of autograd.add_up; see kernels/accumulation.py
observers: list[Observer] = []


def is_recording() -> bool:
    """Do ops leave a graph behind in this thread?"""
    return recording.get()[-1]


def choose_kernel(op: Any, arrays: Sequence[Any], needs_grad: Sequence[bool], options: dict[str, Any]) -> Any:
    """Return the Function that runs when `op` is called: a kernel, or `op` itself. See above."""
    kernel, rounding = kernel_for(op, arrays), autocast.get()
    if kernel is None or (hasattr(kernel, "suits") and not kernel.suits(needs_grad, *arrays, **options)):
        kernel = op
    if op.widens_float16 and not (kernel is op and hasattr(op, "compose")):
        for dtype in {array.dtype for array in arrays if hasattr(array, "dtype")}:
            if dtype.itemsize == 2 and dtype.kind not in "iu":
                kernel = in_float32(kernel, dtype)
    return kernel if rounding is None else rounding(op, kernel)


def kernel_for(op: Any, arrays: Sequence[Any]) -> Any:
    """Look `op` up in the table of the device that holds `arrays`; None if there is no kernel."""
    table: Mapping[Any, Any] = kernels
    for array in arrays:
        if type(array) is np.ndarray:  # nearly always
            break
        if is_array(array):
            table = kernels if module_of(array) is np else cuda_kernels()
            break
    return table.get(op)


def forward_of(ctx: Any, arrays: Sequence[Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Choose the Function that runs in place of `ctx.function`, keep it there for backward, and return its forward. If
    there are observers, they are called before and after it.
    """
    ctx.function = choose_kernel(ctx.function, arrays, ctx.needs_grad, options)
    run = ctx.function.forward
    return functools.partial(_run_observed, "forward", run) if observers else run


def backward_of(ctx: Any) -> Callable[..., Any]:
    """The backward of the Function that ran forward; if there are observers, with calls of them around it."""
    run = ctx.function.backward
    return functools.partial(_run_observed, "backward", run) if observers else run


def _run_observed(phase: str, run: Callable[..., Any], ctx: Any, *arrays: Any, **options: Any) -> Any:
    for observer in observers:
        observer.before(phase, ctx, list(arrays))
    result = run(ctx, *arrays, **options)
    for observer in observers[::-1]:  # the last one first, so that each measures the op, and not the others
        observer.after(phase, ctx, list(arrays), result if isinstance(result, tuple) else (result,))
    return result


class no_grad(contextlib.ContextDecorator):
    """Compute without recording: `with no_grad(): ...`, or `@no_grad()` before a function.

    It holds for the thread that enters it. Other threads go on recording.
    """

    _records = False

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):  # calling it only makes the generator, which runs later
            raise TypeError(f"@no_grad() cannot wrap the generator {function.__name__}; use `with no_grad()` in it")
        return super().__call__(function)

    def __enter__(self) -> None:
        recording.set((*recording.get(), self._records))

    def __exit__(self, *exc: object) -> None:
        recording.set(recording.get()[:-1])


class enable_grad(no_grad):
    """Record, even inside of no_grad: `with enable_grad(): ...`."""

    _records = True
