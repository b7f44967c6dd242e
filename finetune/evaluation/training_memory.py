"""How much memory training takes, measured: the other side of the formulas in `gpt.accounting`.

Some bytes are held from step to step: weights, Adam's moments (`held_bytes` adds up these arrays). Others come and go
in each step: activations, gradients, and what a kernel needs for a moment (`added_bytes` counts all allocations).
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from minigrad import nn
from minigrad.optim import Optimizer

from ..quantization import memory


def held_bytes(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, int]:
    """Bytes of "weights" (buffers too, tied ones once), of the "gradients" that are there, and of "optimizer" state.

    >>> held_bytes(nn.Linear(10, 5))
    {'weights': 220, 'gradients': 0, 'optimizer': 0}
    """
    parameters = list(model.parameters())
    states = [] if optimizer is None else optimizer.state_dict()["state"].values()
    return {
        "weights": memory(model),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "optimizer": sum(value.nbytes for state in states for value in state.values() if hasattr(value, "nbytes")),
    }


def added_bytes(take_step: Callable[[], object]) -> int:
    """The most bytes that `take_step()` uses at one time, beside what is held before it.

    Python counts every allocation (tracemalloc); on the CPU only.
    """
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        take_step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before
