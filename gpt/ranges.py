"""Ranges of settings: a value outside its range is refused in a sentence that names the setting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def _is_count(x: Any, kinds: Any = int) -> bool:
    return isinstance(x, kinds) and not isinstance(x, bool) and x >= 1


RANGES: dict[str, Callable[[Any], bool]] = {
    ">= 1": lambda x: x >= 1,
    ">= 2": lambda x: x >= 2,
    "an integer >= 1": _is_count,
    "an integer >= 1 or None": lambda x: x is None or _is_count(x, int | np.integer),
    "a number >= 0": lambda x: 0 <= x < math.inf,
    "a number > 0": lambda x: 0 < x < math.inf,
    "a number in [0, 1)": lambda x: 0 <= x < 1,
    "in [0, 1)": lambda x: 0 <= x < 1,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in (0, 1]": lambda x: 0 < x <= 1,
    "true or false": lambda x: isinstance(x, bool),
}


def check_ranges(settings: Any, words: str, names: str) -> None:
    """Raise ValueError unless each of these settings lies in the range `words`, a key of RANGES. names: "r alpha"."""
    for name in names.split():
        value = getattr(settings, name)
        try:
            fits = RANGES[words](value)
        except TypeError:  # not a number
            fits = False
        if not fits:
            raise ValueError(f"{name} must be {words}, got {value!r:.60}")
