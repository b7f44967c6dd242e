"""Shared by the tests of several folders: skips, JSON in files, a limit on memory, and a server in this process."""

import contextlib
import json
import os
import signal
import sys
import threading
import tracemalloc

import pytest

needs_threads = pytest.mark.skipif(sys.platform == "emscripten", reason="Python in a browser has no threads")


def skip_or_fail(reason):
    """Skip the test for want of something; with MINIGRAD_REQUIRE_ORACLE=1 nothing may be missing, and it fails."""
    if os.environ.get("MINIGRAD_REQUIRE_ORACLE") == "1":
        pytest.fail(f"MINIGRAD_REQUIRE_ORACLE is set, and this test {reason}", pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def peak_below(n_bytes):
    """Fail if Python holds `n_bytes` or more at some moment of the block, not counting what was there before."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def full_disk_at(n_bytes):
    """Let no file grow beyond `n_bytes`, as if the disk were full then (POSIX)."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def change_json(path, **changes):
    """Put these entries into the object that the file holds."""
    write_json(path, {**read_json(path), **changes})


class Windows:
    """The module `os`, as if this were Windows."""

    name = "nt"

    def __getattr__(self, name):
        return getattr(os, name)


@contextlib.contextmanager
def serving(server):
    """Let a server answer from another thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
