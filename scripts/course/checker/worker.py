"""The process that a submission runs in. It answers requests with arrays, and knows nothing that helps to cheat.

The judge (processes.py) sends the submission's text, then the arguments of one call at a time; what comes back is the
result. The judge draws the cases, holds the right answers and compares, in another process that never runs a line of
the submission. Here are only NumPy and the standard library: no minigrad, no reference, no check. Neither side
unpickles anything: a message is a line of JSON, with the bytes of arrays as base64.

Before the submission runs, this process gives up what it does not need (`confine`). On Linux that is every system call
but those for memory, time and the two pipes: no file, no network, no other process can be reached.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import ctypes
import functools
import importlib
import io
import json
import math
import os
import platform
import re
import struct
import sys
import time
import traceback
import tracemalloc  # noqa: F401 (for what an exercise measures)
import types
import unicodedata  # noqa: F401 (which Python itself imports for names such as α)
from typing import IO, Any

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LIBRARIES = ("bisect", "collections", "copy", "dataclasses", "functools", "heapq", "itertools", "math", "numpy",
             "operator", "re", "statistics", "string", "typing")  # fmt: skip
YOURS = f"this exercise is yours to write, and may import only Function of minigrad.autograd, {', '.join(LIBRARIES)}"
PARTS_OF_NUMPY = ("fft", "linalg", "ma", "polynomial", "random", "testing")
LARGEST_MESSAGE = 2**20  # bytes, where the judge sets no other limit
ADDRESS = re.compile(" at 0x[0-9A-Fa-f]+")  # in "<function f at 0x7f3a5c>": left out, so that each run says the same
MOST_PRINTED = 2000  # characters of each call
# Of a run: the expressions recorded, the numbers in one of them and in all, rounds of loops.
MOST_STEPS, LARGEST_STEP, MOST_NUMBERS, MOST_ROUNDS = 3000, 300, 60_000, 5000
DTYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
          "float64", "complex64", "complex128"}  # fmt: skip


class UsesLibrary(ImportError):
    """The submission imports a module that would give it the answer."""


# --- messages ---------------------------------------------------------------------------------------------------------


def pack(value: Any) -> bytes:
    """A message, which is a line: arrays, numbers, strings, bytes, None, and lists, tuples and dicts of those. Of
    anything else, only the name of its type is sent, and of an array the dtype.
    """
    return json.dumps(_tree(value)).encode() + b"\n"


def _tree(part: Any) -> Any:
    if type(part) is int and part.bit_length() > 63:
        return {"other": "integer of more than 64 bits"}
    if part is None or type(part) in (bool, int, float, str):
        return part
    if isinstance(part, np.ndarray | np.generic) and part.dtype.name in DTYPES:
        numbers = np.asarray(part, part.dtype.name).tobytes()  # in this machine's byte order
        return {"array": part.dtype.name, "shape": part.shape, "scalar": isinstance(part, np.generic),
                "base64": base64.b64encode(numbers).decode()}  # fmt: skip
    if isinstance(part, list | tuple):
        return {"tuple" if isinstance(part, tuple) else "list": [_tree(item) for item in part]}
    if isinstance(part, dict):
        return {"dict": [[_tree(key), _tree(item)] for key, item in part.items()]}
    if isinstance(part, bytes):
        return {"bytes": part.hex()}
    return {"other": f"array of dtype {part.dtype.name}" if isinstance(part, np.ndarray) else type(part).__name__}


def read(stream: IO[bytes], most: int) -> Any:
    """The next message of a stream, with arrays that cannot be written to. Nothing in it is trusted. Raises EOFError at
    its end, ValueError for a bad one or one of more than `most` bytes.
    """
    line = stream.readline(most)
    if len(line) == most:
        raise ValueError(f"it takes more than {most:,} bytes")
    if not line.endswith(b"\n"):
        raise EOFError
    try:
        return _value(json.loads(line))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the message is not as it should be: {error}") from None


def _value(node: Any) -> Any:
    if isinstance(node, str):
        return node.encode("utf-8", "replace").decode()  # without lone surrogates, which no file can hold
    if node is None or isinstance(node, bool | int | float):
        return node
    # A list without its type has none of these keys, and is refused at the end.
    if "array" in node:
        name, shape = node["array"], node["shape"]
        if name not in DTYPES or len(shape) > 16 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise ValueError(f"no array of {name} with shape {shape} may be sent")
        array = np.ndarray(shape, name, base64.b64decode(node["base64"]))  # TypeError for too few bytes
        return array[()] if node["scalar"] is True else array
    if "dict" in node:
        return {_value(key): _value(item) for key, item in node["dict"]}
    if "bytes" in node:
        return bytes.fromhex(node["bytes"])
    if "other" in node:
        name = str(node["other"])[:60]
        name = name if name.replace(" ", "_").isidentifier() else "object"
        return type(name, (), {"__repr__": lambda self: name})()
    return tuple(map(_value, node["tuple"])) if "tuple" in node else [_value(item) for item in node["list"]]


# --- the submission ---------------------------------------------------------------------------------------------------


class Function:
    """The base class of a submission's ops: minigrad's Function without the engine."""


def engine() -> dict[str, types.ModuleType]:
    """The modules that a submission may take for minigrad."""
    autograd = types.ModuleType("minigrad.autograd")
    autograd.Function = Function  # type: ignore[attr-defined]
    return {"minigrad": types.ModuleType("minigrad"), "minigrad.autograd": autograd}


class Solution:
    """The submission's definitions. Each public method is a request that is answered with them."""

    def __init__(self) -> None:
        self.harness: dict[str, Any] = {}
        self.contexts: dict[int, Any] = {}

    def define(self, text: str, path: str, harness: str) -> dict[str, bool]:
        """Run the file; returns what can be called in it, and whether it is an op. harness: functions of the exercise
        that call it.
        """
        module = types.ModuleType("submission")
        sys.modules["submission"] = module
        self.path = path
        self.text = text
        self.names = vars(module)
        exec(harness, self.harness)
        exec(compile(text, path, "exec"), self.names)
        return {name: isinstance(thing, type) and issubclass(thing, Function)
                for name, thing in list(self.names.items()) if callable(thing)}  # fmt: skip

    def forward(self, name: str, number: int, needs_grad: list[bool], arguments: Any, options: Any) -> Any:
        """Forward of an op; what it leaves in ctx stays here, under `number`."""
        ctx = self.contexts[number] = types.SimpleNamespace(needs_grad=needs_grad)
        return call_read_only(self.names[name].forward, (ctx, *arguments), options)

    def backward(self, name: str, number: int, douts: Any) -> Any:
        return call_read_only(self.names[name].backward, (self.contexts[number], *douts), {})

    def call(self, name: str, through: str, arguments: Any, options: Any) -> Any:
        """Call a function of the submission, or the harness function `through` with it as the first argument."""
        function = functools.partial(self.harness[through], self.names[name]) if through else self.names[name]
        return call_read_only(function, arguments, options)

    def change(self, text: str, most: int, given: Any) -> None:
        """Run another text than the file's, until `taken`, and record its steps (Recording)."""
        self.recording = Recording(text, self.path, most, given)
        self.defined, self.names = self.names, self.recording.names

    def taken(self) -> list[Step]:
        """The steps that have been recorded."""
        self.names = self.defined
        return self.recording.steps

    def answer(self, request: str, arguments: Any) -> bytes:
        """A message: the result of a request or what it raised, and what was printed meanwhile."""
        printed = _FewLines()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                return pack({"result": getattr(self, request)(*arguments), "printed": printed.getvalue()})
            except BaseException as error:  # SystemExit as well
                kinds = [kind.__name__ for kind in type(error).__mro__]
                line = last_line(error, self.path)
                reply = {"error": kinds, "message": ADDRESS.sub("", str(error))[:1000], "line": line}
        return pack(reply | {"printed": printed.getvalue()})


