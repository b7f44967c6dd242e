"""Compile CUDA sources for a GPU on a machine that has none: by NVRTC, which is what CuPy uses, or else by nvcc.

NVRTC comes with the package `nvidia-cuda-nvrtc` (or nvidia-cuda-nvrtc-cu12), nvcc with NVIDIA's toolkit. Neither needs
a GPU.
"""

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path


def available():
    """Whether there is a compiler for GPUs."""
    return _library() is not None or shutil.which("nvcc") is not None


def compile_for(architecture, source):
    """What the compiler has to say about `source` (nothing, if all is well), and the program in PTX, as text."""
    return _by_nvcc(architecture, source) if _library() is None else _by_nvrtc(architecture, source)


@functools.cache
def _library():
    """NVRTC from its package, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = sorted(file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*"))
    return ctypes.CDLL(str(found[-1])) if found else None


def _by_nvrtc(architecture, source):
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


def _by_nvcc(architecture, source):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.cu").write_text(source, encoding="utf-8")
        command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-keep", "-o", "kernel.cubin", "kernel.cu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
        said = done.stdout + done.stderr or ("nvcc failed without saying why" if done.returncode else "")
        ptx = "".join(path.read_text(encoding="utf-8") for path in Path(folder).glob("*.ptx"))
    return said, ptx
