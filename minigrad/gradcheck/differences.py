"""The Jacobian column by column, from differences of outputs: move an input a little, and measure how all outputs move.

Nothing here calls backward. comparison.py compares the columns with the rows of jacobian.py.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .jacobian import DENSE_INPUT, DIRECTIONS, Subject, as_matrix

EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)  # 6e-6, where the rounding error (EPSILON / step) is about as large as the O(step²) term
COMPLEX_STEP = 1e-30  # there is no subtraction, so the step may be very small


class Probe(NamedTuple):
    """A direction in which to move a variable: `weights` at flat `places`. One place with weight 1 is one element."""

    places: Array
    weights: Array
    step: float

    def along(self, gradients: Array) -> Array:
        """The slopes (R,) along this direction that `gradients` (R, *shape) predict."""
        return as_matrix(gradients)[:, self.places] @ self.weights

    def halves(self) -> list[Probe]:
        middle = len(self.places) // 2
        return [self._part(slice(middle)), self._part(slice(middle, None))]

    def _part(self, part: slice) -> Probe:
        places, weights = self.places[part], self.weights[part]
        if len(places) > 1:
            return Probe(places, weights, self.step)
        return Probe(places, np.ones(1), self.step * abs(float(weights[0])))


def probes_of(value: Array, step: float | None, rng: np.random.Generator) -> list[Probe]:
    """Each element of a small array, or random directions through a large one. Larger values get larger steps."""
    sizes = np.maximum(1, np.abs(value.ravel())) if step is None else np.ones(value.size)
    step = STEP if step is None else step
    if value.size <= DENSE_INPUT:
        return [Probe(np.array([i]), np.ones(1), step * float(sizes[i])) for i in range(value.size)]
    everywhere = np.arange(value.size)
    weights = rng.choice([-1, 1], (DIRECTIONS, value.size)) * rng.uniform(0.5, 1, (DIRECTIONS, value.size))
    return [Probe(everywhere, w * sizes, step) for w in weights]


class Slopes(NamedTuple):
    """One column of J by differences, for all outputs. `noise` is a bound of the rounding error."""

    left: Array
    central: Array
    right: Array
    noise: Array
    step: float

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.left).all() and np.isfinite(self.right).all())

    @property
    def may_have_kinks(self) -> bool:
        """A first look: whether left and right differ by more than rounding, relative to their size."""
        gap, size = np.abs(self.right - self.left), np.maximum(np.abs(self.left), np.abs(self.right))
        return bool((gap > np.maximum(1e-3 * size, 5 * np.nan_to_num(self.noise))).any())


def slopes(subject: Subject, number: int, probe: Probe, shrink: float = 1.0) -> Slopes:
    """(f(x) - f(x-h)) / h, (f(x+h) - f(x-h)) / 2h and (f(x+h) - f(x)) / h.

    Where these are not finite, h was too large for the domain of fn (ln x near 0), so smaller ones are tried.
    """
    for smaller in (1, 1e-1, 1e-2, 1e-3):
        h = probe.step * shrink * smaller
        before, here, after = moved(subject, number, probe, -h), subject.base, moved(subject, number, probe, h)
        noise = 16 * EPSILON * np.maximum(np.abs(before), np.abs(after)) / h
        left, right = _difference(here, before) / h, _difference(after, here) / h
        result = Slopes(left, _difference(after, before) / (2 * h), right, noise, h)
        if result.is_finite:
            break
    return result


def moved(subject: Subject, number: int, probe: Probe, distance: complex) -> Array:
    """The flat outputs after one variable has been moved by `distance` along `probe`."""
    dtype = np.complex128 if isinstance(distance, complex) else np.float64
    arrays = [np.array(variable.value, dtype) for variable in subject.variables]
    flat = arrays[number].flatten()
    flat[probe.places] += distance * probe.weights
    arrays[number] = flat.reshape(arrays[number].shape)
    return subject.values(arrays)


def _difference(a: Array, b: Array) -> Array:
    return np.where(a == b, 0, a - b)  # an output that stays at -inf (a mask) does not change


def extrapolated(wide: Slopes, narrow: Slopes) -> Array:
    """Central differences of two steps, with the error in step² taken out (Richardson 1911)."""
    return narrow.central + (narrow.central - wide.central) / ((wide.step / narrow.step) ** 2 - 1)


def kinks(wide: Slopes, narrow: Slopes) -> Array:
    """Which outputs have a kink: those whose left and right slopes still differ for a step ten times smaller.

    If f is smooth, the slopes differ by h f'', which is ten times less for the smaller step; rounding makes them differ
    ten times more. A kink a little beside x appears weaker from close by, so a fifth is enough. This uses only f, not
    its gradient.
    """
    gap, narrow_gap = wide.right - wide.left, narrow.right - narrow.left
    ratio = np.divide(narrow_gap, gap, out=np.zeros_like(gap), where=gap != 0)
    return (ratio > 0.2) & (ratio < 2) & (np.abs(narrow_gap) > 5 * np.nan_to_num(narrow.noise))


class NotAnalytic(Exception):
    """The function does not accept complex numbers."""


def complex_slope(subject: Subject, number: int, probe: Probe) -> Array:
    """Im f(x + ih) / h. Because f(x + ih) = f(x) + ih f'(x) + O(h²), it is exact up to rounding. Squire & Trapp 1998.

    This is right only if f is analytic; |x|, for example, is not. Raises NotAnalytic if fn rejects complex numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part was discarded
        try:
            outputs = moved(subject, number, probe, 1j * COMPLEX_STEP)
        except (TypeError, ValueError, np.exceptions.ComplexWarning) as error:
            raise NotAnalytic(str(error)) from error
    return np.imag(outputs) / COMPLEX_STEP