def last_line(error: BaseException, path: str) -> int | None:
    """The last line of a file that an exception went through."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    return lines[-1] if lines else None


def call_read_only(function: Any, arguments: Any, options: Any) -> Any:
    """Call with arrays that cannot be written to. Raises ValueError for a list or dict that was changed."""
    given = [value for value in (*arguments, *options.values()) if isinstance(value, list | dict)]
    before = [pack(value) for value in given]
    result = function(*arguments, **options)
    if [pack(value) for value in given] != before:
        raise ValueError("an input was changed, which is read-only")
    return result


class _FewLines(io.StringIO):
    """A file that keeps only the beginning of what is printed."""

    def write(self, text: str) -> int:
        super().write(ADDRESS.sub("", text)[: max(MOST_PRINTED - self.tell(), 0)])
        return len(text)


# --- the steps of a run -----------------------------------------------------------------------------------------------

Step = tuple[int, str, Any]  # the line, an expression as text, "name =" or "return =", and its value: an array
EXPRESSIONS = ast.BinOp | ast.UnaryOp | ast.Call | ast.Compare | ast.Subscript | ast.IfExp


class Recorder(ast.NodeTransformer):
    """Change a program: the value of each operation, and what a name holds after an assignment, go to `record_step`, as
    do the beginnings of functions and the rounds of loops. line: the only one that is recorded, beside the rounds.
    """

    def __init__(self, line: int | None):
        self.line = line

    def visit(self, node: ast.AST) -> Any:
        if self.line not in (None, getattr(node, "lineno", None)) and not isinstance(node, ast.For | ast.While):
            return self.generic_visit(node)
        is_read = not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
        text = ast.unparse(node) if isinstance(node, EXPRESSIONS) and is_read else ""
        self.generic_visit(node)
        if isinstance(node, ast.Assign | ast.AugAssign):
            after = [self.recorded(f"{name} =", ast.parse(name, mode="eval").body, node) for name in assigned(node)]
            return [node, *(ast.copy_location(ast.Expr(call), node) for call in after)]
        if isinstance(node, ast.Return) and node.value is not None:
            node.value = self.recorded("return =", node.value, node)
        is_call = isinstance(node, ast.FunctionDef) and [a.arg for a in node.args.args][:1] not in (["ctx"], ["self"])
        if is_call or isinstance(node, ast.For | ast.While):
            begins = self.recorded("def" if is_call else "loop", ast.Constant(0), node)
            node.body.insert(0, ast.copy_location(ast.Expr(begins), node))  # type: ignore[attr-defined]
        return self.recorded(text, node, node) if text else node

    def recorded(self, text: str, value: Any, place: Any) -> ast.Call:
        arguments = [ast.Constant(place.lineno), ast.Constant(text), value]
        call = ast.Call(ast.Name("record_step", ast.Load()), arguments, [])
        for new in (call, call.func, *arguments):
            if "lineno" not in vars(new):
                ast.copy_location(new, place)
        return call


def assigned(statement: ast.Assign | ast.AugAssign) -> list[str]:
    """What a statement gives a value to: names and attributes, and of a part both the part and the whole."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = []
    for target in targets:
        for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            names.append(ast.unparse(part).removeprefix("*"))
            while isinstance(part, ast.Subscript):
                part = part.value
                names.append(ast.unparse(part))
    return names


