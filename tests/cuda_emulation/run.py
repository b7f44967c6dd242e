"""Run a CUDA kernel on the CPU: compile its source with g++ behind cuda_emulation.h, and launch it on NumPy arrays.

A launch is checked for what a GPU would not report:

* arguments whose types are not the kernel's (CuPy passes a Python int as 64 bits and a float as a double);
* memory outside of its arrays: each array is copied to pages of its own, between pages that nobody may touch, once with
  its end and once with its beginning at the edge; the rest of its pages is filled with a pattern that must stay;
* addresses at which a GPU cannot read a float4;
* memory and variables that are read before they are written: in each turn the memory of a block, and what is beside the
  arrays, is full of something else;
* races: the threads of a block and the blocks of the grid run in three orders, and the results must be equal, bit by
  bit (only to rounding if the kernel adds floats with atomicAdd, whose order is open on a GPU too);
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
import weakref
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("cuda_emulation.h")
PATTERNS = (0xFF, 0x00, 0x41)  # of the memory beside the arrays, for each turn: forward, backward, at random
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-Wall", "-Werror"]
FLAGS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # a GPU cannot read a float4 anywhere
# Without these two, the compiler may take a variable without a value for 0 before it comes to warn of it. Where it does
# not warn, the variable starts with a very large number.
FLAGS += ["-fno-tree-ccp", "-fno-tree-fre", "-ftrivial-auto-var-init=pattern"]
TOLERATED = [f"-Wno-{what}" for what in ("unknown-pragmas", "sign-compare", "attributes")]
TOLERATED += [f"-Wno-unused-{what}" for what in ("function", "variable")]
POINTED_AT = {
    "float": ["float32"],
    "double": ["float64"],
    "char": ["int8"],
    "signed char": ["int8"],
    "unsigned char": ["uint8", "bool"],
    "bool": ["bool"],
    "short": ["int16"],
    "unsigned short": ["uint16", "float16", "bfloat16"],
    "int": ["int32"],
    "unsigned": ["uint32"],
    "unsigned int": ["uint32"],
    "long long": ["int64"],
    "unsigned long long": ["uint64"],
}


class KernelError(RuntimeError):
    """A kernel did what it must not do."""


def available() -> bool:
    """Whether kernels can be compiled and run here."""
    return sys.platform == "linux" and shutil.which("g++") is not None


def launch(code, name, grid, block, args, shared_mem=0):
    """Run kernel `name` of the CUDA source `code` on NumPy arrays and scalars; what it writes is in the arrays.

    A parameter such as `float* const* tensors` takes an array of addresses, of arrays that `remember` has been told of.
    Raises TypeError for arguments that are not the kernel's, ValueError for a grid or block that a GPU would refuse,
    KernelError for all else.
    """
    grid, block = _three(grid, "grid", (2**31 - 1, 65535, 65535)), _three(block, "block", (1024, 1024, 64))
    if np.prod(block) > 1024:
        raise ValueError(f"kernel {name}: a block of {block} has more than 1024 threads")
    stars = _check_arguments(code, name, args)
    arrays = [arg for arg, depth in zip(args, stars) if depth == 1]
    arrays += [_behind(name, address) for arg, depth in zip(args, stars) if depth == 2 for address in arg.flat]
    alignment = 16 if re.search(r"\b(u?int|float)[24]\b", code) else 1
    emulate, results = getattr(_compiled(code), f"emulate_{name}"), []
    emulate.restype = ctypes.c_char_p
    for turn, pattern in enumerate(PATTERNS):
        memory = _Memory(arrays, turn != 1, alignment, pattern)
        values = [_as_argument(name, arg, depth, memory) for arg, depth in zip(args, stars)]
        any_order = _run(emulate, name, grid, block, values, shared_mem, turn, memory)
        results.append(memory.results(name))
    for other in results[1:]:
        for index, (first, second) in enumerate(zip(results[0], other)):
            if not _same(first, second, any_order):
                why = "the order of the threads (a race), or on memory that nobody wrote"
                raise KernelError(f"kernel {name}: array {index} depends on {why}")
    for index, (array, result) in enumerate(zip(arrays, results[0])):
        if array.flags.writeable:
            array[...] = result
        elif array.tobytes() != result.tobytes():
            raise KernelError(f"kernel {name} wrote to array {index}, which is a broadcast view")


def _three(size, what, limits):
    size = (size,) if isinstance(size, int) else tuple(size)
    size += (1,) * (3 - len(size))
    if any(not 1 <= n <= limit for n, limit in zip(size, limits)):
        raise ValueError(f"a {what} of {size} cannot be launched: each must be from 1 to {limits}")
    return size


def _same(first, second, any_order):
    if any_order and first.dtype.kind == "f":
        return np.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)
    return first.tobytes() == second.tobytes()


# --- arguments ---


def _check_arguments(code, name, args):
    """How many stars each parameter has: a scalar, an array, or an array of addresses."""
    typedefs = {alias: kind for kind, alias in re.findall(r"typedef\s+([\w ]+?)\s+(\w+)\s*;", code)}
    parameters = re.search(rf"\b{name}\s*\(([^)]*)\)\s*\{{", code)
    if parameters is None:
        raise KernelError(f"the source has no kernel {name}")
    declared = [parameter.strip() for parameter in parameters[1].split(",") if parameter.strip()]
    if len(declared) != len(args):
        raise TypeError(f"kernel {name} takes {len(declared)} arguments, got {len(args)}")
    stars = [parameter.count("*") for parameter in declared]
    for parameter, arg, depth in zip(declared, args, stars):
        *kind, _ = re.sub(r"\b(const|__restrict__)\b", " ", parameter).replace("*", " * ").split()
        kind = " ".join(part for part in kind if part != "*")
        expected = ["int64"] if depth == 2 else POINTED_AT.get(typedefs.get(kind, kind), [])
        if isinstance(arg, np.ndarray) != (depth > 0) or not isinstance(arg, np.ndarray | np.generic):
            raise TypeError(f"kernel {name}: {type(arg).__name__} for the parameter '{parameter}'")
        if kind != "void" and arg.dtype.name not in expected:
            raise TypeError(f"kernel {name}: {arg.dtype} for the parameter '{parameter}', which takes {expected}")
    return stars


_addressed = {}  # address -> weak reference to the array that begins there


def remember(array):
    """`array` may be behind an address that a kernel will be given in a table."""
    _addressed[array.ctypes.data] = weakref.ref(array)


def _behind(name, address):
    array = _addressed.get(int(address), lambda: None)()
    if array is None:
        raise KernelError(f"kernel {name} was given the address {int(address):#x}, where no array is, or is any more")
    return array


def _as_argument(name, arg, depth, memory):
    """The argument that the launch passes: a scalar as it is, or an address in the memory of this turn."""
    if depth == 0:
        return np.asarray(arg)
    if depth == 1:
        return np.array(memory.address(arg), np.uint64)
    table = np.array([memory.address(_behind(name, address)) for address in arg.flat], np.uint64)
    return np.array(memory.place(table), np.uint64)


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


class _Region:
    """Bytes of one allocation, copied to pages whose neighbors nobody may touch."""

    def __init__(self, low, high, at_the_end, alignment, pattern=PATTERNS[0]):
        self.pattern = pattern
        self.low, self.high, size = low, high, high - low
        pages = max(1, -(-(size + alignment - 1) // _PAGE)) * _PAGE
        self.map = mmap.mmap(-1, pages + 2 * _PAGE)
        first_page = ctypes.addressof((ctypes.c_char * len(self.map)).from_buffer(self.map))
        self.bytes = np.frombuffer(self.map, np.uint8)[_PAGE : _PAGE + pages]
        off = low % alignment  # an array that begins in the middle of another one may lie where no float4 can be read
        self.start = off + ((pages - size - off) // alignment * alignment if at_the_end else 0)
        self.address = first_page + _PAGE + self.start
        self.bytes[:] = pattern
        self.inside = self.bytes[self.start : self.start + size]
        self.inside[:] = np.ctypeslib.as_array(ctypes.cast(low, ctypes.POINTER(ctypes.c_uint8)), (size,)) if size else 0
        for guard in (first_page, first_page + _PAGE + pages):
            _forbid(guard)

    def untouched_around(self):
        outside = np.concatenate([self.bytes[: self.start], self.bytes[self.start + len(self.inside) :]])
        return (outside == self.pattern).all()


class _Memory:
    """The arrays of a launch. Arrays that overlap stay in one region, so that what they share stays shared."""

    def __init__(self, arrays, at_the_end, alignment, pattern):
        self.arrays, self.at_the_end = arrays, at_the_end
        bounds = [np.lib.array_utils.byte_bounds(a) if a.size else (a.ctypes.data,) * 2 for a in arrays]
        merged = []
        for low, high in sorted(bounds):
            if merged and low < merged[-1][1]:
                merged[-1][1] = max(high, merged[-1][1])
            else:
                merged.append([low, high])
        self.regions = [_Region(low, high, at_the_end, alignment, pattern) for low, high in merged]
        self.addresses = [self.address(array) for array in arrays]

    def place(self, table):
        """One more array, which the kernel only reads; gives its address."""
        self.regions.append(_Region(*np.lib.array_utils.byte_bounds(table), self.at_the_end, 8))
        return self.regions[-1].address

    def address(self, array):
        start = array.ctypes.data
        region = next(
            r for r in self.regions if r.low <= start < r.high or (start == r.low == r.high and not array.size)
        )
        return region.address + start - region.low

    def results(self, name):
        for region in self.regions:
            if not region.untouched_around():
                raise KernelError(f"kernel {name} wrote beside an array of {region.high - region.low} bytes")
        return [self._read(array, address) for array, address in zip(self.arrays, self.addresses)]

    def _read(self, array, address):
        region = next(r for r in self.regions if r.address <= address <= r.address + r.high - r.low)
        buffer = region.inside[address - region.address :] if all(s >= 0 for s in array.strides) else region.inside
        offset = 0 if buffer is not region.inside else address - region.address
        return np.ndarray(array.shape, array.dtype, buffer, offset, array.strides).copy()

    def describe(self, address):
        for array, place in zip(self.arrays, self.addresses):
            distance = address - place
            if -_PAGE <= distance < array.nbytes + _PAGE:
                return f", at element {distance // array.itemsize} of an array {array.shape} of {array.dtype}"
        return ""


# --- compiling and calling ---


@functools.cache
def _compiled(code):
    """All kernels of `code` as a library. Kept between runs; several processes may compile at once."""
    # Shared memory whose size the launch decides is a pointer here.
    body = re.sub(
        r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;",
        r"\1* \2 = reinterpret_cast<\1*>(emulation::dynamic_shared);",
        code,
    )
    names = re.findall(r"__global__[^{;]*?(\w+)\s*\([^(){]*\)\s*\{", code)
    entries = "".join(f"ENTRY({name})\n" for name in names)
    source = f'#include "{HEADER.name}"\n#line 1 "kernel.cu"\n{body}\n{entries}'
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


def _run(emulate, name, grid, block, values, shared_mem, turn, memory):
    pointers = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
    shared = _shared(shared_mem)
    fault, any_order = ctypes.c_void_p(), ctypes.c_int()
    message = emulate(
        pointers,
        (ctypes.c_uint * 3)(*grid),
        (ctypes.c_uint * 3)(*block),
        ctypes.c_void_p(shared.address),
        ctypes.c_size_t(shared_mem),
        turn,
        ctypes.byref(fault),
        ctypes.byref(any_order),
    )
    if message is not None:
        where = memory.describe(fault.value) if fault.value else ""
        raise KernelError(f"kernel {name}: {message.decode()}{where}")
    if not shared.untouched_around():
        raise KernelError(f"kernel {name} wrote beside its {shared_mem} bytes of shared memory")
    return bool(any_order.value)


def _shared(size):
    room = np.empty(size, np.uint8)
    return _Region(room.ctypes.data, room.ctypes.data + size, at_the_end=True, alignment=16)
