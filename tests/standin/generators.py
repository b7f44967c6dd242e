"""The stand-in's random numbers: other streams than NumPy's, as CuPy's are."""

import types

import numpy as np

from .arrays import wrap
from .signatures import NAMES, check_call


class Philox4x3210:
    """CuPy's counter-based generator of bits."""

    def __init__(self, seed=None):
        self.numpy = np.random.Philox(None if seed is None else np.random.SeedSequence([7, int(seed)]))


class Generator:
    """CuPy's generator: the methods that NumPy's has and CuPy's has too."""

    def __init__(self, bit_generator):
        self.numpy = np.random.Generator(bit_generator.numpy)


def _method(name, parameters):
    def run(self, *args, **options):
        check_call(f"random.Generator.{name}", parameters, args, options)
        return wrap(getattr(self.numpy, name)(*args, **options))

    run.__name__ = name
    return run


for _name, _parameters in NAMES["generator"].items():
    if hasattr(np.random.Generator, _name):
        setattr(Generator, _name, _method(_name, _parameters))

_default = np.random.default_rng(0)


def sample(size=None):
    """Numbers in [0, 1)."""
    return wrap(_default.random(size))


random = types.SimpleNamespace(Generator=Generator, Philox4x3210=Philox4x3210, random=sample)