class Recording:
    """The definitions of a program, which adds its steps to `steps` when it runs: at most `most`.

    given: a line, an expression in it, and the values that it is to have in the place of its own.
    """

    def __init__(self, text: str, path: str, most: int = MOST_STEPS, given: Any = None):
        self.steps: list[Step] = []
        self.place, self.given = (tuple(given[:2]), iter(given[2])) if given else (None, iter(()))
        self.most = most
        self.rounds = 0
        self.room = MOST_NUMBERS
        self.names: dict[str, Any] = {"record_step": self.record}
        line = None
        if most == 0:  # its result is all that is asked for
            line = given[0] if given else 0
        exec(compile(Recorder(line).visit(ast.parse(text)), path, "exec"), self.names)
        self.steps.clear()

    def record(self, line: int, text: str, value: Any) -> Any:
        if (line, text) == self.place:
            return next(self.given)[()]
        self.rounds += text == "loop"
        if self.rounds > MOST_ROUNDS:
            raise RuntimeError("it does not end")
        several = isinstance(value, list | tuple) and any(isinstance(part, np.ndarray) for part in value)
        for part in (value if several else [value]) if len(self.steps) < self.most and text != "loop" else ():
            is_list = isinstance(part, list) and all(isinstance(n, bool | int | float | np.number) for n in part)
            if is_list or isinstance(part, np.ndarray | np.generic | bool | int | float):
                number = np.array(part)  # a copy: it may be written to later
                if number.dtype.kind in "biuf" and number.size <= min(self.room, LARGEST_STEP):
                    self.steps.append((line, text, number))
                    self.room -= number.size
            elif text == "return =":
                self.steps.append((line, text, np.array(0)))  # of another value only the line is known
        return value


