"""Tensor: an array, its gradient, and where it came from. Its operators and methods are functions of F."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import autograd, backend, in_place
from . import functional as F
from .backend import Array
from .dtypes import DtypeRules, check_differentiable, promote_inputs
from .functional.argument_checks import Operand, Size
from .notebook import tensor_html
from .numpy_operands import NumpyOperands


# InPlaceOperators: `+=` and the like. NumpyOperands: how NumPy treats a Tensor operand.
@autograd.register_tensor_class
class Tensor(in_place.InPlaceOperators, NumpyOperands):
    """An n-dimensional array that remembers how it was computed.

    data: an array, a Tensor, a number or a nested list. An array is shared, not copied; Python floats become float32.
    grad: for a leaf with requires_grad, after `backward()`: an array of the same shape and dtype; adds up until zeroed.
    For changes in place, such as `p -= lr * p.grad`, see in_place.py.
    Raises TypeError for data that does not consist of numbers, ValueError for a list whose rows differ in length.
    """

    __slots__ = ("_array", "_gradient", "requires_grad", "grad_fn", "output_index", "__weakref__")

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None, device: str | None = None):
        self._array: Array = backend.as_array(data, dtype, device)
        self._gradient: Array | None = None
        self.grad_fn: autograd.Context | None = None  # the call that computed it; None for a leaf
        self.output_index = 0  # which of the results of that call it is
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # --- attributes: only arrays, and NumPy's numbers, can be assigned to `data` and `grad` ---

    @property
    def data(self) -> Array:
        return self._array

    @data.setter
    def data(self, array: Array) -> None:
        check_assigned("data", array)
        self._array = array

    @property
    def grad(self) -> Array | None:
        return self._gradient

    @grad.setter
    def grad(self, array: Array | None) -> None:
        if array is not None:
            check_assigned("grad", array)
            if array.shape != self.shape:
                raise ValueError(f"tensor.grad must have the tensor's shape {self.shape}, got {array.shape}")
        self._gradient = array

    is_leaf = property(lambda self: self.grad_fn is None)
    version = property(lambda self: in_place.version(self.data))  # grows when the library changes data in place

    # --- gradients ---

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor to the `.grad` of every leaf that it was computed from.

        gradient: of the loss with respect to this tensor; for a scalar, 1. retain_graph: allow a second backward().
        Raises RuntimeError if no gradient was asked for, or for a gradient of another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor computed under no_grad, or from none with requires_grad=True")
        if gradient is None and self.data.size != 1:
            raise RuntimeError(f"backward() starts from a scalar; for shape {self.shape}, pass its gradient")
        if gradient is None:
            gradient = backend.module_of(self.data).ones_like(self.data)
        gradient = backend.as_array(gradient, self.dtype)
        device = backend.device_of(gradient)
        if gradient.shape != self.shape or device != self.device:
            raise RuntimeError(
                f"backward() got a gradient of shape {gradient.shape} on {device} "
                f"for a tensor of shape {self.shape} on {self.device}"
            )
        autograd.backward(self, gradient, retain_graph)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for a gradient, or stop asking."""
        if requires_grad:
            check_differentiable(self.dtype)
        if self.grad_fn is not None and not requires_grad:
            raise RuntimeError("the result of an op cannot stop asking for a gradient; use detach()")
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Keep the gradient of this intermediate result in its `.grad`, as for a leaf."""
        if self.grad_fn is not None:
            self.grad_fn.retain_grad_of[self.output_index] = self  # backward will add to this tensor's grad

    def zero_grad(self) -> None: self.grad = None  # fmt: skip

    # --- leaving the graph ---

    def detach(self) -> Tensor:
        """A leaf with the same data, without a gradient."""
        return Tensor(self.data)

    def numpy(self) -> np.ndarray:
        """The data on the host, outside the graph; on the CPU shared, not copied."""
        return backend.to_numpy(self.data)

    # --- operators ---

    # fmt: off
    def __add__(self, other: Operand) -> Tensor: return F.add(self, other)
    def __radd__(self, other: Operand) -> Tensor: return F.add(other, self)
    def __sub__(self, other: Operand) -> Tensor: return F.sub(self, other)
    def __rsub__(self, other: Operand) -> Tensor: return F.sub(other, self)
    def __mul__(self, other: Operand) -> Tensor: return F.mul(self, other)
    def __rmul__(self, other: Operand) -> Tensor: return F.mul(other, self)
    def __truediv__(self, other: Operand) -> Tensor: return F.div(self, other)
    def __rtruediv__(self, other: Operand) -> Tensor: return F.div(other, self)
    def __pow__(self, other: Operand) -> Tensor: return F.pow(self, other)
    def __rpow__(self, other: Operand) -> Tensor: return F.pow(other, self)
    def __matmul__(self, other: Any) -> Tensor: return F.matmul(self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return F.matmul(other, self)
    def __neg__(self) -> Tensor: return F.neg(self)
    def __getitem__(self, index: Any) -> Tensor: return F.getitem(self, index)

    def __eq__(self, other: Any) -> Tensor: return _compare(operator.eq, self, other)  # type: ignore[override]
    def __ne__(self, other: Any) -> Tensor: return _compare(operator.ne, self, other)  # type: ignore[override]
    def __lt__(self, other: Any) -> Tensor: return _compare(operator.lt, self, other)
    def __le__(self, other: Any) -> Tensor: return _compare(operator.le, self, other)
    def __gt__(self, other: Any) -> Tensor: return _compare(operator.gt, self, other)
    def __ge__(self, other: Any) -> Tensor: return _compare(operator.ge, self, other)
    __hash__ = object.__hash__  # which a class that defines __eq__ loses

    def __bool__(self) -> bool: return bool(self.data)
    def __float__(self) -> float: return float(self.item())
    def __int__(self) -> int: return int(self.item())
    def __index__(self) -> int: return operator.index(self.item())  # range(n) and mg.zeros(n), of an integer
    def __len__(self) -> int: return len(self.data)
    def __iter__(self) -> Iterator[Tensor]: return (self[i] for i in range(len(self.data)))
    def __format__(self, spec: str) -> str: return format(self.item(), spec) if spec else str(self)

    # --- methods: functions of F, with the tensor as their first argument ---

    add, sub, mul, div, pow, matmul = F.add, F.sub, F.mul, F.div, F.pow, F.matmul
    sum, mean, var, std, prod = F.sum, F.mean, F.var, F.std, F.prod
    max, min, amax, amin, argmax, argmin = F.max, F.min, F.amax, F.amin, F.argmax, F.argmin
    exp, log, sqrt, abs, __abs__ = F.exp, F.log, F.sqrt, F.abs, F.abs
    tanh, sigmoid, relu, softmax, log_softmax = F.tanh, F.sigmoid, F.relu, F.softmax, F.log_softmax
    clip, clamp, masked_fill, sort, topk = F.clip, F.clip, F.masked_fill, F.sort, F.topk
    transpose, squeeze, unsqueeze, flatten = F.transpose, F.squeeze, F.unsqueeze, F.flatten
    split, chunk, tril, triu = F.split, F.chunk, F.tril, F.triu
    to = F.to

    # --- shape and values ---

    @property
    def shape(self) -> tuple[int, ...]: return self.data.shape
    @property
    def ndim(self) -> int: return self.data.ndim
    @property
    def dtype(self) -> np.dtype: return self.data.dtype
    @property
    def device(self) -> str: return backend.device_of(self.data)
    def size(self, dim: int | None = None) -> Any: return self.shape if dim is None else self.shape[dim]
    def numel(self) -> int: return self.data.size
    def item(self) -> Any: return self.data.item()  # the only element, as a Python number
    def tolist(self) -> Any: return self.data.tolist()
    @property
    def T(self) -> Tensor: return F.permute(self, tuple(range(self.ndim))[::-1])
    def reshape(self, *shape: Size) -> Tensor: return F.reshape(self, unpacked(shape))
    def view(self, *shape: Size) -> Tensor: return F.view(self, unpacked(shape))
    def permute(self, *dims: Size) -> Tensor: return F.permute(self, unpacked(dims))
    def expand(self, *shape: Size) -> Tensor: return F.expand(self, unpacked(shape))

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), precision=4, separator=", ", prefix="tensor(", threshold=100)
        notes = (f", shape={self.shape}" if self.data.size == 0 else "") + f", dtype={self.dtype}"
        notes += f", device={self.device}" if self.device != "cpu" else ""
        if self.requires_grad:
            notes += f", made by {self.grad_fn.function.__name__}" if self.grad_fn else ", requires_grad=True"
        return f"tensor({values}{notes})"

    def _repr_html_(self) -> str:  # for notebooks
        made_by = f", made by {self.grad_fn.function.__name__}" if self.grad_fn else ""
        return tensor_html(self.data, f"{self.dtype}{made_by}")


def check_assigned(name: str, value: Any) -> None:
    """Raise TypeError for anything but an array, or the number that a full reduction in NumPy returns."""
    if not (isinstance(value, np.ndarray | np.generic) or backend.is_array(value)):
        of_tensor = ": assign its .data" if isinstance(value, Tensor) else ""
        raise TypeError(f"tensor.{name} must be an array, got {type(value).__name__}{of_tensor}")


class _Comparison(DtypeRules):
    """`x < y` casts its operands as `x + y` does. This class only carries the rule that promote_inputs reads."""

    dtype_rule = "promote"


def _compare(op: Callable[..., Array], x: Any, y: Any) -> Tensor:
    """True and False, which have no gradient."""
    return Tensor(op(*promote_inputs(_Comparison, [backend.array_of(x), backend.array_of(y)])))


def unpacked(sizes: Any) -> tuple[int, ...]:
    """x.reshape(2, 3) and x.reshape((2, 3)) are the same."""
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    return tuple(map(operator.index, sizes))
