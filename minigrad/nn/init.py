"""Initial weights, written in place, from the seeded host generator: the same on every device.

A weight matrix of standard deviation s makes activations about s * sqrt(fan_in) times as large as its inputs. If s is
too large, activations explode from layer to layer; if it is too small, they vanish. Each rule below chooses s by a
different criterion.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

import numpy as np

from .. import in_place
from ..backend import generator, module_of
from ..tensor import Tensor

T = TypeVar("T", bound=Tensor)

_NUMBERS = 2**18  # drawn at once
_skipping = ContextVar("skipping", default=False)


@contextlib.contextmanager
def skipped() -> Iterator[None]:
    """Leave weights as they were allocated, for models whose weights will be loaded or set in another way.

    This holds for the thread that enters the block.
    """
    token = _skipping.set(True)
    try:
        yield
    finally:
        _skipping.reset(token)


def _draw(tensor: T, distribution: str, scale: float, shift: float) -> T:
    """scale * (numbers drawn) + shift, a few rows at a time, to avoid a second copy of the weights.

    distribution: a method of NumPy's Generator.
    """
    if _skipping.get():
        return tensor
    in_place.announce_update([tensor])
    data = tensor.data
    draw = getattr(generator(), distribution)
    rows = max(1, _NUMBERS // max(data[:1].size, 1)) if data.ndim else 1
    for part in [data[i : i + rows] for i in range(0, len(data), rows)] if data.ndim else [data]:
        values = draw(part.shape, dtype=np.float32)
        values *= np.float32(scale)
        values += np.float32(shift)
        part[...] = module_of(data).asarray(values, dtype=tensor.dtype)
    return tensor


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0) -> T:
    """Draw from the normal distribution."""
    return _draw(tensor, "standard_normal", std, mean)


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0) -> T:
    """Draw uniformly from [a, b)."""
    return _draw(tensor, "random", b - a, a)


def constant_(tensor: T, value: float) -> T:
    """Set every element to `value`."""
    if not _skipping.get():
        in_place.announce_update([tensor])
        tensor.data[...] = value
    return tensor


def zeros_(tensor: T) -> T:
    """Set every element to 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: T) -> T:
    """Set every element to 1."""
    return constant_(tensor, 1.0)


def kaiming_uniform_(tensor: T, a: float = 0.0) -> T:
    """Uniform in ±sqrt(6 / ((1 + a²) fan_in)) for a weight (out, in).

    It preserves the variance through a leaky ReLU of slope `a`. a = sqrt(5) gives ±1/sqrt(fan_in), as in `Linear`.
    He et al. 2015, "Delving deep into rectifiers", section 2.2.
    """
    bound = math.sqrt(6 / ((1 + a * a) * max(tensor.shape[-1], 1)))
    return uniform_(tensor, -bound, bound)


def xavier_uniform_(tensor: T) -> T:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)): a compromise between forward and backward.

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16.
    """
    bound = math.sqrt(6 / max(tensor.shape[-1] + tensor.shape[0], 1))
    return uniform_(tensor, -bound, bound)
