"""The loop: check whenever the file was saved, and listen to keys in between.

Files are looked at four times a second, which works on every system and every disk. Keys are single ones where the
terminal gives them (termios; msvcrt on Windows), and a letter with Enter elsewhere (--manual, or no terminal).
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator

from . import showing
from .workspace import Workspace

PERIOD = 0.25  # seconds
KEYS = "n next   h hint   l list   c check all   r reset   q quit"


def watch(workspace: Workspace, manual: bool = False) -> int:
    """Run the loop until the learner quits. Returns the exit status."""
    session = Session(workspace)
    if not session.name:
        return 0
    session.check()
    single_keys = not manual and sys.stdin.isatty()
    with _single_keys() if single_keys else contextlib.nullcontext(_lines(poll=not manual)) as read_key:
        while session.name:
            key = read_key()
            if key is None:
                if not manual and session.saved():
                    session.check()
            elif not session.press(key):
                break
    return 0


class Session:
    """The current exercise, and what each key does."""

    def __init__(self, workspace: Workspace, say: Callable[[str], None] = lambda text: print(text, flush=True)):
        self.workspace, self.say = workspace, say
        self.asking = False
        self.name = workspace.current() or ""  # of the exercise; "" at the end of the course
        self._seen: tuple[float, int] | None = None
        self._begin()

    def _begin(self) -> None:
        if not self.name:
            self.say("You have passed every exercise. python scripts/exercise.py capstone builds a GPT out of yours.")
            return
        file = self.workspace.start(self.name)
        self.say(f"\n{showing.progress_text(len(self.workspace.passed), len(self.workspace.paths))}")
        self.say(showing.start_text(self.workspace.exercise(self.name), file))

    def saved(self) -> bool:
        """Whether the current file has changed since the last check."""
        return self._state() != self._seen

    def _state(self) -> tuple[float, int] | None:
        try:
            status = os.stat(self.workspace.file(self.name))
        except OSError:
            return self._seen  # an editor may be replacing it at this moment
        return status.st_mtime, status.st_size

    def check(self) -> None:
        self.say(f"\nChecking {self.name} ...")
        self._seen = self._state()
        verdict = self.workspace.check(self.name)
        self.say(showing.verdict_text(self.name, verdict, self.workspace))
        if verdict.passed:
            self.say(f"n: the next one. python scripts/exercise.py solution {self.name} shows the library's way.")
            if self.workspace.exercise(self.name).place is not None:
                self.say(f"python scripts/exercise.py run {self.name} puts yours into the GPT.")
        self.say(f"\n{KEYS}")

    def press(self, key: str) -> bool:
        """Do what a key stands for. Returns False for the key that quits."""
        if self.asking:
            self.asking = False
            if key == "y":
                kept = self.workspace.reset(self.name)
                self.say("It is the stub again" + (f"; your file is kept as {kept}." if kept else "."))
                self._seen = self._state()
            else:
                self.say("Nothing was changed.")
        elif key == "q":
            return False
        elif key == "n":
            self._next()
        elif key == "h":
            try:
                level, hint = self.workspace.hint(self.name)
                self.say(f"Hint {level} of 3: {hint}")
            except ValueError as refusal:  # of an assessment
                self.say(str(refusal))
        elif key == "l":
            self.say(showing.list_text(self.workspace))
        elif key == "c":
            check_all(self.workspace, self.say)
        elif key == "r":
            self.say(f"Put {self.name} back to its stub? Your file is kept beside it. y or n")
            self.asking = True
        elif key == "\n":
            self.check()
        else:
            self.say(KEYS + "   Enter check now")
        return True

    def _next(self) -> None:
        following = self.workspace.following(self.name)
        if following is None and not self.workspace.has_passed(self.name):
            self.say("This is the last one that is not passed.")
            return
        self.name = following or ""
        self._begin()
        if self.name:
            self.check()


def check_all(workspace: Workspace, say: Callable[[str], None]) -> bool:
    """Check every file that there is; True if all pass."""
    right = True
    for name in workspace.paths:
        if workspace.file(name).exists():
            verdict = workspace.check(name)
            right &= verdict.passed
            say(f"{name:16} {'right' if verdict.passed else verdict.diagnosis or verdict.status}")
    say(showing.progress_text(len(workspace.passed), len(workspace.paths)))
    return right


@contextlib.contextmanager
def _single_keys() -> Iterator[Callable[[], str | None]]:
    """A function that waits PERIOD for a key, without Enter; None if none came."""
    if os.name == "nt":
        yield _windows_key
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    settings = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)

        def key() -> str | None:
            if not select.select([terminal], [], [], PERIOD)[0]:
                return None
            typed = os.read(terminal, 1).decode("latin-1").lower()
            if typed == "\x1b" and select.select([terminal], [], [], 0)[0]:
                os.read(terminal, 16)  # the rest of an arrow or a function key: its letters are no keys of ours
                return None
            return typed or "q"

        yield key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, settings)


def _windows_key() -> str | None:
    import msvcrt

    end = time.monotonic() + PERIOD
    while time.monotonic() < end:
        if msvcrt.kbhit():  # type: ignore[attr-defined]
            typed = str(msvcrt.getwch())  # type: ignore[attr-defined]
            if typed in ("\0", "\xe0"):
                msvcrt.getwch()  # type: ignore[attr-defined]  # which arrow or function key it is, as a letter
                return None
            return typed.lower().replace("\r", "\n")
        time.sleep(0.02)
    return None


def _lines(poll: bool) -> Callable[[], str | None]:
    """A function that reads a line and gives its first letter; "q" at the end of the input.

    poll: where input is a pipe that can be looked at, give None after PERIOD without a line.
    """

    # Without a buffer, as select does not see lines that are in one already.
    pipe = open(sys.stdin.fileno(), "rb", 0, closefd=False) if poll and os.name == "posix" else None  # noqa: SIM115

    def key() -> str | None:
        if pipe and not select.select([pipe], [], [], PERIOD)[0]:
            return None
        line = pipe.readline().decode("latin-1") if pipe else sys.stdin.readline()
        return "q" if line == "" else line.strip().lower()[:1] or "\n"

    return key
