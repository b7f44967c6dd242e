"""Changes in place: what `p -= lr * p.grad` does, and how backward notices that an array it needs was overwritten.

Forward saves arrays for backward, not copies of them. If one is overwritten before backward, the gradient would be that
of other numbers. So whatever in this library overwrites an array (an optimizer, `load_state_dict`, an initializer,
`p += 1`) announces it here first, and each change gets a number: 1, 2, 3, ... A node of the graph keeps the number of
the last change before it ran. If a later one hit memory that the node saved, backward raises an error
(graph_checks.py). It is the memory that counts: whether the saved tensor gets a gradient, or is frozen, detached or a
view of the one that changed, makes no difference.

The library does not see what NumPy does to an array: `x.data[0] = 1`, `x.data -= 1`, `x.numpy()[0] = 1`. Such a change
between forward and backward gives wrong gradients without an error, as in PyTorch. `inspection.detect_anomaly()` finds
it, because it compares checksums.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import switches
from .backend import Array, array_of, buffer_of

changes = 0  # the number of the last change
# id of an array -> [the number of its last change, a reference that does not keep the array alive]
_changed: dict[int, list[Any]] = {}


def announce(arrays: Iterable[Array]) -> None:
    """Say that these arrays are about to be overwritten. Raises ValueError for one that is read-only."""
    global changes
    changes += 1
    for array in arrays:
        entry = _changed.get(id(array))
        if entry is None:  # when the array dies, its entry is removed, because another array may get its id
            if not _is_writable(array):
                raise ValueError(f"an array of shape {array.shape} is read-only, but must be overwritten: pass a copy")
            forget = functools.partial(_changed.pop, id(array))
            _changed[id(array)] = entry = [changes, weakref.ref(array, forget)]
        entry[0] = changes


def announce_update(tensors: Iterable[Any]) -> None:
    """Say that the arrays of these tensors are about to be overwritten. A read-only one is replaced by a copy first.

    Arrays of a file that is mapped into memory are read-only, and those of `np.broadcast_to`, whose elements share
    memory. A parameter needs numbers of its own.
    """
    arrays = []
    for tensor in tensors:
        if not _is_writable(tensor.data):
            tensor.data = np.array(tensor.data)
        elif not tensor.is_parameter:  # perhaps x[1:], a view that soon dies, and its entry with it
            arrays.append(buffer_of(tensor.data))
        arrays.append(tensor.data)
    announce(arrays)


def _is_writable(array: Array) -> bool:
    return getattr(array.flags, "writeable", True)  # CuPy has no read-only arrays


def version(array: Array) -> int:
    """The number of the last change of `array`; 0 if there was none."""
    return _changed.get(id(array), [0])[0]


def changed_since(number: int) -> list[tuple[int, Array]]:
    """The later changes: (number, array)."""
    found = [(last, reference()) for last, reference in list(_changed.values()) if last > number]
    return [(last, array) for last, array in found if array is not None]


class InPlaceOperators:
    """The operators of Tensor that change it in place: `p += x`, `p[index] = x`.

    On the result of an op and on data, `h += x` is `h = h + x`: a new tensor gets the name. On a Parameter, and on any
    leaf with requires_grad, it writes to the tensor's own array, inside of `no_grad`. A graph cannot record such a
    change, so anywhere else it raises RuntimeError, as in PyTorch. So does `p[index] = x`, unless neither p nor x has a
    gradient.

    Other than in PyTorch, `p[0]` and `p.detach()` are results like any other: `h = p[0]`, then `h += 1` leaves p as it
    is. `p[0] += 1` changes p.
    """

    __slots__ = ()
    is_parameter = False

    # fmt: off
    def __iadd__(self: Any, x: Any) -> Any: return _assign(self, "+=", self + x)
    def __isub__(self: Any, x: Any) -> Any: return _assign(self, "-=", self - x)
    def __imul__(self: Any, x: Any) -> Any: return _assign(self, "*=", self * x)
    def __itruediv__(self: Any, x: Any) -> Any: return _assign(self, "/=", self / x)
    def __ipow__(self: Any, x: Any) -> Any: return _assign(self, "**=", self**x)
    def __imatmul__(self: Any, x: Any) -> Any: return _assign(self, "@=", self @ x)
    # fmt: on

    def __setitem__(self: Any, index: Any, x: Any) -> None:
        if switches.is_recording() and (self.requires_grad or getattr(x, "requires_grad", False)):
            raise RuntimeError(_NOT_RECORDED.format("x[index] = ...", "new = F.where(mask, value, x)"))
        announce_update([self])
        self.data[tuple(map(array_of, index)) if isinstance(index, tuple) else array_of(index)] = array_of(x)


_NOT_RECORDED = (
    "`{}` changes a tensor in place, which the graph cannot record: write it under `with no_grad():` to update a "
    "parameter, or `{}` to compute a new tensor"
)


def _assign(tensor: Any, symbol: str, result: Any) -> Any:
    """What `tensor += x` makes of `result`, which is tensor + x: the new tensor, or the new numbers of the old one."""
    if tensor.grad_fn or not (tensor.requires_grad or tensor.is_parameter):
        return result
    if result.requires_grad:  # so it was recorded
        raise RuntimeError(_NOT_RECORDED.format(f"x {symbol} ...", f"new = x {symbol[:-1]} ..."))
    if result.shape != tensor.shape or not np.can_cast(result.dtype, tensor.dtype, "same_kind"):
        before, after = (f"shape {array.shape} and dtype {array.dtype}" for array in (tensor, result))
        raise RuntimeError(f"`x {symbol} ...` changes x in place and cannot turn {before} into {after}")
    announce_update([tensor])
    tensor.data[...] = result.data
    return tensor
