"""What NumPy does with a tensor among its operands: `array * tensor`, `np.add(array, tensor)`, `np.asarray(tensor)`.

If an operand has `__array_ufunc__`, NumPy calls that; otherwise it would make an array of the tensor, and lose the
gradient (NumPy Enhancement Proposal 13).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from . import functional as F

_OPS = {"add": F.add, "subtract": F.sub, "multiply": F.mul, "divide": F.div, "power": F.pow, "matmul": F.matmul}
# The operator of each comparison, and the one that says the same of (y, x): x < y is y > x. An array that is compared
# with a tensor calls NumPy, which comes back here, so the tensor must stand first.
_COMPARISONS: dict[str, tuple[Any, Any]] = {
    "equal": (operator.eq, operator.eq),
    "not_equal": (operator.ne, operator.ne),
    "less": (operator.lt, operator.gt),
    "less_equal": (operator.le, operator.ge),
    "greater": (operator.gt, operator.lt),
    "greater_equal": (operator.ge, operator.le),
}


class NumpyOperands:
    """The part of Tensor that NumPy calls."""

    __slots__ = ()

    def __array__(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError("NumPy would lose the gradient of this tensor; use minigrad.functional, or tensor.numpy()")
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        name = ufunc.__name__
        is_plain_call = method == "__call__" and not options  # not np.add.reduce, and no out=
        if is_plain_call and name in _OPS:
            return _OPS[name](*inputs)
        if is_plain_call and name in _COMPARISONS:
            x, y = inputs
            compare, compare_swapped = _COMPARISONS[name]
            return compare(x, y) if isinstance(x, NumpyOperands) else compare_swapped(y, x)
        ours = {"negative": "neg", "absolute": "abs"}.get(name, name)
        instead = f"F.{ours} (minigrad.functional)" if hasattr(F, ours) else "a function of minigrad.functional"
        raise TypeError(f"np.{name} does not record gradients; use {instead} or tensor.numpy()")
