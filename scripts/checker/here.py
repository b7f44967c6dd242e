"""A learner's file in this process: in a browser, which confines it already and has no other processes.

Requests and answers are the same messages as between processes (worker.py), so verdicts are the same. A loop that never
ends is stopped from outside, by a KeyboardInterrupt.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from . import worker
from .checks import Verdict
from .processes import Ended, Limits, Submission


class InThisProcess(Submission):
    def __init__(self, text: str, path: Path, limits: Limits):
        self.path, self.limits, self.text = path, limits, text
        self.printed: list[str] = []
        self.count = 0
        self.solution = worker.Solution()

    def __exit__(self, *exception: object) -> None:
        pass

    def exchange(self, message: bytes) -> Any:
        request, arguments = worker.read(io.BytesIO(message), writeable=False)
        with np.errstate(all="ignore"), mock.patch.dict(sys.modules, worker.engine()):
            answer = self.solution.answer(request, arguments)
        if "KeyboardInterrupt" in answer.get("error", ()):
            sentence = "it was stopped before its end: is there a loop that never ends?"
            raise Ended(Verdict("timeout", self.path.name, sentence))
        return worker.read(io.BytesIO(worker.pack(answer)))
