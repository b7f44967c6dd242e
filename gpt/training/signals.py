"""Signals that ask a run to stop: Ctrl-C, the end of a batch job's time, a terminal that is closed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

ASKING_TO_STOP = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; `timeout` and batch systems; a terminal that is closed


@contextlib.contextmanager
def finishing_the_step(run: Any) -> Iterator[None]:
    """In the block, the first signal is kept in `run.asked_to_stop`: the iteration is finished, so no half-updated
    weights are saved. The second stops at once, as Ctrl-C does elsewhere.

    A signal that is ignored, as by `nohup`, stays ignored. On Windows there is Ctrl-C only: a program whose window is
    closed is ended by the system.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may Python handle signals
        yield
        return
    import signal  # a browser has none

    stdout, stderr = 1, 2
    terminals = [number for number in (stdout, stderr) if os.isatty(number)]

    def on_signal(number: int, frame: Any) -> None:
        if signal.Signals(number).name == "SIGHUP":
            for terminal in terminals:  # it can no longer be written to, and this must not prevent a checkpoint
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        if run.asked_to_stop:
            raise KeyboardInterrupt
        run.asked_to_stop = number

    names = [name for name in ASKING_TO_STOP if hasattr(signal, name)]
    if run.team.processes > 1 and hasattr(signal, "SIGUSR1"):  # mpiexec passes on this one, but ends all on Ctrl-C
        names.append("SIGUSR1")
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    replaced = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in replaced:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
