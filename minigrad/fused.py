"""Fused ops: each does the work of several ops at once, if there is a fast kernel for it."""

from __future__ import annotations

from typing import Any

from . import switches
from .autograd import Function, gather_inputs


class FusedFunction(Function):
    """An op whose textbook form is `compose`: a function of tensors that calls the several ops.

    A fast kernel has a forward and a backward of its own. It takes their place where it is selected and suits.
    """

    compose: Any

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        arrays, needs_grad, _ = gather_inputs(cls, inputs)
        if switches.choose_kernel(cls, arrays, needs_grad, options) is cls:
            return cls.compose(*inputs, **options)
        return super().apply(*inputs, **options)
