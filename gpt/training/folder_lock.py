"""One writer per folder: two runs that write into the same folder would mix their weights, tokens and logs.

The operating system keeps the lock and releases it when the process ends for any reason, so a killed run leaves no lock
behind. Readers need no lock: you can try out a model while it is being trained.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..console import printable, show
from ..files import StrPath, unwritable

NAME = ".lock"  # in the folder, while somebody writes there; who that is stands in it
LOCKED_BYTE = 1 << 30  # on Windows; far behind the text, because a locked byte cannot be read there
PATIENCE = 20  # attempts, 0.05 s apart: somebody may only look, or be about to say who it is

_held = threading.local()  # the folders that this thread has locked: functions that lock may call each other


@contextlib.contextmanager
def locked(folder: StrPath) -> Iterator[None]:
    """Keep other processes and threads from writing into `folder` inside the block. Creates the folder if needed.

    On a file system without locks a note is shown. Raises BlockingIOError, which names the process that is writing
    there; OSError for a folder that is not writable.
    """
    folder = Path(folder)
    held, key = _held.__dict__, str(folder.resolve())
    if key in held:
        yield
        return
    created = not folder.exists()
    with _lock(folder) as file:  # closing it releases the lock
        held[key] = True
        try:
            yield
        finally:
            del held[key]
            with contextlib.suppress(OSError):  # a full disk, or a folder that is no longer there
                file.truncate(0)
                if os.name == "nt":  # which deletes a file only when nobody has it open, so nobody's lock is lost
                    file.close()
                os.unlink(folder / NAME)
                if created:
                    folder.rmdir()  # succeeds if nothing was written


def _lock(folder: Path) -> Any:
    """The open lock file."""
    path, owner = folder / NAME, ""
    for attempt in range(PATIENCE):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `locked`)
        except OSError as error:
            was_there = isinstance(error, FileExistsError) and not folder.exists()  # while mkdir was looking at it
            is_gone = isinstance(error, FileNotFoundError) or was_there
            if is_gone and attempt < PATIENCE - 1:  # perhaps removed by somebody who has written nothing
                continue
            raise unwritable(folder, error) from None
        try:
            _lock_file(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _introduce(file)
                return file
        except (BlockingIOError, PermissionError):
            with contextlib.suppress(OSError):  # whoever has it says so in the file
                owner = path.read_text(encoding="utf-8", errors="replace")[:500] or owner
        except FileNotFoundError:  # whoever had it has just deleted it
            pass
        except OSError as error:
            show(f"note: {folder} cannot be locked ({error.strerror}): do not start a second run in it")
            return file
        file.close()
        time.sleep(0.05)
    owner = printable(owner).replace("\n", " ") or "another process"
    raise BlockingIOError(f"{folder} is being written by {owner}: wait until it ends, or choose another folder")


def _lock_file(file: Any) -> None:
    """Lock a file, or raise BlockingIOError (PermissionError on Windows) at once."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        try:
            import fcntl
        except ImportError:  # Python in a browser
            raise OSError(errno.ENOLCK, "this Python cannot lock files") from None
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _introduce(file: Any) -> None:
    """Write the owner of the lock into the lock file."""
    who = f"process {os.getpid()} on {platform.node()} ({shlex.join(sys.argv):.200}), since "
    with contextlib.suppress(OSError):  # a full disk
        file.truncate(0)
        file.write((who + time.strftime("%Y-%m-%d %H:%M:%S")).encode("utf-8", errors="replace"))
