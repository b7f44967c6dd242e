"""How long a GPU takes: the clock is read when it has nothing left to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from minigrad.backend import Array


def seconds_of(work: Callable[[], Array], repeats: int) -> float:
    """The mean time of `work`, which returns an array of its device, after one call that compiles what has to be."""
    _wait_for(work())
    started = time.perf_counter()
    for _ in range(repeats):
        last = work()
    _wait_for(last)
    return (time.perf_counter() - started) / repeats


def _wait_for(array: Array) -> Any:
    """To read a number is to wait until it is computed, and everything before it."""
    return array.reshape(-1)[:1].sum().item()
