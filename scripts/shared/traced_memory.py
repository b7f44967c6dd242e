"""The memory that a piece of work needs, as Python counts it (tracemalloc): every allocation, on the CPU only."""

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Let Python count its memory. It is slow while it does, so that it must end with the block, also in an error."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def added_bytes(work: Callable[[], object]) -> int:
    """The most bytes that `work()` uses at one time, beside what is held before it."""
    with traced():
        work()
        return tracemalloc.get_traced_memory()[1]
