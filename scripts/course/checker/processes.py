"""The judge's side of a submission: it starts the process (worker.py) and calls the submission's functions there.

The judge calls `definitions` like any Function or function; the call travels to the worker and the result back. Nothing
else does, so a submission can change its answers and nothing more.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from minigrad.autograd import Function

from . import judging, source, worker
from .checks import Check, Exercise, OpCheck, Verdict
from .trial import ASK

START = "import sys; sys.path += sys.argv[1:3]; import worker; worker.main()"
HARNESS = "from __future__ import annotations\nimport math\nimport tracemalloc\nimport numpy as np\n"
# Variables of our environment that a worker gets.
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "SYSTEMROOT", "TEMP", "TMP")
PATIENCE = 10  # times the seconds of computing that an answer may take by the clock, as it may have to wait
LINES_SHOWN = 10
MOST_LINES = 1000  # of a file whose reason is looked for: a solution is a page
MOST_CHANGES = 100  # of the file that one worker runs in search of a reason: then its seconds may be used up


class Limits(NamedTuple):
    """The limits of one file: seconds of the processor's time, megabytes, and bytes of a message."""

    seconds: float = 5
    megabytes: int = 2048
    message: int = worker.LARGEST_MESSAGE


LIMITS = Limits()


class Ended(BaseException):
    """The worker is gone. It is not an Exception, so that it is never taken for something that the learner raised."""

    def __init__(self, verdict: Verdict):
        self.verdict = verdict


