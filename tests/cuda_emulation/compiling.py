"""Compile CUDA sources for a GPU on a machine that has none: by NVRTC, which is what CuPy uses.

It comes with the package `nvidia-cuda-nvrtc` (or nvidia-cuda-nvrtc-cu12).
"""

import ctypes
import functools
import importlib.util
from pathlib import Path


def available():
    """Whether there is a compiler for GPUs."""
    return _library() is not None


@functools.cache
def _library():
    """NVRTC from its package, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = sorted(file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*"))
    return ctypes.CDLL(str(found[-1])) if found else None


def compile_for(architecture, source):
    """Return the compiler's messages about `source` (empty if all is well), and the program in PTX, as text."""
    nvrtc, program = _library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    options = (ctypes.c_char_p * 2)(b"--std=c++17", f"--gpu-architecture={architecture}".encode())
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log, ptx = (_text(nvrtc, program, what) for what in ("ProgramLog", "PTX"))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log or ("NVRTC failed without saying why" if failed else ""), ptx


def _text(nvrtc, program, what):
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()
