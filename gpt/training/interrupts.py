"""Ctrl-C while a run is training."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def ctrl_c_finishes_the_step(run: Any) -> Iterator[None]:
    """In the block, the first Ctrl-C sets `run.asked_to_stop`: the step is finished, so no half-updated weights are
    saved. The second stops at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import signal  # a browser has none

    def on_interrupt(number: int, frame: Any) -> None:
        if run.asked_to_stop:
            raise KeyboardInterrupt
        run.asked_to_stop = True

    numbers = [signal.SIGINT]
    if run.team.processes > 1 and hasattr(signal, "SIGUSR1"):  # mpiexec passes on this one, but ends all on Ctrl-C
        numbers.append(signal.SIGUSR1)
    previous = [signal.signal(number, on_interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
