"""Compare the Jacobians of jacobian.py and differences.py: is a difference rounding, a kink, or a wrong gradient?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..dtypes import op_name
from .differences import EPSILON, STEP, Probe, Slopes, complex_slope, extrapolated, kinks, probes_of, slopes
from .jacobian import Graph, Rows, Subject, as_matrix, flat, unravel

MOST_SPLITS = 400  # directions through kinks are halved at most this often
DOUT_FACTORS = (1, -1, 2**20, -(2**20), 2**-20, -(2**-20))  # powers of 2, so that no rounding is added
PRECISE = 1e-8  # with a relative error below this, the differences are precise enough


class Kink(NamedTuple):
    """A place where left and right slopes differ, so backward may return anything between them."""

    input: str
    element: tuple[int, ...]
    left: float
    right: float

    def __str__(self) -> str:
        where = f"{self.input}{in_brackets(self.element)}"
        return f"kink at {where}: slope {self.left:.4g} on the left, {self.right:.4g} on the right"


class NotFinite(Exception):
    """A nan or infinity makes the comparison impossible. The message says where."""


@dataclass
class Column:
    """The slopes of all R rows along one probe, from backward and from differences."""

    probe: Probe
    analytic: Array
    numeric: Array
    noise: Array  # a bound of the rounding error in `numeric`
    smooth: Array  # False at a kink, where `numeric` is the allowed slope that is nearest to `analytic`
    slopes: Slopes | None = None  # of all outputs, if they were measured by central differences


class Comparison:
    """Both Jacobians of one function at one point.

    `analytic[k]` is (R, *shape of variable k), from R calls of backward; `columns[k]` has one Column per probe.
    """

    def __init__(self, subject: Subject, step: float | None, atol: float | None, rtol: float):
        self.subject, self.step, self.atol, self.rtol = subject, step, atol, rtol
        self.rng = np.random.default_rng(0)  # its own, so that a check does not disturb other random numbers
        self.graph = Graph(subject)
        subject.base = flat(self.graph.outputs)
        self.rows = Rows(self.graph.outputs, self.rng)
        self.floors: list[Array] = []  # set by _set_floors
        self.kinks: dict[tuple[int, int], Kink] = {}
        self.given_up = 0  # directions that were not checked because of their many kinks
        self._splits = 0

    @property
    def name(self) -> str:
        """The name of the function, or of the op that computed its output if the function has no name."""
        name = getattr(self.subject.fn, "__name__", "<lambda>")
        node = self.graph.outputs[0].grad_fn
        if name not in ("<lambda>", "apply"):
            return name
        return "fn" if node is None else op_name(node.function)

    # --- the two sides ---

    def backward(self) -> None:
        """Run backward for every row."""
        self.analytic = [np.zeros((len(self.rows), *v.value.shape)) for v in self.subject.variables]
        for row in range(len(self.rows)):
            vjps = self.graph.dense_vjp(self.rows.cotangents_of(row))
            for gradients, gradient in zip(self.analytic, vjps, strict=True):
                gradients[row] = gradient
        for k, gradients in enumerate(self.analytic):
            if not np.isfinite(gradients).all():
                self._raise_not_finite(k)

    def central(self) -> None:
        """Measure every probe by central differences, and look closer at those that may be imprecise or at a kink."""
        self._measure(self._central_column)
        for k, columns in enumerate(self.columns):
            self.columns[k] = [settled for column in columns for settled in self._look_closer(k, column)]
        before = self.floors
        self._set_floors()  # a closer look may have found more rounding noise
        self.floors = [np.maximum(*floors) for floors in zip(before, self.floors, strict=True)]

    def complex_step(self) -> None:
        """Measure every probe by a complex step. Raises NotAnalytic if fn does not accept complex numbers."""
        rounding = 8 * EPSILON * np.abs(self.subject.base)  # slopes that cancel, as in x / x, leave rounding errors
        self._measure(lambda k, probe: self._column(k, probe, complex_slope(self.subject, k, probe), rounding))

    def _measure(self, column: Callable[[int, Probe], Column]) -> None:
        self.columns = []
        for k, variable in enumerate(self.subject.variables):
            self.columns.append([column(k, probe) for probe in probes_of(variable.value, self.step, self.rng)])
        self._set_floors()

    def _column(self, k: int, probe: Probe, slope: Array, noise: Array, measured: Slopes | None = None) -> Column:
        known = np.ones(len(self.rows), bool)
        numeric, noise = self.rows.project(slope), self.rows.largest_change(noise)
        return Column(probe, probe.along(self.analytic[k]), numeric, noise, known, measured)

    def _central_column(self, k: int, probe: Probe) -> Column:
        measured = self._slopes(k, probe)
        return self._column(k, probe, measured.central, measured.noise, measured)

    def _slopes(self, k: int, probe: Probe, shrink: float = 1.0) -> Slopes:
        measured = slopes(self.subject, k, probe, shrink)
        if not measured.is_finite:
            is_element = len(probe.places) == 1
            x = self.describe(k, int(probe.places[0])) if is_element else self.subject.variables[k].name
            raise NotFinite(f"fn is not finite right beside {x}, at the edge of its domain; choose inputs inside it")
        return measured

    def describe(self, k: int, i: int) -> str:
        """ "input 0 (x)[1, 2] = 0.5" """
        name, value = self.subject.variables[k].name, self.subject.variables[k].value
        element = unravel(value.shape, i)
        return f"{name}{in_brackets(element)} = {float(value[element]):.6g}"

    def _raise_not_finite(self, k: int) -> None:
        gradients = as_matrix(self.analytic[k])
        # Look for infinity before nan: an infinite slope also turns other rows into nan (0 * inf).
        bad = np.isinf(gradients)
        row, i = (int(n) for n in np.argwhere(bad if bad.any() else np.isnan(gradients))[0])
        step = self.step or STEP * max(1.0, abs(float(self.subject.variables[k].value.flat[i])))
        measured = slopes(self.subject, k, Probe(np.array([i]), np.ones(1), step))
        sentence = f"backward gives {gradients[row, i]} for {self.describe(k, i)}"
        if not measured.is_finite:
            raise NotFinite(f"{sentence}, at the edge of fn's domain; choose inputs inside it")
        numeric = self.rows.project(measured.central)[row]
        advice = "look for 0 * inf, inf - inf or 0 / 0 in backward"
        raise NotFinite(f"{sentence}, where differences give {numeric:.6g}; {advice}")

    # --- the comparison ---

    def _set_floors(self) -> None:
        """Per variable and row, the smallest size for relative errors, so rounding does not count as a large error."""
        self.floors = []
        for k in range(len(self.columns)):
            floors, numeric = np.zeros((len(self.rows), 1)), self.numeric(k)
            for span in self.rows.spans:
                sides = (numeric[span], self.analytic[k][span])
                largest = max(float(np.abs(side).max(initial=0)) for side in sides)
                noise = self._side(k, "noise")[span].max(axis=1, initial=0, keepdims=True)
                floors[span] = np.maximum(1e-8 * largest, noise) if self.atol is None else self.atol
            self.floors.append(floors / self.rtol)

    def errors(self, k: int, analytic: Array, numeric: Array) -> Array:
        """|a - n| / max(|a|, |n|, floor) of variable k, for arrays (R, any number of probes)."""
        size = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), self.floors[k])
        return np.abs(analytic - numeric) / np.where(size > 0, size, 1)

    def errors_of(self, k: int, column: Column) -> Array:
        return self.errors(k, column.analytic[:, None], column.numeric[:, None])[:, 0]

    def wrong_columns(self, k: int) -> list[Column]:
        return [column for column in self.columns[k] if not self._passes(k, column, self.rtol)]

    def _passes(self, k: int, column: Column, rtol: float) -> bool:
        return bool((self.errors_of(k, column) <= rtol).all())

    @property
    def is_wrong(self) -> bool:
        return any(self.wrong_columns(k) for k in range(len(self.columns)))

    def numeric(self, k: int) -> Array:
        """(R, number of probes)."""
        return self._side(k, "numeric")

    def smooth(self, k: int) -> Array:
        return self._side(k, "smooth").astype(bool)

    def _side(self, k: int, side: str) -> Array:
        columns = [getattr(column, side) for column in self.columns[k]]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.rows), 0))

    def is_dense(self, k: int) -> bool:
        """Whether each element of variable k was moved separately."""
        return len(self.columns[k]) == self.subject.variables[k].value.size

    def not_linear(self) -> Iterator[tuple[int, int, float, float, Array]]:
        """(variable, element, its gradient, the right one, dout by rows) where backward is not linear in dout.

        A mixture of rows must give the mixture of their gradients. dout² would be right for each single row, because
        there dout is 1 or 0. Also right there are |dout|, max(dout, 0), and a backward that is wrong only for a large
        or a small dout, so mixtures of both signs and of several sizes are tried.
        """
        mixture = self.rng.standard_normal(len(self.rows))
        for factor in DOUT_FACTORS:
            coefficients = factor * mixture
            for k, mixed in enumerate(self.graph.dense_vjp(self.rows.cotangents(coefficients))):
                expected = np.tensordot(coefficients, self.analytic[k], 1)
                size = max(float(np.abs(expected).max(initial=0)), float(np.abs(mixed).max(initial=0)))
                rounding = self.rtol * float((np.abs(coefficients) * self.floors[k][:, 0]).sum())
                near = (np.abs(mixed - expected) <= 1e-7 * size + rounding) & np.isfinite(mixed)  # nan is not near
                wrong = ~(near | (mixed == expected))
                if wrong.any():
                    i = int(wrong.argmax())
                    yield k, i, float(mixed.flat[i]), float(expected.flat[i]), coefficients

    def predicted(self, k: int, gradients: Array) -> Array:
        """The slopes (R, number of probes) that gradients (R, *shape) of variable k predict."""
        return np.stack([column.probe.along(gradients) for column in self.columns[k]], axis=1)

    # --- a closer look ---

    def _look_closer(self, k: int, column: Column) -> list[Column]:
        """Look closer at a column that is not precise, or that may have a kink.

        Kinks are found from f alone (`kinks`), and a kink allows only slopes between the left and the right one, so it
        never excuses a gradient that is wrong for another reason. A direction through a kink is halved until only the
        element with the kink is left.
        """
        wide, probe = column.slopes, column.probe
        assert wide is not None
        if not wide.may_have_kinks and self._passes(k, column, PRECISE):
            return [column]
        narrow, tiny = self._slopes(k, probe, 1e-1), self._slopes(k, probe, 1e-2)
        rounding = self._rounding_inside(k, slopes(self.subject, k, probe, 150), wide, tiny)
        at = kinks(wide, narrow._replace(noise=np.maximum(narrow.noise, rounding / narrow.step)))
        if at.any() and len(probe.places) > 1:
            self._splits += 1
            if self._splits > MOST_SPLITS:
                self.given_up += 1
                return []
            halves = [self._central_column(k, half) for half in probe.halves()]
            return [settled for half in halves for settled in self._look_closer(k, half)]
        self._take_nearest_estimate(k, column, narrow, tiny)
        fails = self.errors_of(k, column) > self.rtol
        column.noise = np.maximum(column.noise, fails * self.rows.largest_change(rounding / wide.step))
        if at.any():
            self._allow_kinks(k, column, at, tiny)
        return [column]

    def _take_nearest_estimate(self, k: int, column: Column, narrow: Slopes, tiny: Slopes) -> None:
        """Use the estimate that is nearest to the gradient, because the function decides which estimate is best.

        Extrapolation from large steps is the most precise if f is smooth. Small steps avoid a kink or an edge beside x.
        A slope that shrinks with the step is 0, as that of max(x, 0)² at 0, whose second derivative jumps. A wrong
        gradient is not near any of them.
        """
        shrinks = np.abs(tiny.central) < 0.2 * np.abs(narrow.central)
        estimates = [tiny.central, self._slopes(k, column.probe, 1e-3).central, np.where(shrinks, 0, tiny.central)]
        large, half = (slopes(self.subject, k, column.probe, factor) for factor in (300, 150))
        if large.is_finite and half.is_finite:
            estimates.append(extrapolated(large, half))
        for estimate in estimates:
            numeric = self.rows.project(estimate)
            nearer = np.abs(column.analytic - numeric) < np.abs(column.analytic - column.numeric)
            column.numeric = np.where(nearer, numeric, column.numeric)

    def _rounding_inside(self, k: int, large: Slopes, wide: Slopes, tiny: Slopes) -> Array:
        """A bound of each output's rounding error, where it comes from values inside fn larger than the output.

        The smaller the step, the more rounding there is in a slope. Where terms cancel inside fn, as in x - mean(x),
        the slope of a tiny step differs from that of a wide one, and the difference shows how large the error is.

        It shows nothing where fn is saturated. ln(1 + e^-x) is 0 at x = 40, because 1 + e^-40 is 1 in float64, and it
        stays 0 when x moves a little. At x = 33 it stays where it is for a while and then jumps. So an output counts as
        saturated if its slope is 0, or another one for a large step. The bound is then EPSILON times the size of the
        values inside. We cannot see them, and take the inputs and outputs instead.

        e^-x at x = 40 is as small, but its slope is the same for both steps: a wrong gradient of it is found.
        """
        scale = max(float(np.abs(x).max(initial=0)) for x in (self.subject.variables[k].value, self.subject.base))
        rounds = np.abs(tiny.central) * tiny.step <= 1e-12 * scale  # a jump grows like noise, but is larger
        rounding = np.where(rounds, np.abs(tiny.central - wide.central) * tiny.step, 0)
        saturated = np.abs(large.central - wide.central) >= np.abs(wide.central) / 2
        return 16 * np.where(saturated, np.maximum(rounding, EPSILON * max(1, scale)), rounding)

    def _allow_kinks(self, k: int, column: Column, at: Array, tiny: Slopes) -> None:
        """Accept any slope between the left and the right one for outputs that have a kink."""
        i, first = int(column.probe.places[0]), int(at.argmax())
        variable = self.subject.variables[k]
        left, right = float(tiny.left[first]), float(tiny.right[first])
        self.kinks[k, i] = Kink(variable.name, unravel(variable.value.shape, i), left, right)
        middle = self.rows.project(tiny.central)
        either_way = self.rows.largest_change(np.where(at, np.abs(tiny.right - tiny.left) / 2, 0))
        column.smooth = either_way == 0
        allowed = np.clip(column.analytic, middle - either_way, middle + either_way)
        column.numeric = np.where(column.smooth, column.numeric, allowed)

    def is_uncertain(self, k: int) -> bool:
        """Whether the slopes of two step sizes differ by a tenth of the largest error of variable k, or by more."""
        column = self.worst_element(k)
        wide, narrow = (self.rows.project(self._slopes(k, column.probe, shrink).central) for shrink in (1, 0.1))
        return bool(np.abs(wide - narrow).max() > 0.1 * np.abs(column.analytic - column.numeric).max())

    def worst_element(self, k: int) -> Column:
        """The column of the element of variable k with the largest error. A direction is halved until it is found."""

        def difference(column: Column) -> float:
            return float(np.abs(column.analytic - column.numeric).max())

        column = max(self.wrong_columns(k), key=difference)
        while len(column.probe.places) > 1:
            column = max([self._central_column(k, half) for half in column.probe.halves()], key=difference)
        return column


def in_brackets(element: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, element))}]" if element else ""
