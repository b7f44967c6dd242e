"""Compare a result with the one that was expected, and say in one sentence how they differ.

Like minigrad/gradcheck/diagnosis.py, which does this for gradients, it tries changes: if multiplying by -1, or
exchanging two axes, makes the result right, then that is the diagnosis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def difference(
    got: Any, expected: Any, tolerance: float = 1e-6, what: str = "the result", guess: bool = True
) -> str | None:
    """One sentence on how `got` differs from `expected`: arrays, numbers, texts, and sequences or mappings of those.

    guess: try what would make the numbers right (a sign, a factor), which needs more than a few numbers.
    """
    if expected is None:  # what a check's `call` remarks about a result, which is not part of it
        return None
    if got is None:
        return f"{what} is None: is a `return` missing?"
    if isinstance(expected, str | bytes | bool):
        return None if type(got) is type(expected) and got == expected else f"{what} is {got!r}, not {expected!r}"
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping):
            return f"{what} must be a dictionary, got {_in_words(got)}"
        if lacking := [key for key in expected if key not in got]:
            return f"{what} lacks the {_entries(lacking)}"
        if surplus := [key for key in got if key not in expected]:
            return f"{what} has the {_entries(surplus)}, which must not be there"
        parts = [(got[key], expected[key], f"{what}[{key!r}]") for key in expected]
    elif isinstance(expected, list) and isinstance(got, list) and _are_texts([*got, *expected]):
        return None if got == expected else f"{what} {_about_texts(got, expected)}"
    elif isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple) or len(got) != len(expected):
            return f"{what} must be {len(expected)} values in a {type(expected).__name__}, got {_in_words(got)}"
        parts = [(g, e, f"{what}[{i}]") for i, (g, e) in enumerate(zip(got, expected, strict=True))]
    else:
        return _of_arrays(got, expected, tolerance, what, guess)
    found = (difference(g, e, tolerance, name, guess) for g, e, name in parts)
    return next(filter(None, found), None)


def same(got: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """Whether there is no difference.

    >>> same([1.0, np.ones(2)], [1.0, np.ones(2)]), same(np.ones(2), np.ones(3))
    (True, False)
    """
    return difference(got, expected, tolerance) is None


def _of_arrays(got: Any, expected: Any, tolerance: float, what: str, guess: bool) -> str | None:
    if not isinstance(got, np.ndarray | np.generic | int | float):
        return f"{what} must be an array or a number, got {_in_words(got)}"
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        about = _about_shapes(got, expected, tolerance)
        return f"{what} has shape {got.shape}, and should have {expected.shape}{about}"
    if expected.dtype.kind in "iub":
        kind = "boolean" if expected.dtype.kind == "b" else "integers"
        alike = got.dtype.kind == expected.dtype.kind or {got.dtype.kind, expected.dtype.kind} <= set("iu")
        if not alike and (kind == "boolean" or np.array_equal(got, expected)):
            return f"{what} must be {kind}, it is {got.dtype}"
        if np.array_equal(got, expected):
            return None
        if guess and got.ndim > 1 and np.array_equal(got.swapaxes(-1, -2), expected):
            return f"{what} is transposed: with its last two axes exchanged it is right"
        return f"{what} has other values{_whereabouts(got, expected, tolerance)}"
    if got.dtype.kind not in "fiu":
        return f"{what} must be of floating-point numbers, got {got.dtype}"
    got = got.astype(np.float64)
    if close(got, expected, tolerance):
        return None
    return f"{what} {about_values(got, expected, tolerance, guess)}"


def close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return bool(np.allclose(got, expected, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True))


def _about_shapes(got: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    if got.size == expected.size and close(np.ravel(got), np.ravel(expected), tolerance):
        return ": the values are right, only the shape is not (keepdims? reshape?)"
    if got.T.shape == expected.shape and close(got.T, expected, tolerance):
        return ": transposed it is right"
    axes = [axes for n in (1, 2) for axes in itertools.combinations(range(expected.ndim), n)]
    for axis, keepdims in itertools.product(axes, (False, True)):
        summed = expected.sum(axis=axis, keepdims=keepdims)
        if got.shape == summed.shape and close(got, summed, tolerance):
            if expected.size and close(expected.max(axis=axis), expected.min(axis=axis), tolerance):
                continue  # it may only lack the repetition
            return f": it is summed too far, over axis {axis[0] if len(axis) == 1 else axis} of the right result"
    if got.ndim > expected.ndim:
        return ": an axis too many is left, which should be summed or averaged"
    return ""


def about_values(got: np.ndarray, expected: np.ndarray, tolerance: float, guess: bool) -> str:
    bad = ~np.isfinite(got) & np.isfinite(expected)
    if bad.any():
        kind = "nan" if np.isnan(got[bad]).any() else "inf"
        return f"has {kind} in it, where numbers belong"
    finite = np.isfinite(expected) & np.isfinite(got)
    if (np.isfinite(expected) != np.isfinite(got)).any():
        return "is finite where it should be -inf (a masked place?), or the other way round"
    if not guess:
        return f"has wrong values{_whereabouts(got, expected, tolerance)}"
    if close(-got, expected, tolerance):
        return "has its sign flipped: the negative is right"
    turned = got.swapaxes(-1, -2) if got.ndim >= 2 else got
    if turned.shape == expected.shape and close(turned, expected, tolerance):
        return "is transposed: with its last two axes exchanged it is right"
    if (factor := _factor(got[finite], expected[finite], tolerance)) is not None:
        words = f"{abs(factor):.6g}x too large" if abs(factor) > 1 else f"{1 / abs(factor):.6g}x too small"
        return f"is {words}, everywhere" + (", and its sign is flipped" if factor < 0 else "")
    if got.ndim > 1 and close(np.sort(got.ravel()), np.sort(expected.ravel()), tolerance):
        return "has the right numbers in other places: are axes mixed up (reshape?), or parts joined in another order?"
    shift = got[finite] - expected[finite]
    if shift.size > 1 and np.ptp(shift) < 0.1 * tolerance * max(1.0, float(np.abs(shift).max())):
        return f"is off by the same number everywhere: {float(shift.flat[0]):+.6g}"
    return f"has wrong values{_whereabouts(got, expected, tolerance)}"


def _entries(keys: list[Any]) -> str:
    """The first three keys, and how many there are.

    >>> _entries(["a", "b", "c", "d"]), _entries(["a"])
    ("entries 'a', 'b', 'c', ... (4 in all)", "entry 'a'")
    """
    more = f", ... ({len(keys)} in all)" if len(keys) > 3 else ""
    return f"entr{'ies' if len(keys) > 1 else 'y'} " + ", ".join(map(repr, keys[:3])) + more


def _are_texts(parts: Sequence[Any]) -> bool:
    return bool(parts) and all(isinstance(part, bytes) for part in parts)


def _about_texts(got: list[bytes], expected: list[bytes]) -> str:
    """How a text was cut into other tokens than expected."""
    if b"".join(got) != b"".join(expected):
        return f"is another text: {b''.join(got)!r}, where {b''.join(expected)!r} is right (lost or doubled?)"
    pairs = itertools.zip_longest(got, expected)  # one list may be the beginning of the other, with b"" behind it
    place, g, e = next((i, g, e) for i, (g, e) in enumerate(pairs) if g != e)
    if not g:
        return f"is cut elsewhere: token {place} is " + ("missing" if g is None else "empty, and must not be there")
    should = f"joined to {g!r}, and must stay {e!r}" if len(g) > len(e) else f"{g!r}, and must be joined to {e!r}"
    return f"is cut elsewhere: token {place} is {should}"


def _factor(got: np.ndarray, expected: np.ndarray, tolerance: float) -> float | None:
    square = float((expected * expected).sum())
    if not square or got.size < 2:
        return None
    factor = float((got * expected).sum()) / square
    return factor if factor and math.isfinite(factor) and close(got / factor, expected, tolerance) else None


def _whereabouts(got: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    if got.dtype.kind in "iub" or expected.dtype.kind in "iub":
        wrong = np.asarray(got != expected)
    else:
        wrong = ~np.isclose(got, expected, rtol=tolerance, atol=tolerance * 1e-3)
    if not wrong.ndim:
        return f": {got}, where {expected} is right"
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    digits = 6 if f"{got[place]:.6g}" != f"{expected[place]:.6g}" else 15
    numbers = f"{got[place]:.{digits}g}, not {expected[place]:.{digits}g}"
    return f": {wrong.sum()} of {wrong.size} are wrong, the first at {list(place)}: {numbers}"


def _in_words(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"{len(value)} in a {type(value).__name__}"
    return " ".join(dict.fromkeys((type(value).__name__, f"{value!r:.60}")))  # only once, if they are the same


def shown(value: Any, indent: str = "") -> str:
    """A value as a learner reads it, arrays in full if they are small."""
    if isinstance(value, np.ndarray):
        return np.array2string(value + 0.0 if value.dtype.kind == "f" else value, precision=4, suppress_small=True,
                               threshold=80, separator=", ", prefix=indent)  # fmt: skip
    if isinstance(value, np.generic | float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return f"\n{indent}".join(f"{name}: {shown(part, f'{indent}{name}: ')}" for name, part in value.items())
    if isinstance(value, list | tuple) and any(isinstance(part, np.ndarray | Mapping) for part in value):
        brackets = "[]" if isinstance(value, list) else "()"
        inner = f",\n{indent} ".join(shown(part, indent + " ") for part in value)
        return brackets[0] + inner + brackets[1]
    return repr(value)
