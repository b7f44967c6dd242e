"""Check this machine: NumPy's matrix products, and which CUDA extra fits the graphics card. A line for each check.

`python scripts/setup.py doctor` runs this file in .venv, or, where there is none, in the Python that was called. The
graphics card is checked also where nothing is installed yet. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

SHAPES = [(4, 5), (17, 33), (64, 64), (300, 672)]  # also sizes that are not multiples of a vector's width
# The extras of setup.cfg for GPUs: the oldest compute capability (Maxwell; Turing) and the oldest driver that their
# CUDA supports. Blackwell needs CUDA 12.8, and both bring a newer one.
EXTRAS = {"cuda12": (5.0, 525), "cuda13": (7.5, 580)}
NO_EXTRA = "no extra fits, because CUDA 12 needs compute capability 5.0 and driver 525: try to update the driver"
ASK_FOR_CARDS = "nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader"


def main() -> int:
    """Print the results of all checks, and return the exit code."""
    lines = [f"Python {sys.version.split()[0]}: {sys.executable}", *check_numpy(), *check_cards()]
    print("\n".join(lines))
    return int(any(line.startswith("WRONG") for line in lines))


def check_numpy() -> Iterator[str]:
    """Name the library that multiplies matrices, and check products of float32.

    One OpenBLAS is wrong on Apple's M4 if both factors are the same array, as in x @ x.T (numpy issue 31776), which
    Muon's Newton-Schulz iteration computes. Other libraries raise false warnings on an M4 (numpy issue 28687).
    """
    try:
        import numpy as np
        from threadpoolctl import threadpool_info

        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except (ImportError, TypeError):  # there is no NumPy, or one that knows no `mode`
        missing = "WRONG: NumPy 2 or threadpoolctl is missing: run `python scripts/setup.py install`"
        no_environment = "there is no environment yet: `make demo` (`python scripts/setup.py demo`) makes it"
        yield missing if (Path(__file__).resolve().parents[2] / ".venv").exists() else no_environment
        return
    counts = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    threads = f"in {counts[0]} threads" if counts else "whose threads only VECLIB_MAXIMUM_THREADS limits"  # Accelerate
    yield f"NumPy {np.__version__} multiplies matrices with {blas['name']} {blas['version']}, {threads}"
    wrong = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        for shape in SHAPES:
            x, y = np.random.default_rng(0).random((2, *shape), np.float32)
            for name, a, b in (("x @ y.T", x, y.T), ("x @ x.T", x, x.T), ("x.T @ x", x.T, x)):
                right = np.einsum("ik,kj->ij", a, b, dtype=np.float64)  # in a loop of NumPy's own
                if not np.allclose(np.matmul(a, b), right, rtol=1e-4):
                    wrong.append(f"{name} of {shape}")
    wrong += [f"a false warning: {warning.message}" for warning in raised[:1]]
    way_out = f'type `"{sys.executable}" -m pip install --upgrade numpy`, or on an M4 set OPENBLAS_CORETYPE=NEOVERSEN1'
    yield f"WRONG: float32 {', '.join(wrong)}: {way_out}" if wrong else "products of float32 matrices are right"


def check_cards() -> Iterator[str]:
    """Say which extra fits each NVIDIA card."""
    if shutil.which("nvidia-smi") is None:
        yield "no NVIDIA card found: there is no program nvidia-smi"
        return
    for line in subprocess.getoutput(ASK_FOR_CARDS, encoding="utf-8", errors="replace").splitlines() or ["nothing"]:
        card = re.fullmatch(r".+, ([\d.]+), (\d+)[\d.]*", line)
        if card is None:  # a driver that does not work, or does not know the capability
            yield f"WRONG: nvidia-smi says: {line}. Install or update the driver of the NVIDIA card."
            continue
        fits = [extra for extra, (oldest, driver) in EXTRAS.items()
                if float(card[1]) >= oldest and int(card[2]) >= driver]  # fmt: skip
        yield f"card {line}: use the extra {' or '.join(fits)}" if fits else f"WRONG: card {line}: {NO_EXTRA}"


if __name__ == "__main__":
    sys.exit(main())
