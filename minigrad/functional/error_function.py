"""The error function, which NumPy lacks: right to rounding in float64, on arrays, without a library."""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array, module_of

_STEP = 1 / 8
_CENTERS = np.arange(0, 6 + _STEP, _STEP)  # from 6 on, erf rounds to 1
_VALUES = np.array([math.erf(center) for center in _CENTERS])


def _coefficients(terms: int) -> np.ndarray:
    """[n, c]: what stands before h^(n+1) in erf's Taylor series at center c; at 0, before x^(2n+1) in erf(x) - x."""
    slopes = 2 / math.sqrt(math.pi) * np.exp(-_CENTERS * _CENTERS)
    a_before, a = np.zeros_like(slopes), np.ones_like(slopes)
    out = np.empty((terms, len(slopes)))
    for n in range(terms):
        out[n] = slopes * a / (n + 1)
        out[n, 0] = 2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1))
        a_before, a = a, -2 * (_CENTERS * a + a_before) / (n + 1)
    out[0, 0] -= 1
    return out


_COEFFICIENTS = _coefficients(12)


def erf(x: Array) -> Array:
    """erf(x) = 2/√π ∫₀ˣ e^(-t²) dt, in x's dtype; within one unit in the last place.

    From |x| = 1/2 on, Taylor's series at the nearest of c = 1/2, 5/8, ..., 6. With h = |x| - c, at most 1/16,

        erf(c + h) = erf(c) + 2/√π e^(-c²) Σ_n a_n h^(n+1) / (n+1)
        a_0 = 1,  a_1 = -2c,  (n+1) a_(n+1) = -2 (c a_n + a_(n-1))

    where the a_n are the series of e^(-2ch - h²) (Hermite polynomials in disguise; Abramowitz & Stegun 7.2.8). Below
    1/2, the series at 0 (A&S 7.1.5), which has odd powers only. It is added to x, of which it is a small part, so that
    its rounding hardly counts.

    >>> float(erf(np.array(0.5))) == math.erf(0.5), float(erf(np.array(-1e-300))) == math.erf(-1e-300)
    (True, True)
    """
    xp = module_of(x)
    wide = x.astype(xp.promote_types(x.dtype, xp.float64))
    size = xp.where(wide.real < 0, -wide, wide)  # not abs(), which has no complex derivative
    size = xp.where(size.real > _CENTERS[-1], _CENTERS[-1], size)
    center = xp.where(size.real >= 0.5, xp.rint(size.real / _STEP), 0).astype(xp.int64)  # 0 where x is nan
    near_0 = center == 0
    h = size - center * _STEP
    t = xp.where(near_0, size * size, h)
    coefficients = xp.asarray(_COEFFICIENTS)
    series = coefficients[-1][center]
    for coefficient in coefficients[-2::-1]:
        series = series * t + coefficient[center]
    out = xp.where(near_0, size, xp.asarray(_VALUES)[center]) + series * h
    return xp.where(wide.real < 0, -out, out).astype(x.dtype, copy=False)
