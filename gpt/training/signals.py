"""Signals that ask a run to stop: Ctrl-C, the end of a batch job's time, a terminal that is closed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

ASKING_TO_STOP = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; `timeout` and batch systems; a terminal that is closed


@contextlib.contextmanager
def finishing_the_step(ask_to_stop: Callable[[int], None], is_team: bool = False) -> Iterator[None]:
    """In the block, the first signal calls `ask_to_stop` with its number: the iteration is finished, so no half-updated
    weights are saved. The second stops at once, as Ctrl-C does elsewhere.

    is_team: of several processes, which mpiexec ends on Ctrl-C; it passes SIGUSR1 on to them. A signal that is ignored,
    as by `nohup`, stays ignored. On Windows there is Ctrl-C only: a program whose window is closed is ended by the
    system.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may Python handle signals
        yield
        return
    import signal  # a browser has none

    stdout, stderr = 1, 2
    terminals = [number for number in (stdout, stderr) if os.isatty(number)]
    asked_at = 0.0

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked_at
        if signal.Signals(number).name == "SIGHUP":
            for terminal in terminals:  # writing to a closed one would fail, and prevent the checkpoint
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        if not asked_at:
            asked_at = time.monotonic()
            ask_to_stop(number)
        elif number == signal.SIGINT or time.monotonic() - asked_at > 1:  # `timeout` sends its signal twice
            raise KeyboardInterrupt

    names = (*ASKING_TO_STOP, "SIGUSR1") if is_team else ASKING_TO_STOP
    replaced = {}
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):  # None: a handler that is not Python's
            replaced[number] = handler
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
