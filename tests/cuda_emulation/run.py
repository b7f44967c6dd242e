"""Run a CUDA kernel on the CPU: compile its source with g++ behind cuda_emulation.h, and launch it on NumPy arrays.

A launch is checked for what a GPU would not report:

* arguments whose types are not the kernel's (CuPy passes a Python int as 64 bits and a float as a double);
* memory outside of its arrays: each array is copied to pages of its own, between pages that nobody may touch, once with
  its end and once with its beginning at the edge; the rest of its pages is filled with a pattern that must stay;
* memory and variables that are read before they are written: in each turn the memory of a block, and what is beside the
  arrays, is full of something else;
* races: the threads of a block and the blocks of the grid run in three orders, and the results must be equal, bit by
  bit;
* barriers that not all threads reach, and shuffles that wait for a lane which is not there.

Compiled kernels are kept in the temporary folder, by the hash of what they were made of.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("cuda_emulation.h")
PATTERNS = (0xFF, 0x00, 0x41)  # of the memory beside the arrays, for each turn: forward, backward, at random
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-Wall", "-Werror"]
# Without these two, the compiler may take a variable without a value for 0 before it comes to warn of it. Where it does
# not warn, the variable starts with a very large number.
FLAGS += ["-fno-tree-ccp", "-fno-tree-fre", "-ftrivial-auto-var-init=pattern"]
TOLERATED = [f"-Wno-{what}" for what in ("unknown-pragmas", "sign-compare", "attributes")]
TOLERATED += [f"-Wno-unused-{what}" for what in ("function", "variable")]
DTYPES = {
    "float": "float32",
    "double": "float64",
    "bool": "bool",
    "unsigned short": "bfloat16",
    "int": "int32",
    "long long": "int64",
}


class KernelError(RuntimeError):
    """A kernel did what it must not do."""


def available() -> bool:
    """Whether kernels can be compiled and run here."""
    return sys.platform == "linux" and shutil.which("g++") is not None


def launch(code, name, grid, block, args):
    """Run kernel `name` of the CUDA source `code` on NumPy arrays and scalars; what it writes is in the arrays.

    grid: of one or two axes. Raises TypeError for arguments that are not the kernel's, ValueError for a grid or block
    that a GPU would refuse, KernelError for all else.
    """
    width, height = (*grid, 1)[:2]
    if not (1 <= width < 2**31 and 1 <= height < 2**16 and 1 <= block <= 1024):
        raise ValueError(f"kernel {name}: a GPU would not launch a grid of {grid} with blocks of {block} threads")
    _check_arguments(code, name, args)
    # Where arrays begin at the same place, the kernel gets the same memory; the largest comes last and stays.
    arrays = {a.ctypes.data: a for a in sorted([a for a in args if isinstance(a, np.ndarray)], key=lambda a: a.nbytes)}
    emulate = getattr(compiled(code), f"emulate_{name}")
    results = []
    emulate.restype = ctypes.c_char_p
    for turn, pattern in enumerate(PATTERNS):
        copies = {place: _Copy(array, turn != 1, pattern) for place, array in arrays.items()}
        values = [np.array(copies[a.ctypes.data].address if isinstance(a, np.ndarray) else a) for a in args]
        pointers, fault = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values]), ctypes.c_void_p()
        said = emulate(pointers, ctypes.c_uint(width), ctypes.c_uint(height), block, turn, ctypes.byref(fault))
        if said is not None:
            where = "".join([copy.describe(fault.value) for copy in copies.values()]) if fault.value else ""
            raise KernelError(f"kernel {name}: {said.decode()}{where}")
        if not all(copy.is_untouched_around() for copy in copies.values()):
            raise KernelError(f"kernel {name} wrote beside an array")
        results.append([copy.inside for copy in copies.values()])
    for index, (array, *found) in enumerate(zip(arrays.values(), *results)):
        if not all((other == found[0]).all() for other in found):
            why = "the order of the threads (a race), or on memory that nobody wrote"
            raise KernelError(f"kernel {name}: array {index} depends on {why}")
        if array.flags.writeable:
            _bytes_of(array)[:] = found[0]
        elif (_bytes_of(array) != found[0]).any():
            raise KernelError(f"kernel {name} wrote to array {index}, which is a broadcast view")


# --- arguments ---


def _check_arguments(code, name, args):
    """Raise TypeError unless each argument is the scalar or the array that its parameter declares."""
    typedefs = {alias: kind for kind, alias in re.findall(r"typedef\s+([\w ]+?)\s+(\w+)\s*;", code)}
    parameters = re.search(rf"\b{name}\s*\(([^)]*)\)\s*\{{", code)
    if parameters is None:
        raise KernelError(f"the source has no kernel {name}")
    declared = [parameter.strip() for parameter in parameters[1].split(",") if parameter.strip()]
    if len(declared) != len(args):
        raise TypeError(f"kernel {name} takes {len(declared)} arguments, got {len(args)}")
    for parameter, arg in zip(declared, args):
        *kind, _ = parameter.replace("const ", "").replace("*", " ").split()
        kind = " ".join(kind)
        expected = DTYPES[typedefs.get(kind, kind)]
        if isinstance(arg, np.ndarray) != ("*" in parameter) or not isinstance(arg, np.ndarray | np.generic):
            raise TypeError(f"kernel {name}: {type(arg).__name__} for the parameter '{parameter}'")
        if arg.dtype.name != expected:
            raise TypeError(f"kernel {name}: {arg.dtype} for the parameter '{parameter}', which takes {expected}")


# --- memory between forbidden pages ---

_PAGE = mmap.PAGESIZE


@functools.cache
def _mprotect():
    mprotect = ctypes.CDLL(None).mprotect
    mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return mprotect


def _forbid(page):
    """Let nobody read or write the page at this address."""
    _mprotect()(page, _PAGE, 0)


def _bytes_of(array):
    return array.reshape(-1).view(np.uint8)


class _Copy:
    """A copy of an array on pages whose neighbors nobody may touch. The rest of its pages is full of a pattern."""

    def __init__(self, array, at_the_end, pattern):
        self.array, self.pattern = array, pattern
        room = max(1, -(-array.nbytes // _PAGE)) * _PAGE
        self.map = mmap.mmap(-1, room + 2 * _PAGE)
        first_page = ctypes.addressof((ctypes.c_char * len(self.map)).from_buffer(self.map))
        self.bytes = np.frombuffer(self.map, np.uint8)[_PAGE : _PAGE + room]
        self.start = room - array.nbytes if at_the_end else 0
        self.address = first_page + _PAGE + self.start
        self.bytes[:] = pattern
        self.inside = self.bytes[self.start : self.start + array.nbytes]
        self.inside[:] = _bytes_of(array)
        for guard in (first_page, first_page + _PAGE + room):
            _forbid(guard)

    def is_untouched_around(self):
        outside = np.concatenate([self.bytes[: self.start], self.bytes[self.start + len(self.inside) :]])
        return (outside == self.pattern).all()

    def describe(self, address):
        distance = address - self.address
        array = self.array
        if not -_PAGE <= distance < array.nbytes + _PAGE:
            return ""
        return f", at element {distance // array.itemsize} of an array {array.shape} of {array.dtype}"


# --- compiling ---


@functools.cache
def compiled(code):
    """All kernels of `code` as a library. Kept between runs; several processes may compile at once."""
    names = re.findall(r"__global__[^{;]*?(\w+)\s*\([^(){]*\)\s*\{", code)
    entries = "".join(f"ENTRY({name})\n" for name in names)
    source = f'#include "{HEADER.name}"\n#line 1 "kernel.cu"\n{code}\n{entries}'
    folder = Path(tempfile.gettempdir()) / f"minigrad-cuda-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise KernelError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own")
    key = hashlib.sha256("\0".join([source, HEADER.read_text("utf-8"), *FLAGS]).encode()).hexdigest()[:24]
    library = folder / f"{names[0]}-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            (Path(scratch) / "kernel.cpp").write_text(source, encoding="utf-8")
            command = ["g++", *FLAGS, *TOLERATED, f"-I{HEADER.parent}", "kernel.cpp", "-o", "kernel.so"]
            compiler = subprocess.run(command, cwd=scratch, capture_output=True, encoding="utf-8")
            if compiler.returncode:
                raise KernelError(f"the source of {', '.join(names)} does not compile:\n{compiler.stderr}")
            os.replace(Path(scratch) / "kernel.so", library)
    return ctypes.CDLL(str(library))
