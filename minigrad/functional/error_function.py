"""The error function erf x = 2/√π ∫₀ˣ e^(-t²) dt, for whole arrays: NumPy does not have it, and GELU needs it.

Nobody can write it with a few arithmetic operations, so we add up its Taylor series. Near a center c,

    erf(c + h) = erf(c) + Σ_n coefficient_n h^(n+1)        coefficient_n = 2/√π e^(-c²) a_n / (n+1)
    a_0 = 1,  a_1 = -2c,  (n+1) a_(n+1) = -2 (c a_n + a_(n-1))

This is the integral of the slope, term by term:

    erf'(c + h) = 2/√π e^(-(c+h)²) = 2/√π e^(-c²) g        g = e^(-2ch - h²) = Σ_n a_n hⁿ

The a_n follow from g' = -2 (c + h) g, in which the terms with hⁿ are (n+1) a_(n+1) hⁿ on the left, and -2 c a_n hⁿ and
-2 h a_(n-1) hⁿ⁻¹ on the right (Abramowitz & Stegun 7.2.8). If h is small, a few terms are enough. For one number, with
the nearest eighth as its center:

>>> def erf(x):
...     c = round(8 * x) / 8
...     h = x - c
...     a_before, a, series = 0, 1, 0
...     for n in range(12):
...         series += a * h ** (n + 1) / (n + 1)
...         a_before, a = a, -2 * (c * a + a_before) / (n + 1)  # the next a_n
...     return math.erf(c) + 2 / math.sqrt(math.pi) * math.exp(-c * c) * series
>>> abs(erf(1.06) - math.erf(1.06)) < 1e-15
True

`erf_of_array` does this for all numbers at once, with a table of the coefficients of each center.

The centers are 1/2, 5/8, ..., 6, so h is at most 1/16. Below x = 1/2 the center is 0, whose series has odd powers only
(A&S 7.1.5), and column 0 of the table has its coefficients: erf(x) = x + Σ_n coefficient_n x^(2n+1). The sum is a small
correction that is added to x, so its rounding hardly counts.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array, module_of

_STEP = 1 / 8
_CENTERS = np.arange(0, 6 + _STEP, _STEP)  # (1/8, 1/4 and 3/8 are unused); from 6 on, erf rounds to 1
_VALUES = np.array([math.erf(center) for center in _CENTERS])


def _coefficients(terms: int) -> np.ndarray:
    """(terms, centers): coefficient_n of each center."""
    slopes = 2 / math.sqrt(math.pi) * np.exp(-_CENTERS * _CENTERS)  # erf's derivative at each center
    a_before = np.zeros_like(slopes)
    a = np.ones_like(slopes)
    out = np.empty((terms, len(slopes)))
    for n in range(terms):
        out[n] = slopes * a / (n + 1)
        out[n, 0] = 2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1))  # the series at 0
        a_before, a = a, -2 * (_CENTERS * a + a_before) / (n + 1)  # the recurrence above, for all centers
    out[0, 0] -= 1  # at 0 the series is that of erf(x) - x: coefficient_0 = 2/√π - 1
    return out


_COEFFICIENTS = _coefficients(12)


def erf_of_array(x: Array) -> Array:
    """erf of each number, in x's dtype; within one unit in the last place.

    >>> [float(erf_of_array(np.array(x))) == math.erf(x) for x in (0.5, -1e-300)]
    [True, True]
    """
    xp = module_of(x)
    wide = x.astype(xp.promote_types(x.dtype, xp.float64))
    # erf(-x) = -erf(x), so |x| is enough. (Not abs(), which drops the imaginary part. gradcheck has the slope there.)
    size = xp.where(wide.real < 0, -wide, wide)
    size = xp.where(size.real > _CENTERS[-1], _CENTERS[-1], size)  # from there on, erf is 1 in float64
    # The nearest center, by its number, and the distance from it.
    number = xp.where(size.real >= 0.5, xp.rint(size.real / _STEP), 0).astype(xp.int64)  # 0 where x is nan
    h = size - number * _STEP  # near 0: size itself
    # Horner's scheme, from the last term to the first: ((c_11 t + c_10) t + ...) t + c_0. At 0, t is x².
    near_0 = number == 0
    t = xp.where(near_0, size * size, h)
    coefficients = xp.asarray(_COEFFICIENTS)
    series = coefficients[-1][number]
    for coefficient in coefficients[-2::-1]:
        series = series * t + coefficient[number]
    value = xp.where(near_0, size, xp.asarray(_VALUES)[number])  # erf(c), but x itself near 0
    out = value + series * h  # at 0: x + x Σ_n coefficient_n x^(2n)
    return xp.where(wide.real < 0, -out, out).astype(x.dtype, copy=False)
