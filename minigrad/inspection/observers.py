"""Helpers of all observers: entering and leaving `switches.observers`, and finding the arrays of a call.

An observer has methods `before` and `after`, which are called around every op in forward and backward.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from .. import switches
from ..autograd import Context, Function
from ..backend import Array, named_arrays

O = TypeVar("O", bound=switches.Observer)

ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # the folder of minigrad


@contextlib.contextmanager
def watching(observer: O) -> Iterator[O]:
    """Let `observer` watch every op in the block, even if the block ends with an exception.

    Before an op the innermost observer is called last; after it, first.
    """
    switches.observers.append(observer)
    try:
        yield observer
    finally:
        switches.observers.remove(observer)


def arrays_of(values: Iterable[Any]) -> list[Array]:
    """The arrays in `values`, each once, and NumPy's scalars (which full reductions return) as arrays."""
    numbers_too = [("", np.asarray(value) if isinstance(value, np.generic) else value) for value in values]
    return list({id(array): array for _, array in named_arrays(numbers_too)}.values())


def saved_arrays(ctx: Context) -> Iterator[tuple[str, Array]]:
    """(name, array) of everything that forward saved in `ctx` for backward."""
    return named_arrays(ctx.saved().items())


def input_names(function: Any, count: int) -> list[str]:
    """The names of the first `count` inputs in `function.forward`.

    >>> from minigrad.functional.linalg import Linear
    >>> input_names(Linear, 3)
    ['x', 'weight', 'bias']
    """
    # A derived Function (as in mixed precision) may take *arrays; the names are in the op that it is derived from.
    op = [cls for cls in function.__mro__ if "forward" in vars(cls) and cls is not Function][-1]
    names: list[str] = []
    for parameter in list(inspect.signature(op.forward).parameters.values())[1:]:  # without ctx
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    return (names + [f"input {i}" for i in range(len(names), count)])[:count]


def human(number: float | None) -> str:
    """A number with three digits and a unit letter (k, M, G, T); "-" for None, which means unknown.

    >>> human(1_234_567), human(950), human(0), human(None)
    ('1.23 M', '950', '0', '-')
    """
    if number is None:
        return "-"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"
