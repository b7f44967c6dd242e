"""The loop: check whenever the file was saved, and listen to keys in between.

Files are looked at four times a second, which works on every system and every disk. Keys work without Enter in a
terminal, and with Enter elsewhere.
"""

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator

from . import showing
from .workspace import Workspace

PERIOD = 0.25  # seconds
KEYS = "n next   h hint   l list   c check all   r reset   q quit"


def watch(workspace: Workspace, manual: bool = False) -> int:
    """Run the loop until the learner quits. Returns the exit status."""
    session = Session(workspace)
    with without_enter():
        keys = reading_keys()
        goes_on = True
        while session.name and goes_on:
            try:
                goes_on = session.press(keys.get(timeout=PERIOD))
            except queue.Empty:
                if not manual and session.saved():
                    session.check()
    return 0


class Session:
    """The current exercise, and what each key does."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.asking = False
        self.name = workspace.current() or ""  # of the exercise; "" at the end of the course
        self._seen = 0
        self._begin()

    def _begin(self) -> None:
        if not self.name:
            print("You have passed every exercise. python scripts/exercise.py capstone builds a GPT from yours.")
            return
        file = self.workspace.start(self.name)
        print(f"\n{showing.progress_text(len(self.workspace.passed), len(self.workspace.paths))}")
        print(showing.start_text(self.workspace.exercise(self.name), file))
        self.check()

    def saved(self) -> bool:
        """Whether the current file has changed since this was asked last, or since it was checked."""
        before = self._seen
        with contextlib.suppress(OSError):  # an editor may be replacing it at this moment
            self._seen = os.stat(self.workspace.file(self.name)).st_mtime_ns
        return self._seen != before

    def check(self) -> None:
        print(f"\nChecking {self.name} ...")
        self.saved()
        verdict = self.workspace.check(self.name)
        print(showing.verdict_text(self.name, verdict, self.workspace))
        if verdict.passed:
            solution = f" python scripts/exercise.py solution {self.name} shows how the library does it."
            print("n: the next one." + ("" if self.workspace.withheld(self.name) else solution))
            if self.workspace.exercise(self.name).place is not None:
                print(f"python scripts/exercise.py run {self.name} trains a GPT with yours in it.")
        print(f"\n{KEYS}")

    def press(self, key: str) -> bool:
        """Do what a key stands for. Returns False for the key that quits."""
        if self.asking:
            self.asking = False
            if key == "y":
                kept = self.workspace.reset(self.name)
                print("It is the stub again" + (f"; your file is kept as {kept}." if kept else "."))
            else:
                print("Nothing was changed.")
        elif key in ("q", "\x03"):  # Ctrl-C is a key on Windows
            return False
        elif key == "n":
            self.name = self.workspace.following(self.name) or ""
            self._begin()
        elif key == "h":
            try:
                level, hint = self.workspace.hint(self.name)
                print(f"Hint {level} of 3: {hint}")
            except ValueError as refusal:  # of an assessment
                print(refusal)
        elif key == "l":
            print(showing.list_text(self.workspace))
        elif key == "c":
            check_all(self.workspace)
        elif key == "r":
            print(f"Reset {self.name} to its stub? Your file is kept beside it. y or n")
            self.asking = True
        elif key == "\n":
            self.check()
        else:
            print(KEYS + "   Enter check now")
        return True


def check_all(workspace: Workspace) -> bool:
    """Check every file that there is; True if all pass."""
    right = True
    for name in workspace.paths:
        if workspace.file(name).exists():
            verdict = workspace.check(name)
            right &= verdict.passed
            print(f"{name:16} {'right' if verdict.passed else verdict.diagnosis or verdict.status}")
    print(showing.progress_text(len(workspace.passed), len(workspace.paths)))
    return right


# --- keys -------------------------------------------------------------------------------------------------------------


def reading_keys() -> queue.Queue[str]:
    """The keys that are pressed, put there by a thread: the first character of each line, or what a terminal gives at
    once. An arrow or function key is its first character. The end of the input is "q".
    """
    keys: queue.Queue[str] = queue.Queue()
    is_windows = sys.platform == "win32" and sys.stdin.isatty()

    def read(file: int) -> None:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            while text := windows_key() if is_windows else os.read(file, 1000).decode("latin-1"):
                for line in text.splitlines():
                    keys.put(line.strip().lower()[:1] or "\n")
        keys.put("q")

    threading.Thread(target=read, args=(sys.stdin.fileno(),), daemon=True).start()
    return keys


def windows_key() -> str:
    """The next key that is pressed in a terminal of Windows."""
    import msvcrt

    key = str(msvcrt.getwch())  # type: ignore[attr-defined]
    if key in ("\0", "\xe0"):
        msvcrt.getwch()  # type: ignore[attr-defined]  # which arrow or function key it is, as a letter
    return key


@contextlib.contextmanager
def without_enter() -> Iterator[None]:
    """Inside the block, a terminal gives keys at once. On Windows, `windows_key` does."""
    if os.name == "nt" or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
