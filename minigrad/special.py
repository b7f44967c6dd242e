"""The error function, which NumPy lacks: right to rounding in float64, on arrays, without a library."""

from __future__ import annotations

import math

import numpy as np

from .backend import Array, module_of

_STEP = 1 / 16
_END = 6.0  # from here on erf rounds to 1
_CENTERS = np.arange(0, _END + _STEP, _STEP)
_VALUES = np.array([math.erf(c) for c in _CENTERS])
_SLOPES = 2 / math.sqrt(math.pi) * np.exp(-_CENTERS * _CENTERS)
_TERMS = 11


def erf(x: Array) -> Array:
    """erf(x) = 2/√π ∫₀ˣ e^(-t²) dt, in x's dtype.

    A table at steps of 1/16, and Taylor's series from the nearest entry c: with h = |x| - c, at most 1/32,

        erf(c + h) = erf(c) + 2/√π e^(-c²) Σ_n a_n h^(n+1) / (n+1),    a_0 = 1,  a_1 = -2c,  (n+1) a_(n+1) = -2 (c a_n + a_(n-1))

    where the a_n are the series of e^(-2ch - h²) (Hermite polynomials in disguise; Abramowitz & Stegun 7.2.8).

    >>> float(erf(np.array(0.5)) - math.erf(0.5))
    0.0
    """
    xp = module_of(x)
    size = xp.minimum(abs(x.astype(np.float64)), _END)
    nearest = xp.rint(xp.where(size == size, size, 0) / _STEP).astype(np.int64)
    center = nearest * _STEP
    h = size - center
    before, coefficient = xp.zeros_like(h), xp.ones_like(h)
    power = h  # h^(n+1)
    series = h
    for n in range(_TERMS):
        before, coefficient = coefficient, -2 * (center * coefficient + before) / (n + 1)
        power = power * h
        series = series + coefficient * power / (n + 2)
    out = xp.asarray(_VALUES)[nearest] + xp.asarray(_SLOPES)[nearest] * series
    return xp.copysign(out, x).astype(x.dtype, copy=False)
