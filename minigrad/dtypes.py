"""Type promotion: the dtype that an op computes in, by PyTorch's rules.

In NumPy, int32 + float32 is float64, and one float64 number in an array without dimensions turns a float32 array into
float64. PyTorch does neither, and neither do we: a training run in float32 must stay in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import DEFAULT_DTYPE, as_array, device_of, is_array, is_unusual

_EXACT = "biu"  # NumPy's kinds: boolean, signed, unsigned integer; the rest is floating point
_SCALARS = {bool: np.dtype(bool), int: np.dtype(np.int64), float: DEFAULT_DTYPE, complex: np.dtype(np.complex64)}


def is_floating(dtype: np.dtype) -> bool:
    """Is this a dtype of real or complex numbers? (Complex ones occur in gradcheck's complex step alone.)"""
    return dtype.kind not in _EXACT


def check_differentiable(dtype: np.dtype) -> None:
    """Raise RuntimeError for a dtype that can have no gradient: integers, and complex numbers, for which the slopes
    of `abs`, `max` and others would be wrong.
    """
    if dtype.kind in "biuc":
        raise RuntimeError(f"only real floating-point tensors can have gradients, not {dtype}")


def promote(operands: Sequence[Any], to_float: bool = False) -> list[Any]:
    """Cast the arrays among `operands` to the dtype that PyTorch would compute in; Python numbers stay as they are.

    Arrays with dimensions come before arrays without, and both before Python numbers. An operand that comes later
    counts only if it is of a higher kind (bool < integer < float). `to_float=True` is for ops such as `exp`, which turn
    integers into float32.

    >>> x, y = promote([np.zeros(3, np.float32), np.array(2.0)])
    >>> x.dtype, y.dtype
    (dtype('float32'), dtype('float32'))
    """
    arrays = [operand for operand in operands if is_array(operand)]
    first = arrays[0].dtype if arrays else DEFAULT_DTYPE
    if first.kind == "f" and all([array.dtype == first for array in arrays]):
        return list(operands)
    dtype = result_type(operands)
    if to_float and not is_floating(dtype):
        dtype = DEFAULT_DTYPE
    return [operand.astype(dtype, copy=False) if is_array(operand) else operand for operand in operands]


def result_type(operands: Sequence[Any]) -> np.dtype:
    """The common dtype of arrays and Python numbers, as `torch.result_type` finds it.

    >>> result_type([np.zeros(3, np.int32), 2.5]), result_type([np.zeros(3, np.int64), np.zeros(3, np.float32)])
    (dtype('float32'), dtype('float32'))
    """
    tiers: list[np.dtype | None] = [None, None, None]  # arrays with dimensions, arrays without, Python numbers
    for operand in operands:
        if is_array(operand):
            tier = 0 if operand.ndim else 1
            dtype = operand.dtype
        elif operand is not None:
            tier = 2
            dtype = _SCALARS[type(operand)]
        else:
            continue
        current = tiers[tier]
        tiers[tier] = dtype if current is None else _common(current, dtype)
    # the highest kind decides, and among equal kinds the first: max() returns the first of several largest
    return max([dtype for dtype in tiers if dtype is not None], key=_rank, default=DEFAULT_DTYPE)


def _common(a: np.dtype, b: np.dtype) -> np.dtype:
    if is_floating(a) != is_floating(b):  # an integer never widens a float
        return a if is_floating(a) else b
    return np.promote_types(a, b)


def _rank(dtype: np.dtype) -> int:
    return {"b": 0, "i": 1, "u": 1, "c": 3}.get(dtype.kind, 2)  # the rest are floats


class DtypeRules:
    """What happens to the dtypes of an op's inputs: the base class of Function, which overrides what is different.

    dtype_rule: "any": nothing; "same": they must be equal; "promote": all are cast to a common one, as in PyTorch;
    "float": as "promote", and integers become floats. widens_float16: sums or squares need more digits or range, so
    float16 is computed in float32. autocast: mixed precision rounds the inputs, as for matrix products.
    """

    dtype_rule = "any"
    widens_float16 = False
    autocast = False


def promote_inputs(function: Any, operands: list[Any]) -> list[Any]:
    """Cast the inputs of an op as its `dtype_rule` says.

    Raises RuntimeError for operands on two devices, TypeError for dtypes that must not be mixed, for np.matrix and
    masked arrays, and for anything that is not a tensor, an array or a number.
    """
    dtype, same_dtype = None, True
    for operand in operands:
        kind = type(operand)
        if kind is np.ndarray:
            if operand.dtype is not dtype:
                same_dtype = dtype is None
                dtype = operand.dtype
                if not dtype.isnative:
                    break
        elif kind is not float and kind is not int and operand is not None:
            break
    else:  # the usual case: all on the CPU, in the machine's byte order, and of one dtype or free to differ
        rule = function.dtype_rule
        if rule == "any" or (same_dtype and (dtype is None or dtype.kind == "f" or rule == "same")):
            return operands
    return _promote_in_general(function, [x.item() if isinstance(x, np.generic) else x for x in operands])


def _promote_in_general(function: Any, operands: list[Any]) -> list[Any]:
    for operand in operands:
        if operand is not None and type(operand) not in _SCALARS and not is_array(operand):
            raise TypeError(f"{op_name(function)}: expected tensors, arrays or numbers, got {type(operand).__name__}")
    operands = [as_array(operand) if is_unusual(operand) else operand for operand in operands]
    arrays = [operand for operand in operands if is_array(operand)]
    devices = list(dict.fromkeys(device_of(array) for array in arrays))
    if len(devices) > 1:
        where = " and ".join(devices)
        raise RuntimeError(f"{op_name(function)}: inputs are on {where}; move one of them with .to(device)")
    rule = function.dtype_rule
    if rule == "same":
        names = sorted({str(array.dtype) for array in arrays})
        if len(names) > 1:
            mixed = " and ".join(names)
            raise TypeError(f"{op_name(function)}: cannot mix {mixed}; convert one of them with .to(dtype)")
        return operands
    return operands if rule == "any" else promote(operands, to_float=rule == "float")


@functools.cache
def in_float32(function: Any, dtype: np.dtype) -> Any:
    """A Function that computes what `function` does, but in float32; its arrays and results are of `dtype`.

    dtype is float16 or bfloat16, a float of two bytes. float16 has 11 binary digits, and 65504 is its largest number: a
    sum of some thousand terms, the square of 300 and the number of 70,000 rows are beyond it.
    """

    def widened(x: Any) -> Any:
        return x.astype(np.float32) if is_array(x) and x.dtype == dtype else x

    def rounded(x: Any) -> Any:
        return x.astype(dtype) if isinstance(x, np.float32) or (is_array(x) and x.dtype == np.float32) else x

    return twin(function, widened, rounded)


@functools.cache
def twin(function: Any, prepare: Any, finish: Any) -> Any:
    """A Function that calls `prepare` on what goes into `function`, and `finish` on what comes out, both ways."""

    @functools.wraps(function.forward)
    def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
        return finish(function.forward(ctx, *map(prepare, arrays), **options))

    @functools.wraps(function.backward)
    def backward(ctx: Any, *douts: Any) -> tuple[Any, ...]:
        return tuple(map(finish, function.backward(ctx, *map(prepare, douts))))

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward), "__doc__": function.__doc__}
    return type(function.__name__, (function,), methods)


def op_name(function: type) -> str:
    """The name in `F` of a Function class.

    >>> op_name(type("LogSoftmax", (), {}))
    'log_softmax'
    """
    return "".join("_" + c.lower() if c.isupper() else c for c in function.__name__).lstrip("_")
