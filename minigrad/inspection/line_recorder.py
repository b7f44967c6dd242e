"""A debugger's recording: every line that a script runs, its own and the library's, and what each name held before it.

    recording = record_lines(path, [folder of a package])
    recording.moments[0]

Python tells a trace function (`sys.settrace`) of every call, of every line before it runs, and of every return. Each is
a moment: which call it was in, at which line, and the names of that call whose values had changed since its last one.
From these a page can show any moment, forward and back in time. An array is kept once for each content that it had.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import Context
from ..backend import is_array, manual_seed
from ..nn import Module
from ..tensor import Tensor

# Reading and assigning these attributes is not a step of a program.
DETAIL = ("Tensor.data", "Tensor.grad", "check_assigned")
MOST_MOMENTS = 60_000
LARGEST = 4096  # numbers of an array that are kept whole; of a larger one a corner and the range
CORNER = 8
MOST_PARTS = 8  # of a list or a dictionary
MARK = re.compile(r"\s*# ([a-z][\w ]{0,24})$")  # a comment that names a part of the script: "# forward"


def record_lines(path: Path, packages: Sequence[Path], sources: Mapping[str, str] | None = None) -> LineRecorder:
    """Run a script, and record it from its first mark on.

    packages: folders with the other files to record. sources: the texts of files that are not those on disk. Raises
    ValueError if it runs too many lines, and what the script raises.
    """
    sources = dict(sources or {})
    text = sources.setdefault(str(path), path.read_text(encoding="utf-8"))
    recorder = LineRecorder(str(path), packages, sources)
    names = {"__name__": "__main__", "__file__": str(path)}
    arguments = sys.argv
    sys.argv = [str(path)]
    manual_seed(0)
    try:
        code = compile(text, str(path), "exec")
        with contextlib.redirect_stdout(recorder), recorder.tracing():
            exec(code, names)
    finally:
        sys.argv = arguments
    return recorder


class LineRecorder(io.StringIO):
    """Listens to Python while a script runs, and takes what it prints.

    Calls, values and arrays are kept in lists, and referred to by their places there.
    """

    def __init__(self, path: str, packages: Sequence[Path], sources: Mapping[str, str]):
        super().__init__()
        self.path = path
        self.sources = dict(sources)
        self.packages = packages
        self.printed: list[Any] = []  # [the moment before, text]
        lines = sources[path].split("\n")
        self.marks = {number: found[1] for number, line in enumerate(lines, 1) if (found := MARK.match(line))}
        self.begins = min(self.marks, default=1)
        self.calls: list[dict[str, Any]] = []
        self.moments: list[list[Any]] = []  # [call, line, {name: value that changed}], and at a return what it returned
        self.values: list[Any] = []
        self.arrays: list[dict[str, Any]] = []
        self.contents: list[np.ndarray] = []  # of each of them
        self._call_of: dict[types.FrameType, int] = {}  # a frame that is running -> its call
        self._last: dict[int, dict[str, int]] = {}  # call -> its names at its last moment
        self._known: dict[Any, int] = {}
        self._objects: dict[Any, tuple[int, Any]] = {}  # where an array's numbers lie -> its number; the array stays

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """In the block, listen."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def write(self, text: str) -> int:
        """Take what the script prints."""
        self.printed.append([len(self.moments) - 1, text])
        return len(text)

    def _trace(self, frame: Any, event: str, given: Any) -> Any:
        code = frame.f_code
        is_module = code.co_filename == self.path and code.co_name == "<module>"
        if is_module and not self.calls and frame.f_lineno < self.begins:
            return self._trace
        is_detail = code.co_name.startswith("<") or code.co_qualname.startswith(DETAIL)
        if not is_module and (is_detail or not self._is_recorded(code.co_filename)):
            return None
        if not self.calls and code.co_filename != self.path:
            return None
        if event == "call" or frame not in self._call_of:
            self._enter(frame)
        if event in ("line", "return"):
            self._note(frame, *([self._value(given)] if event == "return" else []))
        if event == "return" and not code.co_flags & 0x20:  # a generator (0x20) goes on later
            self._last.pop(self._call_of.pop(frame))
        return self._trace

    def _is_recorded(self, path: str) -> bool:
        if path not in self.sources:
            if path == __file__ or not any(Path(path).is_relative_to(package) for package in self.packages):
                return False
            self.sources[path] = Path(path).read_text(encoding="utf-8")
        return True

    def _enter(self, frame: Any) -> None:
        if frame in self._call_of:  # a generator that goes on
            return
        above = frame.f_back
        while above is not None and above not in self._call_of:
            above = above.f_back
        parent = -1 if above is None else self._call_of[above]
        self._call_of[frame] = len(self.calls)
        self._last[len(self.calls)] = {}
        self.calls.append({"name": frame.f_code.co_qualname, "file": frame.f_code.co_filename, "parent": parent})

    def _note(self, frame: Any, *returned: int) -> None:
        if len(self.moments) == MOST_MOMENTS:
            raise ValueError(f"this runs more than {MOST_MOMENTS:,} lines, too many for a page: make the sizes smaller")
        call = self._call_of[frame]
        names = {name: self._value(value) for name, value in frame.f_locals.items() if _is_shown(name, value)}
        last = self._last[call]
        changes = {name: value for name, value in names.items() if last.get(name) != value}
        changes |= {name: -1 for name in last if name not in names}
        self._last[call] = names
        self.moments.append([call, frame.f_lineno, changes, *returned])

    def _value(self, value: Any, depth: int = 0) -> int:
        """The place in `values` of what a name holds now."""
        kind = type(value).__name__
        if is_array(value) and value.dtype.kind in "biuf":
            return self._keep({"array": self._array(value), "of": self._object(value)})
        parts = _parts(value) if depth < 2 else None
        if parts:
            return self._keep({"text": kind, "parts": {k: self._value(v, depth + 1) for k, v in parts.items()}})
        if isinstance(value, (list, tuple, dict)) and value:
            return self._keep({"text": f"{kind} of {len(value)}"})
        plain = value is None or isinstance(value, (bool, int, float, str, bytes, np.generic, list, tuple, dict))
        return self._keep({"text": repr(value)[:200] if plain else kind})

    def _keep(self, value: dict[str, Any]) -> int:
        key = repr(value)
        if key not in self._known:
            self._known[key] = len(self.values)
            self.values.append(value)
        return self._known[key]

    def _array(self, array: np.ndarray) -> int:
        """The place in `arrays` of the numbers that an array holds now."""
        key = array.shape, array.dtype.str, array.tobytes()
        if key not in self._known:
            self._known[key] = len(self.arrays)
            whole = np.array(array)  # a copy, and plain, whatever kind of array it is
            self.contents.append(whole)
            kept: dict[str, Any] = {"shape": whole.shape, "dtype": str(whole.dtype), "data": whole}
            if whole.size > LARGEST:
                corner = whole[tuple(slice(CORNER) if axis >= whole.ndim - 2 else 0 for axis in range(whole.ndim))]
                ends = [end if np.isfinite(end) else str(end) for end in (float(whole.min()), float(whole.max()))]
                kept |= {"corner": corner.shape, "range": ends, "data": corner}
            self.arrays.append(kept)
        return self._known[key]

    def _object(self, array: np.ndarray) -> int:
        """A number for an array as a thing whose numbers can change; views of the same numbers have the same one."""
        key = array.__array_interface__["data"][0], array.shape, array.strides
        return self._objects.setdefault(key, (len(self._objects), array))[0]


def _is_shown(name: str, value: Any) -> bool:
    return not (name.startswith("__") or isinstance(value, (type, types.ModuleType, types.FunctionType)))


def _parts(value: Any) -> dict[str, Any] | None:
    """What a thing consists of, as far as a reader wants to see it."""
    if hasattr(value, "grad"):  # a tensor, ours or that of a script; one that is being made may have neither yet
        arrays = {name: getattr(value, name, None) for name in ("data", "grad")}
        return {name: array for name, array in arrays.items() if array is not None}
    if isinstance(value, Module):
        return {name: part for name, part in vars(value).items() if isinstance(part, Tensor)}
    if isinstance(value, Context):
        return value.saved()
    if isinstance(value, dict) and len(value) <= MOST_PARTS:
        return {str(name): part for name, part in value.items()}
    if isinstance(value, (list, tuple)) and len(value) <= MOST_PARTS:
        return {str(i): part for i, part in enumerate(value)}
    return None
