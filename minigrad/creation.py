"""New tensors, under PyTorch's names: `tensor(data)` copies what it is given; the others take a shape or a range."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import DEFAULT_DTYPE, generator
from .functional.argument_checks import Size
from .tensor import Tensor, unpacked


def tensor(data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data`: a number, a nested list, an array or a Tensor. (`Tensor(array)` shares it.)

    Python floats become float32; an array keeps its dtype. Raises TypeError for what does not consist of numbers.
    """
    return Tensor(Tensor(data, dtype=dtype, device=device).data.copy(), requires_grad)


def zeros(*size: Size, dtype: Any = DEFAULT_DTYPE, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros of shape `size`: zeros(2, 3) or zeros((2, 3))."""
    return Tensor(np.zeros(unpacked(size), dtype), requires_grad, device=device)


def ones(*size: Size, dtype: Any = DEFAULT_DTYPE, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of shape `size`: ones(2, 3) or ones((2, 3))."""
    return Tensor(np.ones(unpacked(size), dtype), requires_grad, device=device)


def randn(*size: Size, dtype: Any = DEFAULT_DTYPE, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Numbers drawn from the normal distribution of mean 0 and variance 1; `manual_seed` makes them repeatable."""
    return Tensor(generator().standard_normal(unpacked(size), DEFAULT_DTYPE), requires_grad, dtype, device)


def arange(*bounds: float, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """arange(end), arange(start, end) or arange(start, end, step): start, start + step, ... up to but without end.

    int64 if all are integers, else float32. Raises TypeError for other than one to three numbers.
    """
    if dtype is None:
        dtype = DEFAULT_DTYPE if any(isinstance(bound, float | np.floating) for bound in bounds) else np.int64
    return Tensor(np.arange(*bounds), requires_grad, dtype, device)