# --- giving up rights -------------------------------------------------------------------------------------------------


def confine(seconds: int, megabytes: int) -> None:
    """Limit the processor's time and (Linux) memory, and give up files, network and other processes for good, as far as
    the system can: Windows limits nothing.
    """
    used = math.ceil(time.process_time())
    limits = {"CPU": used + seconds, "AS": megabytes * 2**20, "FSIZE": 0, "CORE": 0, "NPROC": 0, "NOFILE": 5}
    for name, most in limits.items():
        with contextlib.suppress(ValueError, OSError, AttributeError):  # what this system cannot limit; Windows: all
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most + (name == "CPU")))
    sys.path.clear()
    sys.meta_path[:] = [_NothingMore]
    if sys.platform == "linux" and platform.machine() in MACHINES:
        allow_system_calls()


class _NothingMore:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        raise UsesLibrary(f"it imports {name}: {YOURS}", name=name)


# Of each system call its number on x86-64 and on 64-bit ARM (Linux: arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h). All but these fail with EPERM.
SYSTEM_CALLS = {
    "read": (0, 63), "write": (1, 64), "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "exit": (60, 93),
    "futex": (202, 98), "clock_gettime": (228, 113), "exit_group": (231, 94), "getrandom": (318, 278),
}  # fmt: skip
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH, and the column above


def allow_system_calls() -> None:
    """Install a seccomp filter for this process (Linux: Documentation/userspace-api/seccomp_filter.rst)."""
    architecture, column = MACHINES[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
    numbers = [numbers[column] for numbers in SYSTEM_CALLS.values()]
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, 0x80000000), (load, 0, 0, 0)]
    program += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(give, 0, 0, 0x00050001), (give, 0, 0, 0x7FFF0000)]  # EPERM; allow
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
    prctl(38, 1, None, None, None)  # PR_SET_NO_NEW_PRIVS, without which there is no filter
    prctl(22, 2, ctypes.addressof(filter_), None, None)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def main() -> None:
    """Serve the requests that arrive at standard input. Arguments: seconds, megabytes, bytes of a message."""
    seconds, megabytes, most = map(int, sys.argv[-3:])
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)
    np.seterr(all="ignore")
    sys.modules |= engine()
    solution = Solution()
    while True:
        request, arguments = read(requests, most)
        if request == "define":
            for name in (*LIBRARIES, *(f"numpy.{part}" for part in PARTS_OF_NUMPY)):
                if name.rpartition(".")[2] in arguments[0] or name == "numpy.ma":  # np.unique imports it
                    importlib.import_module(name)
            confine(seconds, megabytes)
        answers.write(solution.answer(request, arguments))
        answers.flush()
