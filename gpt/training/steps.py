"""The numbers of a training step, such as its loss, which are read late on a GPU; and batches that went wrong.

A GPU works through a queue: it computes while Python appends more operations. To read a number such as the loss, Python
must wait until the queue is empty, and then the GPU must wait for Python. So a step reads nothing. Its numbers stay on
the GPU, as arrays without dimensions, until they are logged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import Tensor, backend
from minigrad.optim import Optimizer

from ..files import naming


@dataclasses.dataclass
class Step:
    """The result of one step. The first three fields are known at once, the others after they have been read.

    number: of the step in the run, from 1. count: number of items that the loss and the metrics are averaged over,
    which are tokens for a language model. grad_norm: before clipping. skipped: the loss or the gradient was not finite,
    so the weights did not change. seconds: the time of the step. learned: the sum of the counts of all steps so far
    that were not skipped.
    """

    number: int
    count: int
    lr: float
    loss: float = math.nan
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    grad_norm: float = math.nan
    skipped: bool = False
    seconds: float = 0.0
    learned: int = 0


@dataclasses.dataclass
class UnreadStep:
    """A step whose numbers a GPU may still be computing. sums: the sums of the loss, as "loss", and of the metrics."""

    step: Step
    started: float
    batches: list[Any]
    sums: dict[str, Any]
    grad_norm: Any


def read_steps(unread: list[UnreadStep], now: float) -> list[Step]:
    """Fill in the numbers of steps, the last of which ended at the time `now`. This waits for a GPU."""
    numbers = iter(as_numbers(value for one in unread for value in (one.grad_norm, *one.sums.values())))
    for one in unread:
        step = one.step
        step.grad_norm = next(numbers)
        means = {name: next(numbers) / step.count for name in one.sums}
        step.loss, step.metrics = means.pop("loss"), means
        step.skipped = not (math.isfinite(step.loss) and math.isfinite(step.grad_norm))
        step.seconds = (now - unread[0].started) / len(unread)  # of a GPU only the time for all of them is known
    return [one.step for one in unread]


# --- numbers that may be on a device ----------------------------------------------------------------------------------


def add_up(sums: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add `more` to `sums` in float64, as Python numbers or on their GPU. Returns `sums`.

    >>> add_up({"loss": 1.0}, {"loss": np.float32(2), "right": 3})
    {'loss': 3.0, 'right': 3.0}
    """
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + (value.astype(np.float64) if _on_gpu(value) else float(value))
    return sums


def as_numbers(values: Iterable[Any]) -> list[float]:
    """Numbers and 0-d arrays as numbers. Arrays on a GPU are copied in one transfer."""
    values = list(values)
    there = [value.astype(np.float64) for value in values if _on_gpu(value)]
    read = iter(backend.to_numpy(backend.module_of(there[0]).stack(there)).tolist() if there else [])
    return [next(read) if _on_gpu(value) else float(value) for value in values]


def _on_gpu(value: Any) -> bool:
    return backend.is_array(value) and backend.device_of(value) != "cpu"


def step_if_finite(optimizer: Optimizer, *numbers: Any) -> None:
    """`optimizer.step()`, unless a number is NaN or infinite, which would spread to all parameters for good."""
    if all(math.isfinite(number) for number in as_numbers(numbers)):
        optimizer.step()


# --- what went wrong --------------------------------------------------------------------------------------------------


def keep_batches(path: Path, batches: list[Any]) -> None:
    """Save the batches of a step that was not finite as arrays for NumPy, so you can examine them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = _named_arrays("batch", batches)
    with naming(path):
        np.savez(path, **arrays)


def _named_arrays(name: str, value: Any) -> dict[str, np.ndarray]:
    """The parts of a batch as named arrays, such as batch_0_1 for the second part of the first batch."""
    parts: Any = None
    if isinstance(value, Mapping):
        parts = value.items()
    elif dataclasses.is_dataclass(value):
        parts = vars(value).items()
    elif isinstance(value, list | tuple) and not all(isinstance(part, int | float) for part in value):
        parts = enumerate(value)
    if parts is not None:
        return {k: v for key, part in parts for k, v in _named_arrays(f"{name}_{key}", part).items()}
    value = value.data if isinstance(value, Tensor) else value
    array = np.asarray(backend.to_numpy(value) if backend.is_array(value) else value)
    return {name: np.asarray(repr(value)) if array.dtype == object else array}  # objects would need pickle
