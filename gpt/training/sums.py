"""The sums of a step's losses and metrics: added up over batches and processes, and read from a GPU once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad import backend

Sums = dict[str, Any]  # name -> a number, or a 0-d array, which on a GPU has not been read yet


def add_up(sums: Sums, more: Mapping[str, Any]) -> Sums:
    """Add `more` to `sums` in float64. Arrays on a GPU stay there. Returns `sums`.

    >>> add_up({"loss": 1.0}, {"loss": np.float32(2), "right": 3})
    {'loss': 3.0, 'right': 3.0}
    """
    for name, value in more.items():
        on_gpu = backend.is_array(value) and backend.device_of(value) != "cpu"
        sums[name] = sums.get(name, 0.0) + (value.astype(np.float64) if on_gpu else float(value))
    return sums


def read_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """0-d arrays as Python numbers. This is where a step waits for a GPU, once: all numbers are copied together.

    >>> read_numbers({"loss": np.array(2.5, np.float32), "right": 3})
    {'loss': 2.5, 'right': 3.0}
    """
    if not values:  # of a process of a team that had no batch to evaluate
        return {}
    array = next((value for value in values.values() if backend.is_array(value)), np.zeros(()))
    xp = backend.module_of(array)
    numbers = xp.stack([xp.asarray(value, dtype=np.float64) for value in values.values()])
    return dict(zip(values, backend.to_numpy(numbers).tolist(), strict=True))
