"""Derivatives without backward: move an input a little, and see how far each output moves.

At x = 1 the slope of x³ is 3. Three estimates of it, from f(x - h), f(x) and f(x + h):

    >>> h = 6e-6
    >>> cube = slopes(lambda distance: np.array([(1 + distance) ** 3]), np.array([1.0]), h)
    >>> cube.left, cube.right  # wrong by about h
    (array([2.999982]), array([3.000018]))
    >>> cube.central  # wrong by about h²
    array([3.])

Below: how to measure slopes; what to make of them where a function is not smooth, or rounding disturbs them; and which
way to move the inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backend import Array

EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)  # 6e-6, where the rounding error (EPSILON / step) is about as large as the O(step²) term
COMPLEX_STEP = 1e-30  # there is no subtraction, so the step may be very small

DENSE_INPUT = 1000  # up to this size each input element is moved separately, beyond it all in random directions
DIRECTIONS = 6


# --- slopes -----------------------------------------------------------------------------------------------------------


class Slopes(NamedTuple):
    """How fast each output changes if an input is moved. `noise` is a bound of the rounding error."""

    left: Array  # (f(x) - f(x-h)) / h
    central: Array  # (f(x+h) - f(x-h)) / 2h
    right: Array  # (f(x+h) - f(x)) / h
    noise: Array
    step: float

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite([self.left, self.right]).all())


def slopes(f: Callable[[float], Array], here: Array, h: float) -> Slopes:
    """The slopes at 0 of f, a function of the distance that an input is moved; here = f(0)."""
    before, after = f(-h), f(h)
    return Slopes(
        left=change(before, here) / h,
        central=change(before, after) / (2 * h),
        right=change(here, after) / h,
        noise=16 * EPSILON * np.maximum(np.abs(before), np.abs(after)) / h,  # 16, here and below: a safety factor
        step=h,
    )


def change(old: Array, new: Array) -> Array:
    return np.where(new == old, 0, new - old)  # an output that stays at -inf (a mask) does not change


def slopes_inside(f: Callable[[float], Array], here: Array, step: float) -> Slopes:
    """The slopes, with a smaller step if this one leaves the domain of f, as in ln x near 0."""
    for factor in (1, 1e-1, 1e-2, 1e-3):
        measured = slopes(f, here, factor * step)
        if measured.is_finite:
            break
    return measured


def complex_slope(f: Callable[[complex], Array]) -> Array:
    """Im f(ih) / h. Because f(ih) = f(0) + ih f'(0) + O(h²), it is exact up to rounding. Squire & Trapp 1998.

    This is right only if f is analytic; |x|, for example, is not.

    >>> float(complex_slope(lambda distance: (1 + distance) ** 3))
    3.0
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part was discarded
        return np.imag(f(1j * COMPLEX_STEP)) / COMPLEX_STEP


# --- where one central difference is not enough -----------------------------------------------------------------------


def may_have_kinks(usual: Slopes) -> bool:
    """A first look: whether left and right slopes differ by more than rounding, relative to their size."""
    gap = np.abs(usual.right - usual.left)
    size = np.maximum(np.abs(usual.left), np.abs(usual.right))
    return bool((gap > np.maximum(1e-3 * size, 5 * np.nan_to_num(usual.noise))).any())


def kinks(usual: Slopes, narrow: Slopes, noise: Array) -> Array:
    """Which outputs have a kink: those whose left and right slopes still differ for a step ten times smaller.

    At 0, the slopes of relu are 0 and 1 for any step. Those of x² differ by 2h, ten times less for the smaller step:

    >>> relu_and_square = lambda x: np.array([max(x, 0), x * x])
    >>> usual, narrow = [slopes(relu_and_square, np.zeros(2), h) for h in (1e-5, 1e-6)]
    >>> usual.right - usual.left, narrow.right - narrow.left
    (array([1.e+00, 2.e-05]), array([1.e+00, 2.e-06]))
    >>> kinks(usual, narrow, narrow.noise)
    array([ True, False])

    The difference for the smaller step, relative to that for the usual one, is about

        0.1    where f is smooth
        1      at a kink, less if it is a little beside x
        10     where rounding makes the slopes differ

    So a ratio between 0.2 and 2 counts. This uses only f, not its gradient.
    """
    gap = usual.right - usual.left
    narrow_gap = narrow.right - narrow.left
    ratio = np.divide(narrow_gap, gap, out=np.zeros_like(gap), where=gap != 0)
    return (ratio > 0.2) & (ratio < 2) & (np.abs(narrow_gap) > 5 * np.nan_to_num(noise))


