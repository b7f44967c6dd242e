"""Compare a result with the one that was expected: how do they differ? words.py says it in a sentence.

Like minigrad/gradcheck/diagnosis.py, which does this for gradients, it tries changes: if multiplying by -1, or
exchanging two axes, makes the result right, then that is how they differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

REPAIRED = ("sign", "transposed", "factor", "places")  # kinds that say what would make all numbers right
ENOUGH = 3  # numbers from which such a kind may be concluded: any two have a ratio


class Difference(NamedTuple):
    """How `got` differs from `right`, both taken from the place `path` of the results, as in (0, "weight").

    kind: "none" "text" "tokens" "no dict" "lacks" "surplus" "length" "no array" "dtype" "shape" "nan" "inf" "finite"
    "values", or one of REPAIRED. fact: what belongs to the kind: a factor, keys, the dtype that is needed; of
    a shape what would repair it: "same numbers" "transposed" "axes left", or the axes over which it is summed too far.
    """

    kind: str
    path: tuple[Any, ...]
    got: Any
    right: Any
    fact: Any = None

    def confirmed(self, other: Difference | None) -> Difference:
        """Without what would make it right, if that does not hold for another difference as well."""
        alike = other is not None and other.kind == self.kind and (other.fact == self.fact or self.kind == "factor")
        kind = self.kind if alike or self.kind not in REPAIRED else "values"
        return self._replace(kind=kind, fact=self.fact if alike or self.kind != "shape" else None)

    @property
    def says_what(self) -> bool:
        """Whether it says more than that there are other numbers somewhere."""
        return self.kind not in ("values", "nan", "inf") and (self.kind != "shape" or self.fact is not None)

    @property
    def status(self) -> str:
        """The kind of a finding with this difference."""
        return {"shape": "shape", "nan": "non-finite", "inf": "non-finite"}.get(self.kind, "values")


def difference(got: Any, right: Any, tolerance: float = 1e-6, path: tuple[Any, ...] = ()) -> Difference | None:
    """The first difference of arrays, numbers, texts, and sequences or mappings of those; None if there is none."""

    def found(kind: str, fact: Any = None) -> Difference:
        return Difference(kind, path, got, right, fact)

    if right is None:  # what a check's `call` remarks about a result, which is not part of it
        return None
    if got is None:
        return found("none")
    if isinstance(right, str | bytes | bool):
        return None if type(got) is type(right) and got == right else found("text")
    if isinstance(right, Mapping):
        if not isinstance(got, Mapping):
            return found("no dict")
        for kind, keys, there in (("lacks", right, got), ("surplus", got, right)):
            if missing := [key for key in keys if key not in there]:
                return found(kind, missing)
        parts = [(got[key], right[key], (*path, key)) for key in right]
    elif isinstance(right, list) and isinstance(got, list) and _are_texts([*got, *right]):
        return None if got == right else found("tokens")
    elif isinstance(right, list | tuple):
        if not isinstance(got, list | tuple) or len(got) != len(right):
            return found("length")
        parts = [(g, r, (*path, i)) for i, (g, r) in enumerate(zip(got, right, strict=True))]
    elif not isinstance(got, np.ndarray | np.generic | int | float):
        return found("no array")
    else:
        kind, fact = of_arrays(np.asarray(got), np.asarray(right), tolerance)
        return found(kind, fact) if kind else None
    return next(filter(None, (difference(g, r, tolerance, name) for g, r, name in parts)), None)


def same(got: Any, right: Any, tolerance: float = 1e-6) -> bool:
    """Whether there is no difference.

    >>> same([1.0, np.ones(2)], [1.0, np.ones(2)]), same(np.ones(2), np.ones(3))
    (True, False)
    """
    return difference(got, right, tolerance) is None


def of_arrays(got: np.ndarray, right: np.ndarray, tolerance: float) -> tuple[str, Any]:
    """The kind of difference and its fact; "" if there is none."""
    if got.shape != right.shape:
        return "shape", _about_shapes(got, right, tolerance)
    if right.dtype.kind in "iub":
        is_right = np.array_equal(got, right)
        alike = got.dtype.kind == right.dtype.kind or {got.dtype.kind, right.dtype.kind} <= set("iu")
        if not alike and (right.dtype.kind == "b" or is_right):
            return "dtype", "boolean" if right.dtype.kind == "b" else "integers"
        turned = got.ndim > 1 and got.size >= ENOUGH and np.array_equal(got.swapaxes(-1, -2), right)
        return ("" if is_right else "transposed" if turned else "values"), None
    if got.dtype.kind not in "fiu":
        return "dtype", "floating-point numbers"
    return of_numbers(got.astype(np.float64), right, tolerance)


def of_numbers(got: np.ndarray, right: np.ndarray, tolerance: float) -> tuple[str, Any]:
    """The same for two arrays of floating-point numbers with one shape."""
    if close(got, right, tolerance):
        return "", None
    bad = ~np.isfinite(got) & np.isfinite(right)
    if bad.any():
        return "nan" if np.isnan(got[bad]).any() else "inf", None
    finite = np.isfinite(right)
    if (finite != np.isfinite(got)).any():
        return "finite", None
    if got.size < ENOUGH:
        return "values", None
    if close(-got, right, tolerance):
        return "sign", None
    turned = got.swapaxes(-1, -2) if got.ndim > 1 else got
    if turned.shape == right.shape and close(turned, right, tolerance):
        return "transposed", None
    if (factor := _factor(got[finite], right[finite], tolerance)) is not None:
        return "factor", factor
    if got.ndim > 1 and close(np.sort(got.ravel()), np.sort(right.ravel()), tolerance):
        return "places", None
    return "values", None


def close(got: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    return bool(np.allclose(got, right, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True))


def _about_shapes(got: np.ndarray, right: np.ndarray, tolerance: float) -> Any:
    """What would repair a wrong shape; None if nothing simple does, or if there are too few numbers to tell."""
    if got.ndim > right.ndim and got.size > right.size:
        return "axes left"
    if got.size < 2:
        return None
    if got.size == right.size and close(np.ravel(got), np.ravel(right), tolerance):
        return "same numbers"
    if got.T.shape == right.shape and close(got.T, right, tolerance):
        return "transposed"
    axes = [axes for n in (1, 2) for axes in itertools.combinations(range(right.ndim), n)]
    for axis, keepdims in itertools.product(axes, (False, True)):
        summed = right.sum(axis=axis, keepdims=keepdims)
        if got.shape == summed.shape and close(got, summed, tolerance):
            if right.size and close(right.max(axis=axis), right.min(axis=axis), tolerance):
                continue  # it may only lack the repetition
            return axis
    return None


def _are_texts(parts: Sequence[Any]) -> bool:
    return bool(parts) and all(isinstance(part, bytes) for part in parts)


def _factor(got: np.ndarray, right: np.ndarray, tolerance: float) -> float | None:
    square = float((right * right).sum())
    if not square or (right != 0).sum() < ENOUGH:
        return None
    factor = float((got * right).sum()) / square
    return factor if factor and math.isfinite(factor) and close(got / factor, right, tolerance) else None
