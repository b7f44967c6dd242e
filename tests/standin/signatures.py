"""The names and signatures of CuPy (names.json), and checks of a call against them."""

import functools
import inspect
import json
from pathlib import Path

NAMES = json.loads((Path(__file__).parent / "names.json").read_text(encoding="utf-8"))


@functools.cache
def signature(parameters):
    """The signature written as "a, axis=..., dtype=..."."""
    return inspect.signature(eval(f"lambda {parameters}: None"))


def check_call(name, parameters, args, options):
    """Raise TypeError where CuPy's `name(parameters)` does not take `args` and `options`."""
    try:
        signature(parameters).bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"cupy.{name}({parameters.replace('...', '')}): {error}") from None


def check_positions(name, parameters, numpy_function, args):
    """Raise TypeError where NumPy and CuPy have different arguments at the same place."""
    try:
        theirs = list(inspect.signature(numpy_function).parameters)
    except (TypeError, ValueError):
        return
    ours = list(signature(parameters).parameters)
    for place, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        if 0 < place < len(args) and our != their and (our in theirs or their in ours):
            raise TypeError(f"argument {place} of {name} is {our!r} in CuPy and {their!r} in NumPy; name it")
