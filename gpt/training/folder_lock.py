"""One writer per folder: two runs that write into the same folder would mix their weights, tokens and logs.

The operating system keeps the lock and releases it when the process ends for any reason, so a killed run leaves no lock
behind. Readers need no lock: you can try out a model while it is being trained.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..console import printable, show
from ..files import StrPath, make_folder, read_text, unwritable

NAME = ".lock"  # a file in the folder that says who writes there, or has written last; it is never deleted
LOCKED_BYTE = 1 << 30  # on Windows; far behind the text, because a locked byte cannot be read there
PATIENCE = 20  # attempts, 0.05 s apart: whoever has it may need it for an instant only


@contextlib.contextmanager
def locked(folder: StrPath) -> Iterator[None]:
    """Keep other processes and threads from writing into `folder` inside the block. Creates the folder if needed.

    On a file system without locks a note is shown. Raises BlockingIOError, which names the process that is writing
    there; OSError for a folder that is not writable.
    """
    folder = Path(folder)
    make_folder(folder)
    try:
        file = open(folder / NAME, "a+b", buffering=0)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise unwritable(folder, error) from None
    with file:  # closing it releases the lock
        for attempt in range(PATIENCE):
            try:
                _lock(file)
                break
            except (BlockingIOError, PermissionError):
                if attempt == PATIENCE - 1:
                    owner = printable(read_text(folder / NAME)[:500])
                    way_out = "wait until it ends, or choose another folder"
                    raise BlockingIOError(f"{folder} is being written by {owner}: {way_out}") from None
                time.sleep(0.05)
            except OSError as error:
                show(f"note: {folder} cannot be locked ({error.strerror}): do not start a second run in it")
                break
        owner = f"process {os.getpid()} on {platform.node()} ({shlex.join(sys.argv):.200})"
        with contextlib.suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"{owner}, since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode(errors="replace"))
        yield


def _lock(file: Any) -> None:
    """Lock a file, or raise BlockingIOError (PermissionError on Windows) at once."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        try:
            import fcntl
        except ImportError:  # Python in a browser, where nobody else is
            return
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