class Submission:
    """A learner's file, running in a worker of its own (a context manager).

    printed: what the file has printed, in pieces.
    """

    def __init__(self, text: str, path: Path, limits: Limits):
        self.path, self.limits, self.text = path, limits, text
        self.printed: list[str] = []
        self.changes = 0  # how often it was run with a changed text, in search of the reason
        self.is_changed = self.breaks = False  # whether it is now; whether that has ended the worker
        self.begin()

    def begin(self) -> None:
        """Start the worker, and watch over it."""
        self.start_worker()
        self.over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def start_worker(self) -> None:
        self.deadline = math.inf
        folders = [str(Path(__file__).parent), str(Path(np.__file__).parents[1])]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", START, *folders, *(str(math.ceil(limit)) for limit in self.limits)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tempfile.gettempdir(), env=environment(),
        )  # fmt: skip

    def __enter__(self) -> Submission:
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.end_worker()

    def end_worker(self) -> None:
        with contextlib.suppress(OSError), self.process:  # closes the pipes, and waits for the end
            self.process.kill()

    def ask(self, request: str, *arguments: Any) -> Any:
        """The worker's answer. Raises what the file raised, with its `line` there; Ended if the worker is gone."""
        if request == "change":
            if self.breaks:
                raise RuntimeError("another change did not end")
            self.changes += 1
            if self.changes % MOST_CHANGES == 0:
                self.renew()
        self.is_changed = request == "change" or self.is_changed and request != "taken"
        try:
            reply = self.exchange(worker.pack((request, arguments)))
            error = reply.get("error")
        except (OSError, EOFError, ValueError, TypeError, AttributeError) as problem:
            if self.is_changed:
                self.is_changed, self.breaks = False, True
                self.renew()
                raise RuntimeError("the changed file does not end") from None
            if isinstance(problem, OSError | EOFError):
                raise Ended(self._how_it_ended()) from None
            raise Ended(Verdict("error", self.path.name, f"its process gave no valid answer: {problem}")) from None
        self.printed.append(str(reply.get("printed", "")))
        if error is not None:
            raise _exception(error, str(reply.get("message")), reply.get("line"))
        return reply.get("result")

    def renew(self) -> None:
        """Go on with a new worker, which defines the same."""
        self.end_worker()
        self.start_worker()
        self.ask("define", *self.defined)

    def exchange(self, message: bytes) -> Any:
        """The worker's reply to a message."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.deadline = time.monotonic() + PATIENCE * self.limits.seconds
        self.process.stdin.write(message)
        self.process.stdin.flush()
        reply = worker.read(self.process.stdout, self.limits.message)
        self.deadline = math.inf
        return reply

    def _how_it_ended(self) -> Verdict:
        code = self.process.wait()
        seconds = self.limits.seconds
        if time.monotonic() > self.deadline or code in (-24, -9):  # SIGXCPU, SIGKILL
            sentence = f"no end after {seconds} seconds of computing or {PATIENCE * seconds} by the clock"
            return Verdict("timeout", self.path.name, f"{sentence}: is there a loop that never ends?", seconds=seconds)
        return Verdict("error", self.path.name, f"the process that ran it ended early (exit status {code})")

    def _watch(self) -> None:
        """End a worker whose answer takes too long by the clock: it waits, or the system limits no computing."""
        while not self.over.wait(0.5):
            if time.monotonic() > self.deadline:
                self.process.kill()

    # --- what it defines ---

    def definitions(self, checks: Sequence[Check]) -> tuple[list[Check], dict[str, Any]]:
        """Checks and definitions for the judge; where a check has a `call`, that runs in the worker as well."""
        calls = [check.call for check in checks if check.call is not None]
        harness = HARNESS + "\n\n".join(map(source.with_helpers, calls))
        self.defined = self.text, str(self.path), harness
        is_op = self.ask("define", *self.defined)
        definitions: dict[str, Any] = {ASK: self.ask}
        for check in checks:
            if check.name in is_op:
                as_op = is_op[check.name] and isinstance(check, OpCheck)
                definitions[check.name] = self._op(check.name) if as_op else self._function(check)
        return [replace(check, call=None) for check in checks], definitions

    def _op(self, name: str) -> type[Function]:
        submission = self

        class Remote(Function):
            @staticmethod
            def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
                needs_grad = [bool(ctx.needs_grad[i]) for i in range(len(arrays))]
                return submission.ask("forward", name, id(ctx), needs_grad, arrays, options)

            @staticmethod
            def backward(ctx: Any, *douts: Any) -> Any:
                return submission.ask("backward", name, id(ctx), douts)

        Remote.__name__ = name
        return Remote

    def _function(self, check: Check) -> Callable[..., Any]:
        through = "" if check.call is None else check.call.__name__
        return lambda *arguments, **options: self.ask("call", check.name, through, arguments, options)


class InThisProcess(Submission):
    """A learner's file in this process: in a browser, which confines it already and has no other processes.

    The messages are the same, so verdicts are. A loop that never ends is stopped from outside, by a KeyboardInterrupt.
    """

    def begin(self) -> None:
        self.solution = worker.Solution()
        self.begun = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        pass

    def renew(self) -> None:
        pass  # nothing limits its seconds

    def ask(self, request: str, *arguments: Any) -> Any:
        if arguments[1:2] == ("keep",):  # beside.py keeps a model's weights: there is no memory for copies of them
            return self.solution.call(*arguments)
        return super().ask(request, *arguments)

    def exchange(self, message: bytes) -> Any:
        request, arguments = worker.read(io.BytesIO(message), self.limits.message)
        with np.errstate(all="ignore"), mock.patch.dict(sys.modules, worker.engine()):
            answer = worker.read(io.BytesIO(self.solution.answer(request, arguments)), self.limits.message)
        if "KeyboardInterrupt" in answer.get("error", ()):
            sentence = f"it was stopped after {time.monotonic() - self.begun:.0f} s"
            raise Ended(Verdict("timeout", self.path.name, f"{sentence}: is there a loop that never ends?"))
        return answer


# Exceptions that the judge tells apart.
RAISED = (AttributeError, IndexError, MemoryError, NotImplementedError, TypeError, ValueError, source.UsesLibrary)


def _exception(kinds: list[str], message: str, line: int | None) -> Exception:
    """The exception that the file raised: its name and message, as one of the kinds that the judge tells apart."""
    base: Any = next((kind for kind in RAISED if kind.__name__ in kinds), RuntimeError)
    name = str(kinds[0]) if str(kinds[0]).isidentifier() else "Exception"
    error: Exception = type(name, (base,), {"__str__": lambda self: message})()
    error.line = line if isinstance(line, int) else None  # type: ignore[attr-defined]
    return error


def environment() -> dict[str, str]:
    """The environment of a worker: what Python and NumPy need, without the secrets that ours may hold. One thread, as
    arrays are small and several workers may run side by side; and a set has the same order in every run.
    """
    threads = {f"{library}_THREADS": "1" for library in ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "VECLIB_MAXIMUM")}
    return {name: os.environ[name] for name in KEPT if name in os.environ} | threads | {"PYTHONHASHSEED": "0"}


RUNS: type[Submission] = InThisProcess if sys.platform == "emscripten" else Submission


def judge(
    exercise: Exercise, content: bytes, path: Path, seed: int = 0, limits: Limits = LIMITS, credit: bool = False,
    explain: bool = True,
) -> Verdict:  # fmt: skip
    """The verdict on the content of a learner's file; never raises for what the file does.

    credit: with its parts. explain: look for the reason of a wrong result. In an assessment, reasons are given with the
    credit only: they quote the right solution.
    """
    verdict = None
    explain = explain and (credit or not exercise.is_assessment) and content.count(b"\n") <= MOST_LINES
    try:
        text, refusal = source.read(content, path)
        if refusal is not None:
            return refusal
        with RUNS(text, path, limits) as submission:
            try:
                checks, definitions = submission.definitions(exercise.checks)
            except Exception as error:
                return source.verdict_of(error, text, path)
            verdict = judging.judge(checks, definitions, text, str(path), seed, explain)
            if credit:
                verdict.parts = judging.parts(checks, definitions, seed, verdict.passed)
            if verdict.shown is not None:
                submission.printed.clear()
                check, case, douts = verdict.shown
                judging.run_once(check, case, douts, definitions)
                verdict.printed = "".join(submission.printed).splitlines()[:LINES_SHOWN]
    except Ended as ended:
        return verdict or ended.verdict
    except Exception as error:  # a mistake of ours, which must not be taken for the learner's
        if verdict is None or credit and not verdict.passed and not verdict.parts:
            return Verdict("unjudged", path.name, f"{verdict.diagnosis + '; ' if verdict else ''}{source.fault(error)}")
    return verdict


def is_confined() -> bool:
    """Whether this system keeps a submission away from files and other processes: one tries to open a file."""
    with Submission("", Path(), LIMITS) as submission:
        try:
            submission.ask("define", "open('/dev/null')", "", "")
        except Exception as error:
            return type(error).__name__ == "PermissionError"
        return False


def debug(exercise: Exercise, verdict: Verdict, content: bytes, path: Path) -> None:
    """Run the case that a verdict is about in this process, where `breakpoint()` and an editor's debugger work."""
    definitions, problem = source.define(content.decode("utf-8-sig"), path)
    if problem is None:
        check, case, douts = verdict.shown or (exercise.checks[0], exercise.checks[0].telling, None)
        whole = next(each for each in exercise.checks if each.name == check.name)  # with its `call`
        judging.run_once(whole, case, douts, definitions)
