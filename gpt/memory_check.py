"""The memory of this machine, and a refusal of what does not fit into it."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 1 << 42  # bytes: more than machines have


def check_memory(needed: float, what: str) -> None:
    """Raise ValueError for a run that needs more bytes than this machine has, before any work is done."""
    there = machine_memory()
    if needed > (there or MOST):
        has = f", and this machine has {there / 1e9:,.0f} GB" if there else ""
        raise ValueError(f"{what} needs at least {needed / 1e9:,.0f} GB of memory{has}: make it smaller")


def machine_memory() -> int:
    """The memory of this machine in bytes; 0 where the system does not tell."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def peak_memory() -> int:
    """The most memory that this process has had, in bytes; 0 where the system does not tell."""
    if peak := _bytes_in(Path("/proc/self/status"), "VmHWM"):
        return peak
    try:
        import resource
    except ImportError:  # Windows, and a browser
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def private_memory() -> int:
    """The memory that only this process has, in bytes; 0 where the system does not tell."""
    return _bytes_in(Path("/proc/self/smaps_rollup"), "Private")


def _bytes_in(path: Path, name: str) -> int:
    """The sum of the lines of a file of Linux that begin with this name, "VmHWM:  1234 kB"; 0 if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
