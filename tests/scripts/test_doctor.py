"""scripts/shared/doctor.py finds wrong matrix products, false warnings, and CUDA that does not fit the card."""

import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import threadpoolctl

from scripts import setup
from scripts.shared import doctor


@pytest.fixture(autouse=True)
def no_card(monkeypatch, tmp_path):
    """No program is found, and so no nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def cards(monkeypatch, tmp_path):
    """Put a program nvidia-smi on the path, which answers with this text and exit code."""

    def make(text, code=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n", encoding="utf-8")
        program.chmod(0o755)

    if os.name == "nt":
        pytest.skip("the stand-in for nvidia-smi is a shell script")
    return make


def examined(capsys):
    """The exit code, and the lines below the first one, which names the Python."""
    code = doctor.main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(sys.executable)
    return code, lines


def test_this_machine_is_right(capsys):
    code, (numpy, products, card) = examined(capsys)
    assert code == 0 and products == "products of float32 matrices are right"
    assert numpy.startswith(f"NumPy {np.__version__} multiplies matrices with ")
    assert card == "no NVIDIA card found: there is no program nvidia-smi"


def wrong_on_itself(a, b, real=np.matmul):
    return real(a, b) * (1 - 2 * (np.shares_memory(a, b) and len(a) > 4))


def warns(a, b, real=np.matmul):
    warnings.warn("divide by zero encountered in matmul", RuntimeWarning, stacklevel=2)
    return real(a, b)


@pytest.mark.parametrize(
    "matmul, start",
    [
        (wrong_on_itself, "x.T @ x of (4, 5), x @ x.T of (17, 33), x.T @ x of (17, "),
        (warns, "a false warning: divide by zero encountered in matmul: type "),
    ],
)
def test_products_that_are_wrong_or_warn_are_found(monkeypatch, capsys, matmul, start):
    monkeypatch.setattr(np, "matmul", matmul)
    code, (_, products, _) = examined(capsys)
    assert code == 1 and products.startswith("WRONG: float32 " + start)
    assert "y.T" not in products and products.endswith("numpy`, or on an M4 set OPENBLAS_CORETYPE=NEOVERSEN1")


def test_the_library_and_its_threads_are_named(monkeypatch, capsys):
    accelerate = {"Build Dependencies": {"blas": {"name": "accelerate", "version": "unknown"}}}
    monkeypatch.setattr(np, "show_config", lambda mode: accelerate)
    openmp, openblas = {"user_api": "openmp", "num_threads": 4}, {"user_api": "blas", "num_threads": 8}
    its_own = "whose threads only VECLIB_MAXIMUM_THREADS limits"
    for loaded, said in ([openmp, openblas], "in 8 threads"), ([openmp], its_own):
        monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda loaded=loaded: loaded)
        _, (numpy, *_) = examined(capsys)
        assert numpy == f"NumPy {np.__version__} multiplies matrices with accelerate unknown, {said}"


def fits(card, extra):
    return f"card {card}: use the extra {extra}" if extra else f"WRONG: card {card}: {doctor.NO_EXTRA}"


MAXWELL, TURING = "GeForce GTX 970, 5.2, 580.95.05", "NVIDIA GeForce RTX 2060, 7.5, 580.95.05"
HOPPER, BLACKWELL = "NVIDIA H100 80GB HBM3, 9.0, 535.129.03", "NVIDIA B200, 10.0, 595.10"
KEPLER, OLD_DRIVER = "GeForce GTX 780, 3.5, 470.256.02", "NVIDIA A100-SXM4-80GB, 8.0, 515.65"
FAILED = "WRONG: nvidia-smi says: {}. Install or update the driver of the NVIDIA card."
CARDS = {
    "Maxwell": (MAXWELL, 0, fits(MAXWELL, "cuda12")),
    "Turing": (TURING, 0, fits(TURING, "cuda12 or cuda13")),
    "Hopper": (HOPPER, 0, fits(HOPPER, "cuda12")),
    "Blackwell": (BLACKWELL, 0, fits(BLACKWELL, "cuda12 or cuda13")),
    "Kepler": (KEPLER, 0, fits(KEPLER, "")),
    "an old driver": (OLD_DRIVER, 0, fits(OLD_DRIVER, "")),
    "two": (f"{MAXWELL}\n{TURING}", 0, f"{fits(MAXWELL, 'cuda12')}\n{fits(TURING, 'cuda12 or cuda13')}"),
    "no driver": ("NVIDIA-SMI has failed", 9, FAILED.format("NVIDIA-SMI has failed")),
    "no capability": ("NVIDIA A100, [N/A], 580.95.05", 0, FAILED.format("NVIDIA A100, [N/A], 580.95.05")),
    "no word": ("", 15, FAILED.format("nothing")),
}


@pytest.mark.parametrize("case", CARDS)
def test_each_card_gets_its_extra_or_a_reason(cards, capsys, case):
    text, status, said = CARDS[case]
    cards(text, status)
    code, (_, _, *lines) = examined(capsys)
    assert lines == said.split("\n") and code == ("WRONG" in said)


def test_the_extras_are_those_of_setup_cfg():
    for extra in doctor.EXTRAS:
        assert setup.known_extras()[extra][0].startswith(f"cupy-{extra}x")
    assert "cuda-toolkit>=12.8,<13" in setup.known_extras()["cuda12"]  # older ones have no Blackwell


def test_without_numpy_it_names_the_way_to_it(tmp_path):
    (tmp_path / "scripts" / "shared").mkdir(parents=True)
    copy = shutil.copy(doctor.__file__, tmp_path / "scripts" / "shared")
    for code, said in ((0, "there is no environment yet: `make demo`"), (1, "WRONG: NumPy 2 or threadpoolctl is ")):
        done = subprocess.run([sys.executable, "-E", "-S", copy], capture_output=True, encoding="utf-8")
        assert done.returncode == code and done.stderr == ""
        missing, card = done.stdout.splitlines()[1:]
        assert missing.startswith(said) and card.startswith("no NVIDIA card")
        (tmp_path / ".venv").mkdir(exist_ok=True)  # in which NumPy should be