def cancellation(usual: Slopes, tiny: Slopes, scale: float) -> Array:
    """A bound of each output's rounding error where large terms cancel inside f, as in x - mean(x).

    Here the output is 0, and does not show how large the terms were:

    >>> def sum_of_centered(distance):
    ...     x = np.array([1e4 + distance, 2e4, 4.1e4])
    ...     return np.array([(x - x.mean()).sum()])
    >>> usual, tiny = [slopes(sum_of_centered, sum_of_centered(0), h) for h in (6e-2, 6e-4)]
    >>> np.abs(usual.central) < usual.noise  # the slope should be 0, but is 3e-11
    array([False])

    Rounding makes the slope of a tiny step differ from the usual one, and the difference, times the step, shows how
    large the error is:

    >>> np.abs(usual.central) < cancellation(usual, tiny, scale=4.1e4) / usual.step
    array([ True])

    scale: the largest input or output, which are the only values that we can see.
    """
    # slope * step is how far f moves. Rounding moves it by less than 1e-12 of the scale, a jump by more.
    is_rounding = np.abs(tiny.central) * tiny.step <= 1e-12 * scale
    # The slopes' difference times the step is an error of f itself.
    return np.where(is_rounding, 16 * np.abs(tiny.central - usual.central) * tiny.step, 0)


def saturation(usual: Slopes, large: Slopes, scale: float) -> Array:
    """A bound of each output's rounding error where f is saturated, which differences do not show.

    Near x = 33, ln(1 + e^-x) is about 21 EPSILON. In float64 it falls in jumps of one EPSILON, which are 0.05 apart.
    With a step of 2e-4, the central difference is 0 or, across a jump, -5e-13, but the slope is -5e-15. At x = 40 and
    around it, ln(1 + e^-x) is 0, because 1 + e^-40 is 1 in float64.

    So an output whose slope is 0, or changes by half for a large step, counts as saturated. Its bound is EPSILON times
    the size of the values inside f. These we cannot see; `scale`, the largest input or output, stands for them.

    e^-x at x = 40 is as small, but its slope is the same for both steps: it is not saturated, and a wrong gradient of
    it is found.

    >>> at_40 = lambda x: np.array([np.log(1 + np.exp(-40 - x)), np.exp(-40 - x)])
    >>> usual, large = [slopes(at_40, at_40(0), h) for h in (2e-4, 4e-2)]
    >>> saturation(usual, large, scale=40) > 0
    array([ True, False])
    """
    is_saturated = np.abs(large.central - usual.central) >= np.abs(usual.central) / 2  # also true for 0 and 0
    return np.where(is_saturated, 16 * EPSILON * max(1, scale), 0)


def vanishing(narrow: Slopes, tiny: Slopes) -> Array:
    """The slopes for a tiny step, or 0 where they shrink with the step.

    max(x, 0)² has the slope 0 at 0. Its second derivative jumps there, so a central difference gives h / 2:

    >>> narrow, tiny = [slopes(lambda x: np.array([max(x, 0) ** 2]), np.zeros(1), h) for h in (1e-6, 1e-7)]
    >>> tiny.central, vanishing(narrow, tiny)
    (array([5.e-08]), array([0.]))
    """
    shrinks = np.abs(tiny.central) < 0.2 * np.abs(narrow.central)
    return np.where(shrinks, 0, tiny.central)


def richardson(larger: Slopes, large: Slopes) -> Array:
    """The most precise slopes if f is smooth: from two steps, the error in step² is known and subtracted.

    Richardson 1911.

    >>> larger, large = [slopes(lambda x: np.exp([x]), np.ones(1), h) for h in (2e-3, 1e-3)]
    >>> np.abs(large.central - 1) < 1e-8, np.abs(richardson(larger, large) - 1) < 1e-12
    (array([False]), array([ True]))
    """
    ratio = (larger.step / large.step) ** 2
    return large.central + (large.central - larger.central) / (ratio - 1)


# --- which way to move ------------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """How to move an input: `direction` has its shape. One element is moved alone by a single 1 among zeros."""

    direction: Array
    step: float

    @property
    def places(self) -> Array:
        return np.flatnonzero(self.direction)

    def along(self, gradients: Array) -> Array:
        """The slopes (R,) along this direction that gradients (R, *shape) predict: one row per output."""
        return np.tensordot(gradients, self.direction, self.direction.ndim)


def one_element(x: Array, i: int, eps: float | None) -> Probe:
    """Move element i alone. Larger values get larger steps."""
    direction = np.zeros(x.shape)
    direction.flat[i] = 1
    return Probe(direction, eps or STEP * max(1.0, abs(float(x.flat[i]))))


def probes_of(x: Array, eps: float | None, rng: np.random.Generator) -> list[Probe]:
    """Each element of a small array. For a large one, random directions, which move all elements at once."""
    if x.size <= DENSE_INPUT:
        return [one_element(x, i, eps) for i in range(x.size)]
    signs = rng.choice([-1, 1], (DIRECTIONS, *x.shape))
    lengths = rng.uniform(0.5, 1, (DIRECTIONS, *x.shape))
    sizes = 1 if eps else np.maximum(1, np.abs(x))
    return [Probe(direction, eps or STEP) for direction in signs * lengths * sizes]


def halves(x: Array, probe: Probe, eps: float | None) -> list[Probe]:
    """A direction as the sum of two, each of which moves half of the elements."""
    parts = []
    for places in np.array_split(probe.places, 2):
        if len(places) == 1:
            parts.append(one_element(x, places[0], eps))
        else:
            direction = np.zeros(x.shape)
            direction.flat[places] = probe.direction.flat[places]
            parts.append(Probe(direction, probe.step))
    return parts
